"""Where outcomes go: a JSONL file, or a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.client.lines import Lines
from batchinfer.errors import StartError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from batchinfer.client.mapping import Outcome


def write_jsonl(outcomes: Iterable[Outcome], path: str | os.PathLike[str]) -> Iterator[Outcome]:
    """Add a line for each outcome as it comes, and pass it on; nothing happens until it is asked for.

    A line is there whole or not at all. A file that has a line already, from a run that was cut off, gets no second one
    unless it ends better now. Raises Conflict where another run writes the file, BadRequest where it is no JSONL.
    """
    with Lines(path) as lines:
        # The last line of a file counts: True where it was good.
        known = {(line.get("file"), line.get("sha256")): line.get("error") is None for line in lines.read()}
        for outcome in outcomes:
            name = (outcome.file, outcome.sha256)
            if name not in known or outcome.succeeded > known[name]:
                lines.add(outcome.as_dict())
                known[name] = outcome.succeeded
            yield outcome


def to_dataframe(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """A row a page: file, page, id, status, text, finish_reason, prompt_tokens, completion_tokens, error_code and
    error_message. Raises StartError where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        raise StartError(
            "A DataFrame needs pandas, which is not installed: pip install pandas. write_jsonl works without it.",
            code="cannot_start",
        ) from None
    return pd.DataFrame([row for outcome in outcomes for row in _make_rows(outcome)], columns=list(_COLUMNS))


_COLUMNS = (
    "file", "page", "id", "status", "text", "finish_reason", "prompt_tokens", "completion_tokens", "error_code",
    "error_message",
)  # fmt: skip


def _make_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """A row for each job, and one without a page for what went wrong with the whole file."""
    whole = outcome.error
    if not outcome.jobs or (whole is not None and all(job.error != whole for job in outcome.jobs)):
        error = {"error_code": whole.code, "error_message": whole.message} if whole else {}
        yield {"file": outcome.file, "id": outcome.id, "status": outcome.status, **error}
    for job in outcome.jobs:
        usage, wrong = job.usage or {}, job.error
        yield {
            "file": outcome.file,
            "page": job.page or 1,
            "id": job.id,
            "status": job.status,
            "text": job.result.text if job.result else None,
            "finish_reason": job.result.finish_reason if job.result else None,
            "prompt_tokens": usage.get("prompt_tokens"),
            "completion_tokens": usage.get("completion_tokens"),
            "error_code": wrong.code if wrong else None,
            "error_message": wrong.message if wrong else None,
        }
