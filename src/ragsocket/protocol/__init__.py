"""What is said on the wire: client events, server events, resources, error codes.

Pure: pydantic models and tables, no event loop, no I/O. The models are the only source of
every shape; schemas and the tables in `docs/protocol.md` are generated from them.
"""
