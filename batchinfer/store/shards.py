"""Shards: ranges of a run's closed documents, and what was written of them. What is to be written is read here, some
rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.confidence import show_confidence
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.domain.runs import find_page_outcome
from batchinfer.domain.shards import ShardDocument, ShardPage
from batchinfer.domain.sinks import find_documents_per_shard, parse_sinks
from batchinfer.store.claims import SEAL
from batchinfer.store.clean import as_jsonb
from batchinfer.store.columns import SCHEMA_VERSION
from batchinfer.store.queue import Entry, enqueue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Shard:
    """Closed documents `first` to `last` of a run; `files` once they are written."""

    id: UUID
    run_id: UUID
    tenant_id: UUID
    number: int
    first: int
    last: int
    files: list[dict[str, Any]]
    sealed: bool


_STANDS = text("""
    SELECT r.tenant_id, r.closed, r.spec -> 'sinks' AS sinks, b.class AS job_class,
           coalesce((SELECT max(last) FROM shards s WHERE s.run_id = r.id), 0) AS covered
    FROM runs r JOIN batches b ON b.id = r.id WHERE r.id = :id
""")
_INSERT = text("""
    WITH made AS (
        INSERT INTO shards (id, tenant_id, run_id, number, first, last, schema_version)
        SELECT :id, tenant_id, id, shards + 1, :first, :last, :version FROM runs WHERE id = :run_id
        RETURNING run_id)
    UPDATE runs r SET shards = r.shards + 1 FROM made m WHERE r.id = m.run_id
""")
_REST = text("""
    WITH rest AS (
        SELECT id, :covered + row_number() OVER (ORDER BY number) AS closed_number FROM (
            SELECT id, number FROM documents
            WHERE run_id = :run_id AND number > :after AND closed_number IS NULL AND stage IN ('skipped', 'closed')
            ORDER BY number LIMIT :limit) AS unnumbered)
    UPDATE documents d SET closed_number = r.closed_number FROM rest r WHERE d.id = r.id RETURNING d.number
""")


def queue_shards(tx: Transaction, run_id: UUID, *, all_of_it: bool = False) -> list[UUID]:
    """Queue the writing of those documents that fill a shard, or (`all_of_it`) of all that are closed. The caller holds
    the run or its batch. Answers the ids of the shards."""
    row = tx.execute(_STANDS, {"id": run_id}).first()
    if row is None:
        return []
    size, covered = find_documents_per_shard(parse_sinks(row.sinks)), row.covered
    made: list[UUID] = []
    while row.closed >= covered + size or (all_of_it and row.closed > covered):
        last = min(covered + size, row.closed)
        made.append(_insert(tx, run_id, row, covered + 1, last))
        covered = last
    return made


def queue_rest(tx: Transaction, run_id: UUID, *, after: int) -> tuple[list[UUID], int | None]:
    """The same for one shard of documents that were never closed, as they are unchanged since an earlier run: they are
    numbered behind the closed ones. Begins behind document `after`; answers where it goes on, None: there are no more.
    """
    row = tx.execute(_STANDS, {"id": run_id}).first()
    if row is None:
        return [], None
    size, covered = find_documents_per_shard(parse_sinks(row.sinks)), max(row.covered, row.closed)
    values = {"run_id": run_id, "after": after, "covered": covered, "limit": size}
    numbers = list(tx.execute(_REST, values).scalars())
    if not numbers:
        return [], None
    return [_insert(tx, run_id, row, covered + 1, covered + len(numbers))], max(numbers)


def _insert(tx: Transaction, run_id: UUID, row: Row[Any], first: int, last: int) -> UUID:
    shard_id = new_id()
    values = {"id": shard_id, "run_id": run_id, "first": first, "last": last, "version": SCHEMA_VERSION}
    tx.execute(_INSERT, values)
    enqueue(tx, [Entry(shard_id, SEAL, row.tenant_id, SEAL, JobClass(row.job_class))])
    return shard_id


_COLUMNS = "s.id, s.run_id, s.tenant_id, s.number, s.first, s.last, s.files, s.sealed_at IS NOT NULL AS sealed"
_FIND = text(f"SELECT {_COLUMNS} FROM shards s WHERE s.id = :id")  # noqa: S608 - made of constants
_HOLD = text(f"""
    SELECT {_COLUMNS} FROM shards s JOIN queue q ON q.id = s.id
    WHERE q.id = :id AND q.kind = '{SEAL}' AND q.state = 'running' AND q.attempt = :attempt
      AND q.lease_id IS NOT DISTINCT FROM CAST(:lease_id AS uuid)
    FOR UPDATE OF q, s
