"""How held rows go back into the queue: a retry, a clean release, a lost worker, or pictures that are prepared.

`queue.attempt` never falls. What a user counts as tries is attempt - crashes - released, and only for kind infer; so a
lost worker raises `crashes`, a release raises `released`, and preparing, once done, sets `released` to all claims so
far and moves its crashes to the job: the model's tries begin at none, with a fresh measure of lost workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import TextClause, text

from batchinfer.domain.jobs import JobClass
from batchinfer.store.claims import Requeued
from batchinfer.store.clean import as_jsonb
from batchinfer.store.minutes import Tally, counting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.claims import Claim, Ending
    from batchinfer.store.session import Transaction

#: Longest wait before another try.
MAX_BACKOFF_S = 60


def _returning(held: str, change: str, *, more: str = "") -> TextClause:
    """The statement that changes the rows of `held` (columns of queue, `error`, `timings`) and records each try."""
    return text(
        f"""
        WITH {held},
        back AS (
            UPDATE queue q SET state = 'queued', lease_id = NULL, {change} FROM held h WHERE q.id = h.id
            RETURNING q.id, q.kind, q.tenant_id, q.model, q.class
        ),
        tried AS (
            INSERT INTO attempts
                (job_id, number, tenant_id, outcome, kind, lease_id, worker, error, timings, started_at)
            SELECT h.subject_id, h.attempt, h.tenant_id, :outcome, h.kind, h.lease_id, l.worker, h.error, h.timings,
                   h.leased_at
            FROM held h LEFT JOIN leases l ON l.id = h.lease_id
        ){more}
        SELECT id, kind, tenant_id, model, class AS job_class FROM back
        """  # noqa: S608 - made of constants
    )


_OF_LEASES = """
    held AS (
        SELECT q.*, CAST(NULL AS jsonb) AS error, CAST(NULL AS jsonb) AS timings FROM queue q
        WHERE q.state = 'running' AND q.lease_id = ANY (CAST(:lease_ids AS uuid[]))
        ORDER BY q.id FOR UPDATE OF q)"""
_OF_CLAIMS = """
    given AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:errors AS jsonb[]),
            CAST(:timings AS jsonb[])) AS g (id, attempt, error, timings)),
    held AS (
        SELECT q.*, g.error, g.timings FROM given g JOIN queue q ON q.id = g.id
        WHERE q.state = 'running' AND q.attempt = g.attempt
          AND q.lease_id IS NOT DISTINCT FROM CAST(:lease_id AS uuid) {guard}
        ORDER BY q.id FOR UPDATE OF q)"""
_RELEASED = "released = q.released + 1, available_at = now()"
_RELEASE_ALL = _returning(_OF_LEASES, _RELEASED)
_RELEASE = _returning(_OF_CLAIMS.format(guard=""), _RELEASED)
# Exponential, with full jitter. The first crash comes back within a second: most are a host's, not the job's.
_LOSE = _returning(
    _OF_LEASES,
    """crashes = q.crashes + 1,
       available_at = now() + make_interval(secs => random() * least(:max_backoff_s, power(2, q.crashes)))""",
)
_RETRY = _returning(
    _OF_CLAIMS.format(guard="AND q.attempt - q.crashes - q.released < :max_attempts"),
    """available_at = now() + make_interval(secs => random() *
           least(:max_backoff_s, power(2, q.attempt - q.crashes - q.released - 1)))""",
)
_PREPARED = _returning(
    _OF_CLAIMS.format(guard="AND q.kind = 'prepare'"),
    "kind = 'infer', available_at = now(), leased_at = NULL, released = q.attempt, crashes = 0",
    more=""",
        filled AS (
            UPDATE jobs j SET prompt = jsonb_set(j.prompt, '{images}', CAST(:images AS jsonb)),
                crashes = j.crashes + h.crashes
            FROM held h WHERE j.id = h.subject_id)""",
)


def retry(
    tx: Transaction,
    *,
    lease_id: UUID,
    endings: Sequence[Ending],
    max_attempts: int,
    tally: Tally | None = None,
) -> list[Requeued]:
    """Let those with tries left wait for another one. The others, and those that the fence refuses, stay as they are.

    A `tally` given is added by the caller.
    """
    if not endings:
        return []
    values = {"lease_id": lease_id, "max_attempts": max_attempts, "max_backoff_s": MAX_BACKOFF_S}
    back = _run(tx, _RETRY, "retry", values | _columns(endings))
    with counting(tx, tally) as counted:
        for row in back:
            counted.count(row.tenant_id, row.model, retried=1)
    return back


def release(tx: Transaction, *, lease_id: UUID, claims: Sequence[Claim] | None = None) -> list[Requeued]:
    """Give rows back, due at once; no try is counted. None: all that the lease holds."""
    if claims is None:
        return _run(tx, _RELEASE_ALL, "released", {"lease_ids": [lease_id]})
    values = {
        "lease_id": lease_id,
        "ids": [claim.id for claim in claims],
        "numbers": [claim.attempt for claim in claims],
        "errors": [None] * len(claims),
        "timings": [None] * len(claims),
    }
    return _run(tx, _RELEASE, "released", values)


def lose(tx: Transaction, *, lease_ids: Sequence[UUID], tally: Tally) -> list[Requeued]:
    """Give back what dead leases held: one more crash each, and a wait. The caller quarantines before, and tallies."""
    back = _run(tx, _LOSE, "lost", {"lease_ids": list(lease_ids), "max_backoff_s": MAX_BACKOFF_S})
    for row in back:
        tally.count(row.tenant_id, row.model, lost=1)
    return back


def mark_prepared(
    tx: Transaction, *, lease_id: UUID, claim: Claim, images: Sequence[dict[str, Any]]
) -> Requeued | None:
    """Make a prepared job ready for its model, its prompt's `images` filled in. None when the fence refused."""
    values = {
        "lease_id": lease_id,
        "ids": [claim.id],
        "numbers": [claim.attempt],
        "errors": [None],
        "timings": [None],
        "images": as_jsonb(list(images)),
    }
    return next(iter(_run(tx, _PREPARED, "succeeded", values)), None)


def _run(tx: Transaction, statement: TextClause, outcome: str, values: dict[str, Any]) -> list[Requeued]:
    rows = tx.execute(statement, values | {"outcome": outcome})
    return [Requeued(**{**row._mapping, "job_class": JobClass(row.job_class)}) for row in rows]


def _columns(endings: Sequence[Ending]) -> dict[str, list[Any]]:
    return {
        "ids": [ending.id for ending in endings],
        "numbers": [ending.attempt for ending in endings],
        "errors": [as_jsonb(ending.error) for ending in endings],
        "timings": [as_jsonb(ending.timings) for ending in endings],
    }
