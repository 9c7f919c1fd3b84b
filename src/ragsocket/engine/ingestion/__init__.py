"""From documents to a searchable index revision.

`run_ingestion` does it in a child process; importing this package is cheap. The work itself is
`pipeline.ingest`, which needs NumPy and bm25s, and no LlamaIndex.
"""

from ragsocket.engine.ingestion.job import (
    BuiltInEmbed,
    EmbedSettings,
    Progress,
    Report,
    Upload,
    choose_embedding,
)
from ragsocket.engine.ingestion.process import run_ingestion

__all__ = [
    "BuiltInEmbed",
    "EmbedSettings",
    "Progress",
    "Report",
    "Upload",
    "choose_embedding",
    "run_ingestion",
]
