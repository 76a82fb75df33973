"""What a run's report says, put together from counts: no page that did not fail is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import DOCUMENT, JOB, RUN, show_id
from batchinfer.domain.runs import RunState
from batchinfer.observe.clock import to_unix

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from batchinfer.domain.runs import Run

MAX_CAUSES, MAX_EXAMPLES, MAX_SLOWEST = 20, 3, 10
#: Of one picture in the page.
MAX_THUMBNAIL_BYTES = 96 * 1024
_MAX_MESSAGE_CHARS = 400
_OUTCOMES = ("completed", "completed_with_errors", "failed", "cancelled", "expired", "unchanged", "not_read")


@dataclass(frozen=True)
class Facts:
    """What was counted. Failures are rows of examples, each with the number of its cause."""

    documents: dict[str, int]
    failures: list[dict[str, Any]]
    document_errors: list[dict[str, Any]]
    slowest: list[dict[str, Any]]
    written: list[dict[str, Any]]
    accuracy: dict[str, Any] | None
    now: datetime
    ended_as: str | None = None
    cause: dict[str, Any] | None = None


def show_report(run: Run, facts: Facts) -> dict[str, Any]:
    """The report as JSON. Times are seconds since 1970."""
    batch, resolved = run.batch, run.spec.get("resolved") or {}
    counts = vars(batch.counts) if batch else {}
    ended = run.finished_at or (facts.now if facts.ended_as else None)
    begun = batch.created_at if batch else None
    seconds = max(((ended or facts.now) - begun).total_seconds(), 0.001) if begun else 0.0
    done = counts.get("completed", 0) + counts.get("failed", 0)
    return {
        "object": "run.report",
        "run_id": show_id(RUN, run.id),
        "name": run.name,
        "state": _find_state(run, facts),
        "cause": facts.cause,
        "as_of": to_unix(facts.now),
        "begun_at": to_unix(begun),
        "finished_at": to_unix(ended),
        "seconds": round(seconds, 3),
        "model": run.spec.get("pipeline", {}).get("model"),
        "revision": resolved.get("revision"),
        "template": resolved.get("template"),
        "recipe": run.recipe,
        "documents": {
            "total": run.counts.documents, "bytes": run.counts.listed_bytes,
            **{name: facts.documents.get(name, 0) for name in _OUTCOMES},
            **{name: number for name, number in facts.documents.items() if name not in _OUTCOMES},
        },
        "pages": {
            "total": counts.get("total", 0),
            "ok": counts.get("completed", 0) - run.counts.pages_blank - run.counts.pages_fallback,
            "fallback": run.counts.pages_fallback,
            "blank": run.counts.pages_blank,
            "failed": counts.get("failed", 0),
            "expired": counts.get("expired", 0),
            "cancelled": counts.get("cancelled", 0),
            "cached": batch.cache_hits if batch else 0,
        },
        "pages_per_second": round(done / seconds, 3) if seconds else None,
        "tokens": {
            "input": (batch.usage or {}).get("input_tokens", 0) if batch else 0,
            "output": (batch.usage or {}).get("output_tokens", 0) if batch else 0,
        },
        "failures": [*_show_causes(facts.document_errors, "documents"), *_show_causes(facts.failures, "pages")],
        "slowest": [
            {
                "document_id": show_id(DOCUMENT, row["document_id"]), "name": row["name"], "pages": row["pages"],
                "seconds": round(row["seconds"], 3),
            }
            for row in facts.slowest
        ],
        "skipped": {
            "unchanged": facts.documents.get("unchanged", 0),
            "why": "Nothing has changed since an earlier run with the same recipe read them.",
        },
        "written": facts.written,
        "accuracy": facts.accuracy,
    }  # fmt: skip


def _find_state(run: Run, facts: Facts) -> str:
    """What the run is, or is about to be."""
    if facts.ended_as != "completed":
        return facts.ended_as or run.state.value
    bad = (run.batch and run.batch.counts.failed) or run.counts.failed or run.counts.with_errors
    return RunState.COMPLETED_WITH_ERRORS if bad else RunState.COMPLETED


@dataclass
class Cause:
    """A cause of failures over several parts of a run: how many, and the first examples."""

    number: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def add_causes(causes: dict[str, Cause], rows: Iterable[dict[str, Any]]) -> None:
    """Add the examples of one part, each with the number of its cause in that part."""
    counted = set()
    for row in rows:
        cause = causes.setdefault(row["code"], Cause())
        if row["code"] not in counted:
            counted.add(row["code"])
            cause.number += row["number"]
        if len(cause.rows) < MAX_EXAMPLES:
            cause.rows.append(row)


def list_causes(causes: dict[str, Cause]) -> list[dict[str, Any]]:
    """Examples with the whole number of their cause, the most frequent first."""
    ordered = sorted(causes.items(), key=lambda item: (-item[1].number, item[0]))[:MAX_CAUSES]
    return [{**row, "number": cause.number} for _, cause in ordered for row in cause.rows]


def _show_causes(rows: Iterable[dict[str, Any]], of: str) -> list[dict[str, Any]]:
    causes: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["code"] not in causes and len(causes) >= MAX_CAUSES:
            continue
        cause = causes.setdefault(
            row["code"], {"code": row["code"] or "failed", "of": of, "count": row["number"], "examples": []}
        )
        cause["examples"].append(_show_example(row))
    return list(causes.values())


def _show_example(row: dict[str, Any]) -> dict[str, Any]:
    job_id, document_id = row.get("job_id"), row.get("document_id")
    return {
        "document_id": show_id(DOCUMENT, document_id) if document_id else None,
        "name": row["name"],
        "page": row.get("page"),
        "job_id": show_id(JOB, job_id) if job_id else None,
        "message": (row["message"] or "")[:_MAX_MESSAGE_CHARS],
        "thumbnail": (row.get("thumbnail") or {}).get("sha256"),
    }


def list_thumbnails(report: dict[str, Any]) -> list[str]:
    """The pictures that a report's examples name, each once."""
    names = [one.get("thumbnail") for cause in report["failures"] for one in cause["examples"]]
    return list(dict.fromkeys(name for name in names if name))
