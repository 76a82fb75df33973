"""Hot swap: an operator's verbs, and the steps that the placement takes for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.domain.ids import DEFAULT_TENANT, DEPLOYMENT, show_id
from batchinfer.domain.replicas import Wanted
from batchinfer.domain.swaps import SwapRequest, SwapState, decide
from batchinfer.errors import Conflict
from batchinfer.services.deployments import Standing, act, lock, read_standing, require_fetched, require_wanted, tell
from batchinfer.services.goldens import store_goldens
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import deployments as store
from batchinfer.store import swapping
from batchinfer.store.events import Event, record
from batchinfer.store.files import record_blobs

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.deployments import Deployment
    from batchinfer.store.session import Transaction

#: Who takes the steps, in events.
_PLACEMENT = "placement"


def begin_swap(
    ctx: Context, caller: Caller, deployment_id: UUID, request: SwapRequest, idempotency: Idempotency | None = None
) -> tuple[Standing, bool]:
    """Let another revision be loaded beside the one that serves; it takes over once it stands by with all golden
    prompts answered. It does not wait. Answers the deployment, and whether it is a replay.

    Raises Forbidden, NotFound (codes deployment_not_found, revision_not_found, picture_not_kept), BadImage, KeyReused
    and Conflict: code swap_in_progress (another operator was first: who, and since when), revision_not_fetched,
    revision_served, deployment_stopped.
    """
    caller.require("launch")
    return _begin(ctx, caller, deployment_id, request, idempotency)


def rollback(
    ctx: Context,
    caller: Caller,
    deployment_id: UUID,
    request: SwapRequest = SwapRequest(""),  # noqa: B008 - it is frozen
    idempotency: Idempotency | None = None,
) -> tuple[Standing, bool]:
    """The same, back to the revision before the last swap. Raises as `begin_swap` does, and Conflict (code
    no_previous_revision)."""
    caller.require("launch")
    return _begin(ctx, caller, deployment_id, request, idempotency, back=True)


def _begin(
    ctx: Context,
    caller: Caller,
    deployment_id: UUID,
    request: SwapRequest,
    idempotency: Idempotency | None,
    *,
    back: bool = False,
) -> tuple[Standing, bool]:
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return read_standing(ctx, found.resource_id), True
    golden, blobs = store_goldens(ctx, caller, request.golden)
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "deployment", deployment_id)
            record_blobs(tx, DEFAULT_TENANT, blobs)
            held = require_wanted(lock(tx, deployment_id))
            _require_free(held)
            revision = _require_previous(held) if back else request.revision
            _check_revision(tx, held, revision)
            swap = {
                "state": SwapState.LOADING, "from": held.revision, "to": revision, "by": caller.name,
                "drain_first": request.drain_first, "rollback": back, "goldens": len(golden), "golden": golden,
                "within_s": request.within_s,
            }  # fmt: skip
            swapping.begin(tx, deployment_id, revision, swap)
            told = {name: swap[name] for name in ("from", "to", "drain_first", "goldens", "within_s")}
            tell(tx, caller, deployment_id, "rollback_started" if back else "swap_started", **told)
            verb = "deployment.rollback" if back else "deployment.swap"
            act(tx, caller, verb, deployment_id, model=held.model, **told)
    except Replayed as replay:
        return read_standing(ctx, replay.found.resource_id), True
    return read_standing(ctx, deployment_id), False


def _require_free(held: Deployment) -> None:
    if held.next_revision is None:
        return
    swap = held.swap or {}
    since = str(swap.get("since", ""))[:19]
    raise Conflict(
        f"{swap.get('by', 'Somebody')} is swapping {show_id(DEPLOYMENT, held.id)} to revision {held.next_revision} "
        f"since {since} UTC. Wait for its end, or cancel it.",
        code="swap_in_progress",
    )


def _require_previous(held: Deployment) -> str:
    if held.previous_revision is None:
        raise Conflict(
            f"{show_id(DEPLOYMENT, held.id)} was never swapped: there is no revision to go back to.",
            code="no_previous_revision",
        )
    return held.previous_revision


def _check_revision(tx: Transaction, held: Deployment, revision: str) -> None:
    if revision == held.revision:
        raise Conflict(
            f"{show_id(DEPLOYMENT, held.id)} serves revision {revision} already. Name another one.",
            code="revision_served",
            param="revision",
        )
    require_fetched(tx, held.model, revision)


def advance(tx: Transaction, deployment: Deployment, _replicas: object = ()) -> SwapState | None:
    """Take the next step of a deployment's swap, if it has one under way and a step is due; answers where it led.

    Safe to call from several connections at once: the deployment is locked and its replicas are read again. At the
    switch all is changed by this transaction: revisions, the model's own, and what is wanted of every replica.
    """
    if deployment.next_revision is None:
        return None
    store.lock_model(tx, deployment.model)  # in the order in which a launch locks them
    held = store.lock_deployment(tx, deployment.id)
    if held is None or held.next_revision is None or held.stopped_at is not None:
        return None
    swap = held.swap or {}
    step = decide(
        SwapState(swap.get("state", SwapState.LOADING)), held.replicas, swapping.list_next(tx, held),
        rollback=bool(swap.get("rollback")), overdue_s=swapping.find_overdue(tx, held),
    )  # fmt: skip
    if step.to is None:
        return None
    if not step.to.is_terminal:
        swapping.note_state(tx, held.id, step.to)
    elif step.to is SwapState.FAILED:
        swapping.end(tx, held.id, step.to, step.error)
        swapping.order(tx, held.id, Wanted.DRAIN, of=held.next_revision)
    else:
        swapping.switch(tx, held)
        swapping.order(tx, held.id, Wanted.SERVE, of=held.next_revision)
        swapping.order(tx, held.id, Wanted.DRAIN, but=held.next_revision)
        swapping.end(tx, held.id, step.to)
    told = {"from": held.revision, "to": held.next_revision, **({"error": step.error} if step.error else {})}
    record(tx, [Event(DEFAULT_TENANT, "deployment", held.id, _EVENTS[step.to], _PLACEMENT, told)])
    return step.to


_EVENTS = {
    SwapState.LOADING: "swap_loading",
    SwapState.TESTING: "swap_testing",
    SwapState.SWITCHED: "switched",
    SwapState.ROLLED_BACK: "rolled_back",
    SwapState.FAILED: "swap_failed",
}
