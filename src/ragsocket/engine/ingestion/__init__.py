"""From a folder of documents to a searchable index revision.

`run_ingestion` does it in a child process; importing this package is cheap. The work itself is
`pipeline.ingest`, whose import brings LlamaIndex along.
"""

from ragsocket.engine.ingestion.job import EmbedSettings, Progress, Report
from ragsocket.engine.ingestion.process import run_ingestion

__all__ = ["EmbedSettings", "Progress", "Report", "run_ingestion"]
