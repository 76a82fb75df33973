"""How a run's documents and pages stand, counted in the transaction that ends them.

Documents are changed before batches, and runs after them, by everybody in this order. The transaction that ends the
last job of a document also queues its closing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import RUN, show_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.stopping import add_group, has_to_stop
from batchinfer.domain.webhooks import RUN_STOPPED
from batchinfer.store.claims import CLOSE
from batchinfer.store.clean import as_jsonb
from batchinfer.store.columns import SCHEMA_VERSION
from batchinfer.store.events import Event, record
from batchinfer.store.telling import Happening, tell

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from batchinfer.store.session import Transaction

#: What a job that ended adds to its document.
COUNTERS = ("ended", "failed", "blank", "fallback")
_ORDER = text("SELECT id FROM documents WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")
_COUNT = text(f"""
    WITH added AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), {", ".join(f"CAST(:{name} AS int[])" for name in COUNTERS)})
        AS a (id, {", ".join(COUNTERS)})),
    counted AS (
        UPDATE documents d SET jobs_ended = d.jobs_ended + a.ended, jobs_failed = d.jobs_failed + a.failed,
            pages_blank = d.pages_blank + a.blank, pages_fallback = d.pages_fallback + a.fallback
        FROM added a WHERE d.id = a.id AND d.run_id IS NOT NULL
        RETURNING d.id, d.tenant_id, d.class, d.schema_version, d.run_id, a.ended, a.failed, a.blank, a.fallback,
            d.stage = 'queued' AND d.rendered_at IS NOT NULL AND d.jobs_ended >= d.jobs AS over),
    closing AS (
        INSERT INTO queue (id, kind, subject_id, tenant_id, model, class, rank, attempt, released, schema_version)
        SELECT c.id, '{CLOSE}', c.id, c.tenant_id, '{CLOSE}', c.class,
               array_position(CAST(:classes AS text[]), c.class) - 1, t.last, t.last,
               greatest(c.schema_version, :version)
        FROM counted c, LATERAL (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE job_id = c.id) AS t
        WHERE c.over ON CONFLICT (id) DO NOTHING)
    SELECT run_id, sum(ended) AS ended, sum(failed) AS failed, sum(blank) AS blank, sum(fallback) AS fallback
    FROM counted GROUP BY run_id HAVING sum(ended) > 0 ORDER BY run_id
""")  # noqa: S608 - made of constants


def count_pages(tx: Transaction, changes: Mapping[UUID, Mapping[str, int]]) -> dict[UUID, Counter[str]]:
    """Add what ended to its documents (COUNTERS, by document). Answers the same by run, for `note_recent`.

    With nothing to add it only looks whether all of a document has ended.
    """
    if not changes:
        return {}
    ids = sorted(changes)
    # One alone is locked by a statement of its own, too: who waits for the end of its rendering in the count itself
    # would see the document as it is then and its tries as they were before, and number its closing like its rendering.
    tx.execute(_ORDER, {"ids": ids})
    columns: dict[str, Any] = {name: [changes[one].get(name, 0) for one in ids] for name in COUNTERS}
    classes = [job_class.value for job_class in JobClass]
    rows = tx.execute(_COUNT, {"ids": ids, "classes": classes, "version": SCHEMA_VERSION, **columns})
    return {row.run_id: Counter({name: int(getattr(row, name)) for name in COUNTERS}) for row in rows}


_RECENT = text("""
    SELECT id, tenant_id, recent,
           spec #> '{pipeline,stop_after}' AS stop_after, spec -> 'pipeline' ? 'stop_after' AS said
    FROM runs WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
""")
_NOTE = text("""
    UPDATE runs SET recent = :recent, pages_blank = pages_blank + :blank, pages_fallback = pages_fallback + :fallback
    WHERE id = :id
""")
_STOP = text("UPDATE runs SET cause = :cause, recent = '{}' WHERE id = :id")
_PAUSE = text("""
    UPDATE batches SET paused_at = now() WHERE id = :id AND paused_at IS NULL AND status = 'in_progress' RETURNING id
""")


def note_recent(tx: Transaction, changes: Mapping[UUID, Counter[str]]) -> list[UUID]:
    """Note how the last pages of runs ended. Answers the runs that are paused by it: too many had failed.

    An event row and webhooks tell of it in the same transaction; the rows of a run that wait are the caller's to hold
    back, once this is committed.
    """
    stopped = []
    for row in tx.execute(_RECENT, {"ids": sorted(changes)}).all() if changes else ():
        added = changes[row.id]
        recent = add_group(row.recent, added["ended"], added["failed"], row.stop_after, said=row.said)
        values = {"id": row.id, "recent": recent, "blank": added["blank"], "fallback": added["fallback"]}
        tx.execute(_NOTE, values)
        cause = has_to_stop(recent, row.stop_after, said=row.said)
        if cause is not None and tx.execute(_PAUSE, {"id": row.id}).first() is not None:
            tx.execute(_STOP, {"id": row.id, "cause": as_jsonb(cause)})
            record(tx, [Event(row.tenant_id, "run", row.id, "stopped", "the run itself", cause)])
            tell(tx, [Happening(row.tenant_id, RUN_STOPPED, "run", row.id, show_id(RUN, row.id))])
            stopped.append(row.id)
    return stopped
