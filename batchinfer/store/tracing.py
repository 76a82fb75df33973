"""Jobs that have ended in a trace that somebody keeps: what their spans are made of; and the traces of what has none of
its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.domain.spans import EndedJob
from batchinfer.observe.traces import decode_trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.session import Transaction

# The last bit of the flags, at the end of `traceparent`, says whether the trace is kept.
_LOAD = text("""
    SELECT j.id, j.model, j.class AS job_class, j.final_state AS state, j.created_at, j.finished_at, j.trace,
           j.batch_id, j.document_id, j.page, j.error ->> 'code' AS code, r.usage, r.engine, r.revision, r.finish_reason
    FROM jobs j LEFT JOIN results r ON r.job_id = j.id AND r.job_id = ANY (CAST(:ids AS uuid[]))
    WHERE j.id = ANY (CAST(:ids AS uuid[])) AND j.final_state IS NOT NULL AND j.finished_at IS NOT NULL
      AND j.deleted_at IS NULL AND substr(j.trace, 55, 1) IN ('1', '3')
""")

# A document of a run has the trace of its batch, and a shard that of its run, which is the same.
_TRACES = text("""
    SELECT d.id, coalesce(d.trace, b.trace) AS trace FROM documents d LEFT JOIN batches b ON b.id = d.run_id
    WHERE d.id = ANY (CAST(:documents AS uuid[]))
    UNION ALL
    SELECT s.id, b.trace FROM shards s JOIN batches b ON b.id = s.run_id WHERE s.id = ANY (CAST(:shards AS uuid[]))
""")


def load_ended(tx: Transaction, ids: Sequence[UUID]) -> list[EndedJob]:
    """Those of these jobs that have ended and whose trace is kept."""
    found = []
    for row in tx.execute(_LOAD, {"ids": list(ids)}):
        values = dict(row._mapping)
        trace = decode_trace(values.pop("trace"))
        if trace is not None:
            found.append(EndedJob(**values, trace=trace))
    return found


def load_traces(tx: Transaction, *, documents: Sequence[UUID], shards: Sequence[UUID]) -> dict[UUID, str | None]:
    """The traces of documents that are closed and of shards that are written, as `Trace.encode` made them. Asks only
    where there is something to ask for."""
    if not documents and not shards:
        return {}
    found = tx.execute(_TRACES, {"documents": list(documents), "shards": list(shards)})
    return {row.id: row.trace for row in found}
