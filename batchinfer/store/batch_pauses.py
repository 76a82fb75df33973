"""A batch that is paused, and its class: its rows are changed in pieces, by line, so that no lock is held for long.

A paused row is in the state `paused`, out of the index that claims read, so that a paused batch of any size costs them
nothing. The batch's `paused_at` is set first: what is read or comes back after that is paused where it is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.store.returns import READY

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.jobs import JobClass
    from batchinfer.store.session import Transaction

#: Lines looked at in one piece.
PIECE = 5000

_MARK = text("""
    UPDATE batches SET paused_at = CASE WHEN :paused THEN now() END
    WHERE id = :id AND tenant_id = :tenant_id AND (paused_at IS NULL) = :paused RETURNING id
""")
# One that another transaction holds is being claimed, which came first, or ended, or is seen by `mend`. Not waited for:
# whoever ends a row goes on to the batch's own.
_PIECE = """
    WITH looked AS (
        SELECT id, line FROM jobs WHERE batch_id = :id AND tenant_id = :tenant_id AND line > :after
        ORDER BY line LIMIT :piece),
    held AS (
        SELECT q.id FROM looked l JOIN queue q ON q.id = l.id WHERE {which} ORDER BY q.id FOR UPDATE OF q SKIP LOCKED),
    changed AS (UPDATE queue q SET {change} FROM held h WHERE q.id = h.id RETURNING q.id){more}
    SELECT (SELECT max(line) FROM looked) AS last, (SELECT count(*) FROM looked) AS looked
"""
_HOLD_BACK = text(_PIECE.format(which="q.state = 'queued'", change="state = 'paused'", more=""))
_LET_GO = text(_PIECE.format(which="q.state = 'paused'", change="state = 'queued'", more=""))
_RECLASS = text(
    _PIECE.format(
        which="q.class <> :class",
        change="class = :class, rank = :rank",
        more=", of_jobs AS (UPDATE jobs j SET class = :class FROM changed c WHERE j.id = c.id)",
    )
)
_CLASS = text("UPDATE batches SET class = :class WHERE id = :id AND tenant_id = :tenant_id")
_MEND = text(f"""
    WITH wrong AS (
        SELECT q.id FROM queue q WHERE q.state = 'paused' AND ({READY}) <> 'paused'
        UNION ALL
        SELECT q.id FROM batches b JOIN jobs j ON j.batch_id = b.id JOIN queue q ON q.id = j.id
        WHERE b.paused_at IS NOT NULL AND b.status IN ('validating', 'in_progress') AND q.state = 'queued'),
    held AS (
        SELECT q.id FROM queue q WHERE q.id IN (SELECT id FROM wrong LIMIT :rows) AND q.state IN ('queued', 'paused')
        ORDER BY q.id FOR UPDATE OF q SKIP LOCKED)
    UPDATE queue q SET state = {READY} FROM held h WHERE q.id = h.id
""")  # noqa: S608 - made of constants


def mark_paused(tx: Transaction, tenant_id: UUID, batch_id: UUID, *, paused: bool) -> bool:
    """Note that a batch is paused, or no longer. False: so it was, or there is no such batch."""
    return tx.execute(_MARK, {"id": batch_id, "tenant_id": tenant_id, "paused": paused}).first() is not None


def move_rows(tx: Transaction, tenant_id: UUID, batch_id: UUID, *, paused: bool, after: int = 0) -> int | None:
    """Keep the next piece of a batch's waiting rows back, or let them go. Answers after which line to go on; None at
    the end."""
    values = {"id": batch_id, "tenant_id": tenant_id, "after": after, "piece": PIECE}
    row = tx.execute(_HOLD_BACK if paused else _LET_GO, values).one()
    return row.last if row.looked == PIECE else None


def set_class(tx: Transaction, tenant_id: UUID, batch_id: UUID, job_class: JobClass) -> None:
    """The class of the lines that are read from now on."""
    tx.execute(_CLASS, {"id": batch_id, "tenant_id": tenant_id, "class": job_class.value})


def reclass_rows(
    tx: Transaction, tenant_id: UUID, batch_id: UUID, job_class: JobClass, *, after: int = 0
) -> int | None:
    """Give the next piece of a batch's live rows another class. Answers after which line to go on; None at the end."""
    values = {"id": batch_id, "tenant_id": tenant_id, "after": after, "piece": PIECE}
    row = tx.execute(_RECLASS, values | {"class": job_class.value, "rank": job_class.rank}).one()
    return row.last if row.looked == PIECE else None


def mend_rows(tx: Transaction, *, rows: int = 10_000) -> int:
    """Put right what came back at the very moment of a pause or resume. Answers how many rows, at most `rows`."""
    return tx.execute(_MEND, {"rows": rows}).rowcount
