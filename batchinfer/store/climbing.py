"""A held job whose answer was refused goes on in another way: the next rung of its ladder, in one statement.

The try that ended is kept with its error as any retry is, and the tries so far become the job's, as where pictures were
prepared: each rung begins with none, so that a fault of ours costs it no other tries than it would have cost the first.
A rung whose page cannot be drawn is left for the next one, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.store.changes import tell_jobs
from batchinfer.store.claims import INFER, PREPARE, Requeued
from batchinfer.store.clean import as_jsonb
from batchinfer.store.minutes import Tally, counting
from batchinfer.store.returns import give_back, returning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.domain.quality import NextTry
    from batchinfer.store.claims import Ending
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Refused:
    """A job whose answer was refused, as it is stored."""

    id: UUID
    model: str
    document_id: UUID | None
    prompt: dict[str, Any]


_LOAD = text("""
    SELECT id, model, document_id, prompt FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND prompt ? 'quality'
""")
_BLOBS = text("SELECT id, blob FROM documents WHERE id = ANY (CAST(:ids AS uuid[])) AND blob IS NOT NULL")
_CLIMB = returning(
    """
    given AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:errors AS jsonb[]),
            CAST(:timings AS jsonb[]), CAST(:kinds AS text[]), CAST(:models AS text[]), CAST(:prompts AS jsonb[]))
        AS g (id, attempt, error, timings, next_kind, next_model, prompt)),
    held AS (
        SELECT q.*, g.error, g.timings, g.next_kind, g.next_model, g.prompt FROM given g JOIN queue q ON q.id = g.id
        WHERE q.state = 'running' AND q.attempt = g.attempt AND q.kind IN ('infer', 'prepare')
          AND q.lease_id IS NOT DISTINCT FROM CAST(:lease_id AS uuid)
        ORDER BY q.id FOR UPDATE OF q)""",
    """kind = h.next_kind, model = h.next_model, available_at = now(), released = q.attempt, crashes = 0,
       leased_at = CASE WHEN h.next_kind = 'infer' THEN q.leased_at END""",
    more=""",
        changed AS (
            UPDATE jobs j SET prompt = h.prompt, model = h.next_model, crashes = j.crashes + h.crashes,
                attempts = j.attempts + CASE h.kind WHEN 'infer' THEN h.attempt - h.crashes - h.released ELSE 0 END,
                reuse_key = CASE WHEN h.next_model = h.model THEN j.reuse_key END
            FROM held h WHERE j.id = h.subject_id)""",
)


def load_refused(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Refused]:
    """Of these jobs those whose answers are checked by the word of a run."""
    return {row.id: Refused(**row._mapping) for row in tx.execute(_LOAD, {"ids": list(ids)})}


def find_blobs(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, str]:
    """The SHA-256 of documents that were read; others are missing from the answer."""
    return {row.id: row.blob for row in tx.execute(_BLOBS, {"ids": list(ids)})}


def climb(
    tx: Transaction, *, lease_id: UUID, steps: Sequence[tuple[Ending, NextTry]], tally: Tally | None = None
) -> list[Requeued]:
    """Let held jobs go on as their next tries say, due at once. Those that the fence refuses stay as they are.

    A `tally` given is added by the caller.
    """
    if not steps:
        return []
    values = {
        "lease_id": lease_id,
        "ids": [ending.id for ending, _ in steps],
        "numbers": [ending.attempt for ending, _ in steps],
        "errors": [as_jsonb(ending.error) for ending, _ in steps],
        "timings": [as_jsonb(ending.timings) for ending, _ in steps],
        "kinds": [PREPARE if step.prepares else INFER for _, step in steps],
        "models": [step.model for _, step in steps],
        "prompts": [as_jsonb(step.prompt) for _, step in steps],
    }
    back = give_back(tx, _CLIMB, "retry", values)
    tell_jobs(tx, [(row.tenant_id, "preparing", row.id) for row in back if row.kind == PREPARE])
    with counting(tx, tally) as counted:
        for row in back:
            counted.count(row.tenant_id, row.model, retried=1)
    return back
