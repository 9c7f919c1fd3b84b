"""How a question is answered: engine protocol, retrieval, prompts, token streams, ingestion.

Knows neither sockets nor the events of the wire. Only this package imports `llama_index`,
and `engine.base` does not: importing it is cheap and safe anywhere.
"""
