"""A user's verbs for acts on many jobs: count what an act would touch, ask for it, follow it, cancel it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.bulk_acts import MOST_NAMED, BulkAct, BulkVerb
from batchinfer.domain.ids import BULK, new_id, show_id
from batchinfer.domain.job_search import JobSearch
from batchinfer.errors import BadRequest, Conflict, NotFound
from batchinfer.services.audit import note
from batchinfer.services.context import Page
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import bulk_acts as store
from batchinfer.store import job_search

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Reach:
    """What an act would touch, counted now: those that allow it by their state, and how many more match. `up_to` is the
    newest job that was there."""

    number: int
    others: int
    up_to: UUID


def count_reach(
    ctx: Context, caller: Caller, verb: BulkVerb, *, search: JobSearch | None = None, ids: Sequence[UUID] = ()
) -> Reach:
    """Count what an act on the jobs `ids`, or on those of `search`, would touch: exactly, at this moment.

    Raises Forbidden, BadRequest (codes nothing_selected, invalid_value, too_many_to_count).
    """
    caller.require(verb.scope)
    caller.require("read")
    with ctx.db.transaction() as tx:
        return _count(tx, caller, verb, search, ids, None)


def _count(
    tx: Transaction, caller: Caller, verb: BulkVerb, search: JobSearch | None, ids: Sequence[UUID], up_to: UUID | None
) -> Reach:
    if search is None and not 0 < len(ids) <= MOST_NAMED:
        raise BadRequest(
            f"Select from 1 to {MOST_NAMED:,} jobs, or all that match a filter.", code="nothing_selected", param="job"
        )
    if search is not None and search.state is not None and search.state not in verb.states:
        raise BadRequest(
            f"A job that is {search.state} does not allow {verb}. Choose another state, or none.",
            code="invalid_value", param="state",
        )  # fmt: skip
    newest = up_to or job_search.find_newest(tx, caller.tenant_id)
    if newest is None:
        return Reach(0, 0, caller.tenant_id)
    if search is None:
        return Reach(job_search.count_named(tx, caller.tenant_id, ids), 0, newest)
    counts = job_search.count_by_state(tx, caller.tenant_id, search, up_to=newest)
    number = sum(count for state, count in counts.items() if state in verb.states)
    return Reach(number, sum(counts.values()) - number, newest)


def ask_for(
    ctx: Context,
    caller: Caller,
    verb: BulkVerb,
    *,
    search: JobSearch | None = None,
    ids: Sequence[UUID] = (),
    up_to: UUID | None = None,
    idempotency: Idempotency | None = None,
) -> tuple[BulkAct, bool]:
    """Have a CPU worker do this to the jobs `ids`, or to those of `search` that were there up to the id `up_to` (None:
    now). Counted once more; jobs that are submitted later are not touched. Answers the act, and whether it is a replay.

    Raises Forbidden, BadRequest (as `count_reach`, and code nothing_to_do), KeyReused.
    """
    caller.require(verb.scope)
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return get_act(ctx, caller, found.resource_id), True
    act_id = new_id()
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "act", act_id)
            act = _insert(tx, caller, act_id, verb, search, ids, up_to)
    except Replayed as replay:
        return get_act(ctx, caller, replay.found.resource_id), True
    ctx.announcer.announce_cpu([act_id])
    return act, False


def _insert(
    tx: Transaction, caller: Caller, act_id: UUID, verb: BulkVerb, search: JobSearch | None, ids: Sequence[UUID],
    up_to: UUID | None,
) -> BulkAct:  # fmt: skip
    reach = _count(tx, caller, verb, search, ids, up_to)
    if not reach.number:
        raise BadRequest("No job there allows that any more. Look at the list again.", code="nothing_to_do")
    wanted = search or JobSearch()
    store.insert_act(
        tx, act_id, tenant_id=caller.tenant_id, key_id=caller.key_id, actor=caller.name, verb=verb, search=wanted,
        ids=ids if search is None else (), up_to=reach.up_to, total=reach.number,
    )  # fmt: skip
    what = {"search": wanted.as_json()} if search is not None else {"jobs": len(ids)}
    note(tx, caller, f"jobs.{verb.value}", show_id(BULK, act_id), total=reach.number, **what)
    return _require(store.find_act(tx, caller.tenant_id, act_id))


def get_act(ctx: Context, caller: Caller, act_id: UUID) -> BulkAct:
    """An act on many jobs. Raises NotFound."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return _require(store.find_act(tx, caller.tenant_id, act_id))


def list_acts(ctx: Context, caller: Caller, *, after: UUID | None = None, limit: int = 20) -> Page[BulkAct]:
    """Acts on many jobs, newest first, below the id `after`."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return Page.cut(store.list_acts(tx, caller.tenant_id, after=after, limit=limit + 1), limit, backwards=False)


def cancel_act(ctx: Context, caller: Caller, act_id: UUID) -> BulkAct:
    """End an act half way. What it did stays done. Raises Forbidden, NotFound, Conflict (code act_ended)."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        act = _require(store.find_act(tx, caller.tenant_id, act_id))
        caller.require(act.verb.scope)
        if not store.cancel_act(tx, caller.tenant_id, act_id, caller.actor):
            raise Conflict(
                f"This act is {act.state}: there is nothing left to cancel. Look at it again.", code="act_ended"
            )
        note(tx, caller, "jobs.act.cancel", show_id(BULK, act_id))
        return _require(store.find_act(tx, caller.tenant_id, act_id))


def _require(act: BulkAct | None) -> BulkAct:
    if act is None:
        raise NotFound("No act with this id. It may be too old to be kept.", code="act_not_found")
    return act
