"""The conformance suite: scripts in JSON, and what plays them against any server."""
