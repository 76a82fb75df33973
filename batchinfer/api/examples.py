"""Examples of bodies for the OpenAPI document, by operation, where the body's own schema brings none.

Ids in them stand for things of the reader's own; a test sends each of them with ids that are there.
"""

from __future__ import annotations

from typing import Any

_ID = "0192f1c07d6a7b3e8f00c0ffee00c0de"
_BATCH = {
    "input_file_id": f"file-{_ID}",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "metadata": {"night": "2026-11-21"},
    "batchinfer": {"priority": "low"},
}
_PIPELINE = {"model": "docreader", "prompt": "Read page {{ page }} of {{ filename }}.", "mode": "per_page"}
_RUN = {
    "name": "invoices",
    "source": {"files": [f"file-{_ID}"]},
    "pipeline": _PIPELINE,
    "sinks": [{"type": "jsonl"}],
    "window": "5h",
}
_SCHEDULE = {
    "name": "nightly-invoices",
    "timing": {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin", "window": "5h", "misfire": "run_once"},
    "source": {"files": [f"file-{_ID}"]},
    "pipeline": _PIPELINE,
}
_TEMPLATE = {"name": "invoice", "prompt": "Read page {{ page }} of {{ filename }} as Markdown.", "note": "first"}
EXAMPLES: dict[str, dict[str, Any]] = {
    "create_batch": {"of a file": _BATCH},
    "validate_batch": {"a file": _BATCH},
    "retry_batch": {"what failed": {"only": ["failed"], "merge": True}},
    "create_upload": {"a batch": {"filename": "in.jsonl", "bytes": 2, "purpose": "batch"}},
    "create_webhook_endpoint": {
        "of batches": {
            "name": "nights",
            "url": "https://example.com/hook",
            "event_types": ["batch.completed", "batch.failed"],
        }
    },
    "change_webhook_endpoint": {"another address": {"url": "https://example.com/other"}},
    "rotate_webhook_secret": {"with the former beside it": {"keep_old_secret_active_for_24_hours": True}},
    "test_webhook_endpoint": {"of a batch": {"event_type": "batch.completed"}},
    "reclass_batch": {"before others": {"class": "interactive"}},
    "retry_run": {"of one cause": {"codes": ["engine_error"]}},
    "create_run": {"of files": _RUN},
    "preview_run": {"of files": _RUN},
    "create_schedule": {"each night": _SCHEDULE},
    "apply_schedule": {"each night": {**_SCHEDULE, "name": "nightly-letters"}},
    "change_schedule": {"another time": {"timing": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}}},
    "create_template": {"of pages": _TEMPLATE},
    "apply_template": {"of pages": {**_TEMPLATE, "name": "letter"}},
    "create_template_version": {"shorter": {"prompt": "Read page {{ page }}.", "note": "shorter"}},
    "try_template": {"on a file": {"model": "docreader", "files": [f"file-{_ID}"]}},
    "draw_sample": {"four hundred pages": {"size": 400}},
    "judge_page": {"wrong": {"verdict": "wrong", "note": "The total is that of the page before."}},
    "keep_golden": {"with the right answer": {"answer": "Total: 42.00"}},
    "complete_upload": {"one part": {"part_ids": [f"part_{_ID}"]}},
}


def add_examples(document: dict[str, Any]) -> None:
    """Put the examples into the bodies of JSON that lack one."""
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if content and (found := EXAMPLES.get(operation["operationId"])):
            content.setdefault("examples", {name: {"value": value} for name, value in found.items()})