""")  # noqa: S608 - made of constants
_LIST = text(f"""
    SELECT {_COLUMNS} FROM shards s WHERE s.run_id = :run_id AND s.number > :after ORDER BY s.number LIMIT :limit
""")  # noqa: S608 - made of constants
_SEAL = text("UPDATE shards SET files = :files, sealed_at = now() WHERE id = :id AND sealed_at IS NULL")
_LEFT = text("""
    SELECT count(*) FILTER (WHERE q.id IS NOT NULL) AS under_way, count(*) FILTER (WHERE q.id IS NULL) AS given_up,
           min(s.number) FILTER (WHERE q.id IS NULL) AS number
    FROM shards s LEFT JOIN queue q ON q.id = s.id WHERE s.run_id = :run_id AND s.sealed_at IS NULL
""")
_LAST_ERROR = text("""
    SELECT a.error FROM shards s JOIN attempts a ON a.job_id = s.id
    WHERE s.run_id = :run_id AND s.number = :number AND a.error IS NOT NULL ORDER BY a.number DESC LIMIT 1
""")


@dataclass(frozen=True)
class Left:
    """Shards that are not written: those that wait or are being written, and those that were given up, with the error
    of the first of these."""

    under_way: int
    given_up: int
    error: dict[str, Any] | None = None


def find_shard(tx: Transaction, shard_id: UUID) -> Shard | None:
    """A shard, whosever, or None."""
    row = tx.execute(_FIND, {"id": shard_id}).first()
    return Shard(**row._mapping) if row else None


def hold_shard(tx: Transaction, *, lease_id: UUID, claim: Claim) -> Shard | None:
    """Lock a shard that this lease writes, until the transaction ends. None when the fence refused."""
    row = tx.execute(_HOLD, {"id": claim.id, "attempt": claim.attempt, "lease_id": lease_id}).first()
    return Shard(**row._mapping) if row else None


def list_shards(tx: Transaction, run_id: UUID, *, after: int = 0, limit: int = 100) -> list[Shard]:
    """A run's shards in order, behind number `after`."""
    values = {"run_id": run_id, "after": after, "limit": limit}
    return [Shard(**row._mapping) for row in tx.execute(_LIST, values)]


def seal_shard(tx: Transaction, shard_id: UUID, files: list[dict[str, Any]]) -> None:
    """It is written. The caller holds it."""
    tx.execute(_SEAL, {"id": shard_id, "files": as_jsonb(files)})


def count_left(tx: Transaction, run_id: UUID) -> Left:
    """What of a run is not written yet."""
    row = tx.execute(_LEFT, {"run_id": run_id}).one()
    error = None
    if row.given_up:
        found = tx.execute(_LAST_ERROR, {"run_id": run_id, "number": row.number}).first()
        error = found.error if found else None
    return Left(row.under_way, row.given_up, error)


_AGAIN = text(f"""
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, class, rank, attempt, released, schema_version)
    SELECT s.id, '{SEAL}', s.id, s.tenant_id, '{SEAL}', b.class,
           array_position(CAST(:classes AS text[]), b.class) - 1, a.last, a.last,
           greatest(s.schema_version, :version)
    FROM shards s JOIN batches b ON b.id = s.run_id,
         LATERAL (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE job_id = s.id) AS a
    WHERE s.run_id = :run_id AND s.sealed_at IS NULL
    ON CONFLICT (id) DO UPDATE SET available_at = now() WHERE queue.state = 'queued'
    RETURNING id
""")  # noqa: S608 - made of constants


def seal_again(tx: Transaction, run_id: UUID) -> list[UUID]:
    """Queue what is not written once more; what waits is tried now. Answers the ids."""
    classes = [job_class.value for job_class in JobClass]
    return list(tx.execute(_AGAIN, {"run_id": run_id, "classes": classes, "version": SCHEMA_VERSION}).scalars())


