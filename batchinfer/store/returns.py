"""How held rows go back into the queue: a retry, a clean release, a lost worker, or pictures that are prepared.

`queue.attempt` never falls. What a user counts as tries is attempt - crashes - released, and only for kind infer; so a
lost worker raises `crashes`, a release and an error of ours raise `released`, and preparing, once done, sets `released`
to all claims so far and moves its crashes to the job: the model's tries begin at none, with a fresh measure of lost
workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import TextClause, text

from batchinfer.domain.jobs import JobClass
from batchinfer.store.changes import tell_jobs
from batchinfer.store.claims import DELIVER, INFER, Requeued
from batchinfer.store.clean import as_jsonb
from batchinfer.store.files import refer_to_blobs
from batchinfer.store.minutes import Tally, counting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from batchinfer.domain.retries import RetryRule
    from batchinfer.store.claims import Claim, Ending
    from batchinfer.store.session import Transaction


def _everyone(_lease_id: UUID) -> frozenset[UUID] | None:
    return None


@dataclass(frozen=True)
class LossRule:
    """What a lost worker means for the rows that it held.

    A row is quarantined when `max_crashes` workers were lost under it and the last time it was the only suspect.
    `find_suspects` answers the ids at work under a lease when it was lost; None: all that it held.
    """

    max_crashes: int
    waits: RetryRule
    find_suspects: Callable[[UUID], frozenset[UUID] | None] = _everyone

    def list_suspects(self, lease_ids: Sequence[UUID]) -> Suspects:
        """Who is suspected, as columns for a statement."""
        found = {lease_id: self.find_suspects(lease_id) for lease_id in lease_ids}
        known = {lease_id: ids for lease_id, ids in found.items() if ids is not None}
        return Suspects(list(known), [row_id for ids in known.values() for row_id in ids])


@dataclass(frozen=True)
class Suspects:
    """Leases of which it is known what was at work, and those rows; of other leases every row is suspected."""

    lease_ids: list[UUID]
    ids: list[UUID]

    def as_values(self) -> dict[str, Any]:
        """For the parameters of a statement that holds `IS_SUSPECT`."""
        return {"known_leases": self.lease_ids, "suspects": self.ids}


#: Whether a held row `q` may be what its worker was lost to.
IS_SUSPECT = """(q.lease_id <> ALL (CAST(:known_leases AS uuid[])) OR q.id = ANY (CAST(:suspects AS uuid[])))"""


#: What comes back into a paused batch is paused.
READY = """CASE WHEN EXISTS (
        SELECT 1 FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE j.id = q.subject_id AND b.paused_at IS NOT NULL)
    THEN 'paused' ELSE 'queued' END"""


def returning(held: str, change: str, *, more: str = "") -> TextClause:
    """The statement that changes the rows of `held` (columns of queue, `error`, `timings`) and records each try."""
    return text(
        f"""
        WITH {held},
        back AS (
            UPDATE queue q SET state = {READY}, lease_id = NULL, {change} FROM held h WHERE q.id = h.id
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
_OF_LOST = f"""
    held AS (
        SELECT q.*, {IS_SUSPECT} AS suspect, CAST(NULL AS jsonb) AS error, CAST(NULL AS jsonb) AS timings FROM queue q
        WHERE q.state = 'running' AND q.lease_id = ANY (CAST(:lease_ids AS uuid[]))
        ORDER BY q.id FOR UPDATE OF q)"""  # noqa: S608 - made of constants
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
_RELEASE_ALL = returning(_OF_LEASES, _RELEASED)
_RELEASE = returning(_OF_CLAIMS.format(guard=""), _RELEASED)
#: Drawn evenly below the ceiling of so many tries; the ceilings come from the rule of the error's class.
_WAIT = "now() + make_interval(secs => random() * (CAST(:ceilings AS float[]))[least({tries}, cardinality(:ceilings))])"
_LOSE = returning(
    _OF_LOST,
    f"""crashes = q.crashes + 1, suspected = q.suspected + CAST(h.suspect AS int),
       available_at = {_WAIT.format(tries="q.crashes + 1")}""",
)
#: The tries that the user counts, the present one among them.
_TRIES = "q.attempt - q.crashes - q.released"
#: The earlier tries that an error ended, counted or not, and the present one.
_ERRORS = """(SELECT count(*) + 1 FROM attempts a WHERE a.job_id = q.subject_id AND a.outcome = 'retry')"""
_RETRY = returning(_OF_CLAIMS.format(guard=f"AND {_TRIES} < :tries"), f"available_at = {_WAIT.format(tries=_TRIES)}")
_RETRY_UNCOUNTED = returning(
    _OF_CLAIMS.format(guard=f"AND {_ERRORS} < :tries"),
    f"released = q.released + 1, available_at = {_WAIT.format(tries=f'CAST({_ERRORS} AS int)')}",
)
_PREPARED = returning(
    _OF_CLAIMS.format(guard="AND q.kind = 'prepare'"),
    "kind = 'infer', available_at = now(), leased_at = NULL, released = q.attempt, crashes = 0, suspected = 0",
    more=""",
        filled AS (
            UPDATE jobs j SET prompt = jsonb_set(j.prompt, '{images}', CAST(:images AS jsonb)),
                reuse_key = coalesce(j.reuse_key, CAST(:reuse_key AS text)), crashes = j.crashes + h.crashes
            FROM held h WHERE j.id = h.subject_id)""",
)


def retry(
    tx: Transaction,
    *,
    lease_id: UUID,
    endings: Sequence[Ending],
    rule: RetryRule,
    tally: Tally | None = None,
) -> list[Requeued]:
    """Let those with tries left wait for another one; `rule` is that of the class of all these endings.

    The others, and those that the fence refuses, stay as they are. A `tally` given is added by the caller.
    """
    if not endings or rule.tries <= 1:
        return []
    values = {"lease_id": lease_id, "tries": rule.tries, "ceilings": rule.list_ceilings_s()}
    back = give_back(tx, _RETRY if rule.counted else _RETRY_UNCOUNTED, "retry", values | _columns(endings))
    with counting(tx, tally) as counted:
        for row in back:
            if row.kind != DELIVER:
                counted.count(row.tenant_id, row.model, retried=1)
    return back


def release(tx: Transaction, *, lease_id: UUID, claims: Sequence[Claim] | None = None) -> list[Requeued]:
    """Give rows back, due at once; no try is counted. None: all that the lease holds."""
    if claims is None:
        return give_back(tx, _RELEASE_ALL, "released", {"lease_ids": [lease_id]})
    values = {
        "lease_id": lease_id,
        "ids": [claim.id for claim in claims],
        "numbers": [claim.attempt for claim in claims],
        "errors": [None] * len(claims),
        "timings": [None] * len(claims),
    }
    return give_back(tx, _RELEASE, "released", values)


_COUNT_RELEASES = text("""
    SELECT job_id, count(*) AS number FROM attempts
    WHERE job_id = ANY (CAST(:ids AS uuid[])) AND kind = 'infer' AND outcome = 'released' GROUP BY job_id
""")


def count_releases(tx: Transaction, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How often each job was given back by a model worker; those that never were are left out.

    `queue.released` counts more: preparing, and each rung of a ladder, sets it to all tries so far.
    """
    return {row.job_id: row.number for row in tx.execute(_COUNT_RELEASES, {"ids": list(job_ids)})}


def lose(
    tx: Transaction, *, lease_ids: Sequence[UUID], rule: LossRule, suspects: Suspects, tally: Tally
) -> list[Requeued]:
    """Give back what dead leases held: one more crash each, and a wait. The caller quarantines before, and tallies."""
    values = {"lease_ids": list(lease_ids), "ceilings": rule.waits.list_ceilings_s(), **suspects.as_values()}
    back = give_back(tx, _LOSE, "lost", values)
    for row in back:
        if row.kind != DELIVER:
            tally.count(row.tenant_id, row.model, lost=1)
    return back


def mark_prepared(
    tx: Transaction, *, lease_id: UUID, claim: Claim, images: Sequence[dict[str, Any]], reuse_key: str | None = None
) -> Requeued | None:
    """Make a prepared job ready for its model, its prompt's `images` filled in; its answer will be kept under
    `reuse_key`. None when the fence refused."""
    values = {
        "lease_id": lease_id,
        "ids": [claim.id],
        "numbers": [claim.attempt],
        "errors": [None],
        "timings": [None],
        "images": as_jsonb(list(images)),
        "reuse_key": reuse_key,
    }
    ready = next(iter(give_back(tx, _PREPARED, "succeeded", values)), None)
    if ready is not None:
        refer_to_blobs(tx, ready.tenant_id, [(claim.subject_id, image) for image in images])
    return ready


def give_back(tx: Transaction, statement: TextClause, outcome: str, values: dict[str, Any]) -> list[Requeued]:
    rows = tx.execute(statement, values | {"outcome": outcome})
    back = [Requeued(**{**row._mapping, "job_class": JobClass(row.job_class)}) for row in rows]
    # What is prepared again has been preparing all the time.
    tell_jobs(tx, [(row.tenant_id, "queued", row.id) for row in back if row.kind == INFER])
    return back


def _columns(endings: Sequence[Ending]) -> dict[str, list[Any]]:
    return {
        "ids": [ending.id for ending in endings],
        "numbers": [ending.attempt for ending in endings],
        "errors": [as_jsonb(ending.error) for ending in endings],
        "timings": [as_jsonb(ending.timings) for ending in endings],
    }
