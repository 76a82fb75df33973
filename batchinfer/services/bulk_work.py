"""A CPU worker carries out an act on many jobs: some jobs a transaction, each changed as the verb of one job does it.

What a step did and how far it is are written in the same transaction, fenced by the queue row: after a kill the act
goes on behind the last job that is counted, and none is counted twice.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchinfer.domain.bulk_acts import BulkVerb
from batchinfer.domain.ids import new_id
from batchinfer.domain.job_search import JobSearch
from batchinfer.errors import BatchinferError, Busy, Conflict, Forbidden, NotFound, TooLarge
from batchinfer.services import holding, repeats
from batchinfer.services.context import Caller
from batchinfer.services.jobs import require_job
from batchinfer.store import bulk_acts as store
from batchinfer.store import endings, job_search, jobs, keys
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from batchinfer.domain.bulk_acts import BulkAct
    from batchinfer.domain.jobs import Job
    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim, Ended
    from batchinfer.store.session import Transaction

#: Jobs of one transaction: as many as it changes in well under a second.
STEP = {BulkVerb.RETRY: 50, BulkVerb.CANCEL: 500, BulkVerb.DELETE: 100}
#: Codes of a job whose state no longer allowed it, as opposed to what went wrong.
SKIPPED = frozenset({"job_not_repeatable", "job_retried", "job_not_ended", "job_not_cancellable", "job_not_found"})
#: Seconds between two looks whether there is room for more jobs.
_ROOM_S = 2.0


@dataclass
class _Step:
    """What one transaction did to the jobs it looked at, and what is to be said once it has ended."""

    caller: Caller
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    cursor: UUID | None = None
    #: There is no room for more jobs now.
    full: BatchinferError | None = None
    over: bool = False
    made: list[Job] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def refuse(self, job_id: UUID, error: BatchinferError) -> None:
        self.refused[error.code] += 1
        self.cursor = job_id

    def count_skipped(self) -> int:
        return sum(number for code, number in self.refused.items() if code in SKIPPED)


def carry_out(
    ctx: Context, claim: Claim, insist: Callable[[Callable[[], bool]], bool], wanted: Callable[[], bool]
) -> bool:
    """Carry an act out to its end. False: nobody wants it any more, or this process ends; what was done stays.

    Raises Forbidden where the key that asked for it may no longer do so.
    """
    while wanted():
        steps: list[_Step] = []

        def take(steps: list[_Step] = steps) -> bool:
            step = _take_step(ctx, claim)
            steps[:] = [step] if step else []
            return step is not None

        if not insist(take):
            return True
        (step,) = steps
        _tell(ctx, step)
        if step.over:
            return True
        if step.full is not None:
            _wait(wanted)
    return False


def _wait(wanted: Callable[[], bool]) -> None:
    until_s = time.monotonic() + _ROOM_S
    while (left_s := until_s - time.monotonic()) > 0 and wanted():
        time.sleep(min(0.2, left_s))


def _take_step(ctx: Context, claim: Claim) -> _Step | None:
    """The next jobs, in one transaction. None where the fence refused."""
    with ctx.db.transaction() as tx:
        act = store.hold_act(tx, claim)
        if act is None:
            endings.finish(tx, lease_id=claim.lease_id, claim=claim)  # where the act is gone and the row is ours
            return None
        step = _Step(_find_caller(tx, act))
        ids = _list_next(tx, act, step)
        _DO[act.verb](ctx, tx, ids, step)
        skipped = step.count_skipped()
        store.advance(
            tx, act, cursor=step.cursor, done=step.done, skipped=skipped, failed=step.refused.total() - skipped,
            reasons=Counter(act.reasons) + step.refused, error=step.full.as_dict() if step.full else None,
        )  # fmt: skip
        if step.over:
            store.complete(tx, act.id)
            endings.finish(tx, lease_id=claim.lease_id, claim=claim)
        step.tally.add(tx)
    return step


def _find_caller(tx: Transaction, act: BulkAct) -> Caller:
    """Who asked for it, with what the key may do now. Raises Forbidden."""
    key = keys.get_key(tx, act.tenant_id, act.key_id)
    if key is None or not key.valid:
        raise Forbidden("The key that asked for this act has ended. Ask for it again with another key.")
    caller = Caller(key.tenant_id, key.id, key.name, key.scopes)
    caller.require(act.verb.scope)
    return caller


def _list_next(tx: Transaction, act: BulkAct, step: _Step) -> list[UUID]:
    """The jobs behind the cursor, oldest first; notes how far that is, and whether it is all."""
    most = STEP[act.verb]
    if act.ids:
        left = [one for one in sorted(act.ids) if act.cursor is None or one > act.cursor]
        step.over = len(left) <= most
        return left[:most]
    found = job_search.find_ids(
        tx, act.tenant_id, JobSearch.of(act.search), states=act.verb.states, above=act.cursor,
        through=act.up_to, upwards=True, limit=most,
    )  # fmt: skip
    step.over = not found.has_more
    # Where none of the rows that were looked at matches, it goes on behind them.
    step.cursor = found.stopped
    return found.ids


def _retry(ctx: Context, tx: Transaction, ids: Sequence[UUID], step: _Step) -> None:
    looked, step.cursor = step.cursor, None
    for job_id in ids:
        new = new_id()
        try:
            held = repeats.hold_repeatable(tx, step.caller, job_id)
            repeats.repeat_held(ctx, tx, step.caller, held, new, step.tally, number=len(step.made) + 1)
        except Busy as error:
            step.full, step.over = error, False
            return
        except TooLarge as error:
            if step.made:  # more than there may ever be at once: the others in a transaction of their own
                step.over = False
                return
            step.refuse(job_id, error)
        except (Conflict, NotFound) as error:
            step.refuse(job_id, error)
        else:
            step.made.append(require_job(jobs.find_job(tx, step.caller.tenant_id, new)))
            step.done += 1
            step.cursor = job_id
    step.cursor = looked or step.cursor


def _cancel(_ctx: Context, tx: Transaction, ids: Sequence[UUID], step: _Step) -> None:
    if not ids:
        return
    step.ended = endings.cancel(tx, step.caller.tenant_id, ids, actor=step.caller.actor)
    step.done = len(step.ended)
    if left := len(ids) - step.done:
        step.refused["job_not_cancellable"] += left
    step.cursor = step.cursor or ids[-1]


def _delete(_ctx: Context, tx: Transaction, ids: Sequence[UUID], step: _Step) -> None:
    looked = step.cursor
    for job_id in ids:
        try:
            repeats.delete_in(tx, step.caller, job_id)
        except (Conflict, NotFound) as error:
            step.refuse(job_id, error)
        else:
            step.done += 1
            step.cursor = job_id
    step.cursor = looked or step.cursor


_DO = {BulkVerb.RETRY: _retry, BulkVerb.CANCEL: _cancel, BulkVerb.DELETE: _delete}


def _tell(ctx: Context, step: _Step) -> None:
    """What others wait for, once it is stored."""
    for job in step.made:
        repeats.announce_new(ctx, job)
    ctx.bell.ring([row.id for row in step.ended])
    if held := [row.id for row in step.ended if row.held]:
        ctx.control.cancel_jobs(held)
    holding.hold_back(ctx, step.tally.stopped)
