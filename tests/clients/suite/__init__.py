"""The conformance suite for clients: a scripted server plays the other side. See README.md."""
