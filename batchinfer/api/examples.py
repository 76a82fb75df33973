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
