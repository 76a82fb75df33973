"""The Python client: HTTP alone, without Flask, SQLAlchemy, Celery or torch.

    from batchinfer.client import Client

    with Client("http://127.0.0.1:8000", "bi_...") as client:
        job = client.wait(client.submit("Read this page.", "page.png"))
        print(job.result.text)

Errors are those of `batchinfer.errors`, built from the service's answers.
"""

from __future__ import annotations

from batchinfer.client.client import Client
from batchinfer.client.mapping import Outcome
from batchinfer.client.nouns import Batch, Document, File, Job, Model, Run, Schedule, Template
from batchinfer.client.sinks import to_dataframe, write_jsonl
from batchinfer.errors import Unreachable

__all__ = [
    "Batch",
    "Client",
    "Document",
    "File",
    "Job",
    "Model",
    "Outcome",
    "Run",
    "Schedule",
    "Template",
    "Unreachable",
    "to_dataframe",
    "write_jsonl",
]
