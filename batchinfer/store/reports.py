"""What a run's report is made of, each in one bounded statement: no page of a run is read that did not fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.store.clean import as_jsonb

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction

_DOCUMENTS = text("""
    SELECT coalesce(CASE WHEN stage = 'skipped' THEN 'unchanged' END, outcome, 'not_read') AS outcome,
           count(*) AS number
    FROM documents WHERE run_id = :id GROUP BY 1 ORDER BY 1
""")
_ERRORS = text("""
    WITH bad AS (
        SELECT id, filename, error, error ->> 'code' AS code,
               row_number() OVER (PARTITION BY error ->> 'code' ORDER BY number) AS place,
               count(*) OVER (PARTITION BY error ->> 'code') AS found
        FROM documents WHERE run_id = :id AND error IS NOT NULL)
    SELECT code, found AS number, id AS document_id, filename AS name, error ->> 'message' AS message
    FROM bad WHERE place <= :examples ORDER BY found DESC, code, place LIMIT :limit
""")
_FAILURES = text("""
    WITH bad AS (
        SELECT id, coalesce(error ->> 'code', final_state) AS code,
               row_number() OVER (PARTITION BY coalesce(error ->> 'code', final_state) ORDER BY line) AS place,
               count(*) OVER (PARTITION BY coalesce(error ->> 'code', final_state)) AS found
        FROM jobs WHERE batch_id = :id AND line > :after AND line <= :upto AND final_state IS NOT NULL
          AND final_state <> 'succeeded' AND deleted_at IS NULL)
    SELECT b.code, b.found AS number, j.id AS job_id, j.document_id, d.filename AS name, j.page,
           j.error ->> 'message' AS message, j.prompt #> '{images,0,thumbnail}' AS thumbnail
    FROM bad b JOIN jobs j ON j.id = b.id LEFT JOIN documents d ON d.id = j.document_id
    WHERE b.place <= :examples ORDER BY b.found DESC, b.code, b.place LIMIT :limit
""")
_SLOWEST = text("""
    SELECT id AS document_id, filename AS name, pages, extract(epoch FROM closed_at - started_at) AS seconds
    FROM documents WHERE run_id = :id AND closed_at IS NOT NULL AND started_at IS NOT NULL
    ORDER BY closed_at - started_at DESC, id LIMIT :limit
""")
_FILES = text("""
    SELECT CAST(f ->> 'sink' AS int) AS sink, f ->> 'type' AS type, count(*) AS files,
           sum(CAST(f ->> 'bytes' AS bigint)) AS bytes, sum(CAST(f ->> 'pages' AS bigint)) AS pages,
           sum(CAST(f ->> 'documents' AS bigint)) AS documents
    FROM shards s, jsonb_array_elements(s.files) AS f WHERE s.run_id = :id GROUP BY 1, 2 ORDER BY 1
""")
_END = text("""
    UPDATE runs SET finished_at = now(), files = CAST(:files AS jsonb), cause = coalesce(CAST(:cause AS jsonb), cause)
    WHERE id = :id
""")
_REOPEN = text("""
    WITH opened AS (
        UPDATE batches SET status = 'finalizing', failed_at = NULL, errors = '[]'
        WHERE id = :id AND status = 'failed' RETURNING id, tenant_id, class)
    UPDATE runs SET finished_at = NULL, cause = NULL FROM opened o WHERE runs.id = o.id RETURNING runs.id
""")


def count_documents(tx: Transaction, run_id: UUID) -> dict[str, int]:
    """Documents of a run by how they ended: their outcome, `unchanged`, or `not_read`."""
    return {row.outcome: row.number for row in tx.execute(_DOCUMENTS, {"id": run_id})}


def list_failures(
    tx: Transaction, run_id: UUID, *, after: int, upto: int, limit: int, examples: int
) -> list[dict[str, Any]]:
    """Why pages failed, of the lines behind `after` up to `upto`, the most frequent cause first: a row an example, each
    with the count of its cause."""
    values = {"id": run_id, "after": after, "upto": upto, "limit": limit, "examples": examples}
    return [dict(row._mapping) for row in tx.execute(_FAILURES, values)]


def list_document_errors(tx: Transaction, run_id: UUID, *, limit: int, examples: int) -> list[dict[str, Any]]:
    """The same for documents as a whole, of all of the run."""
    values = {"id": run_id, "limit": limit, "examples": examples}
    return [dict(row._mapping) for row in tx.execute(_ERRORS, values)]


def list_slowest(tx: Transaction, run_id: UUID, *, limit: int) -> list[dict[str, Any]]:
    """Documents that took the longest from the begin of their rendering to their end."""
    rows = tx.execute(_SLOWEST, {"id": run_id, "limit": limit})
    return [{**row._mapping, "seconds": float(row.seconds)} for row in rows]


def count_files(tx: Transaction, run_id: UUID) -> list[dict[str, Any]]:
    """What was written so far, by sink."""
    return [{name: value if name == "type" else int(value) for name, value in row._mapping.items()}
            for row in tx.execute(_FILES, {"id": run_id})]  # fmt: skip


def end_run(tx: Transaction, run_id: UUID, files: dict[str, str], cause: dict[str, Any] | None) -> None:
    """A run is over: what was written beside its shards, and where it failed why. The caller holds its batch."""
    tx.execute(_END, {"id": run_id, "files": as_jsonb(files), "cause": as_jsonb(cause) if cause else None})


def reopen_run(tx: Transaction, run_id: UUID) -> bool:
    """A run that failed is to be ended once more. False: it has not failed."""
    return tx.execute(_REOPEN, {"id": run_id}).first() is not None
