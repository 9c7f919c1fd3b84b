"""Language models that run on this machine: which there are, how they get here, how they run.

Importable without the native code that runs them (`xllamacpp`, the extra `local`), and without
LlamaIndex.
"""