_DOCUMENTS = text("""
    SELECT d.id, coalesce(d.same_as, d.id) AS source_id, d.closed_number, d.number,
           coalesce(d.filename, d.uri, 'document') AS name, d.uri, coalesce(d.blob, s.blob) AS sha256,
           coalesce(d.pages, s.pages) AS pages, coalesce(d.outcome, s.outcome) AS outcome, d.error
    FROM documents d LEFT JOIN documents s ON s.id = d.same_as
    WHERE d.run_id = :run_id AND d.closed_number > :after AND d.closed_number <= :last
    ORDER BY d.closed_number LIMIT :limit
""")
_PAGES = text("""
    SELECT w.place, j.id, j.page, j.final_state, j.attempts, j.error, coalesce(j.page, 2147483647) AS page_key,
           r.text, r.model, r.revision, r.engine, r.versions, r.usage, r.logprobs
    FROM unnest(CAST(:sources AS uuid[])) WITH ORDINALITY AS w (source_id, place)
    JOIN jobs j ON j.document_id = w.source_id AND j.deleted_at IS NULL
    LEFT JOIN results r ON r.job_id = j.id
    WHERE (w.place, coalesce(j.page, 2147483647), j.id) > (:place, :page_key, CAST(:job_id AS uuid))
    ORDER BY w.place, page_key, j.id LIMIT :limit
""")
_TWINS = text("""
    SELECT DISTINCT d.id FROM documents d
    WHERE d.run_id = :run_id AND d.id = ANY (CAST(:ids AS uuid[])) AND EXISTS (
        SELECT 1 FROM documents e WHERE e.run_id = :run_id AND e.filename = d.filename AND e.number < d.number)
""")


def list_documents(tx: Transaction, shard: Shard, *, after: int, limit: int) -> list[ShardDocument]:
    """Documents of a shard in the order of their closing, behind closed number `after`."""
    values = {"run_id": shard.run_id, "after": after, "last": shard.last, "limit": limit}
    return [ShardDocument(**row._mapping) for row in tx.execute(_DOCUMENTS, values)]


#: Where the pages of some documents begin: (place of the document from 1, page, job).
Cursor = tuple[int, int, str]
BEFORE_ALL: Cursor = (0, 0, "00000000-0000-0000-0000-000000000000")


def list_pages(
    tx: Transaction, sources: Sequence[UUID], *, after: Cursor, limit: int
) -> list[tuple[int, Cursor, ShardPage]]:
    """Pages of documents, these one after another and each in order; the answer of a whole document is its last. With
    each, the place of its document in `sources`, from 0, and where the list goes on behind it."""
    values = {"sources": list(sources), "place": after[0], "page_key": after[1], "job_id": after[2], "limit": limit}
    rows = tx.execute(_PAGES, values)
    return [(row.place - 1, (row.place, row.page_key, str(row.id)), _as_page(row)) for row in rows]


def find_twins(tx: Transaction, run_id: UUID, ids: Sequence[UUID]) -> frozenset[UUID]:
    """Those of these documents whose name an earlier document of the run has."""
    return frozenset(tx.execute(_TWINS, {"run_id": run_id, "ids": list(ids)}).scalars())


def _as_page(row: Row[Any]) -> ShardPage:
    succeeded = row.final_state == JobState.SUCCEEDED
    outcome = find_page_outcome(succeeded=succeeded, engine=row.engine)
    error = None
    if not succeeded:
        state = row.final_state or "unfinished"
        error = {name: (row.error or {}).get(name) for name in ("code", "message")}
        error = {"code": error["code"] or state, "message": error["message"] or f"The page ended as {state}."}
    return ShardPage(
        page=row.page, outcome=outcome, job_id=row.id, text=row.text if succeeded else None, model=row.model,
        revision=row.revision, engine=row.engine, versions=row.versions, usage=row.usage or {}, attempts=row.attempts,
        error=error,
        confidence=show_confidence(row.text, row.logprobs) if succeeded else None,
    )  # fmt: skip


_WAIT = text("""
    UPDATE queue SET available_at = now() + make_interval(secs => CAST(:wait_s AS float))
    WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'queued'
""")
_NOTE = text("""
    UPDATE runs SET cause = :cause WHERE id = :id AND finished_at IS NULL
      AND (cause IS NULL OR cause ->> 'code' LIKE 'sink\\_%')
""")
_FORGIVE = text("UPDATE runs SET cause = NULL WHERE id = :id AND cause ->> 'code' LIKE 'sink\\_%'")


def wait(tx: Transaction, ids: Sequence[UUID], wait_s: float) -> None:
    """Let waiting rows of the queue be due so many seconds from now."""
    tx.execute(_WAIT, {"ids": list(ids), "wait_s": wait_s})


def note_trouble(tx: Transaction, run_id: UUID, cause: dict[str, Any] | None) -> None:
    """Say on a run what is the matter with its sinks, or (None) that nothing is any more; other causes stay."""
    if cause is None:
        tx.execute(_FORGIVE, {"id": run_id})
    else:
        tx.execute(_NOTE, {"id": run_id, "cause": as_jsonb(cause)})
