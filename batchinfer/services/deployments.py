"""An operator's verbs for deployments: launch, ensure, stop, resume, cancel a load, and what they are doing now."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.deployments import STARTED_WITH
from batchinfer.domain.ids import DEFAULT_TENANT, DEPLOYMENT, new_id, show_id
from batchinfer.domain.launches import read_sizes
from batchinfer.domain.replicas import ReplicaState, Wanted
from batchinfer.domain.swaps import SwapState
from batchinfer.errors import Conflict, NotFound
from batchinfer.services import memory
from batchinfer.services.audit import note
from batchinfer.services.goldens import StoredGoldens, store_goldens
from batchinfer.services.models import make_unknown
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import deployments as store
from batchinfer.store import revisions, swapping
from batchinfer.store.events import Event, record
from batchinfer.store.files import record_blobs

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.deployments import DeploymentSpec
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.deployments import Deployment
    from batchinfer.store.fleet import Replica
    from batchinfer.store.session import Transaction

#: Of replicas that do not serve yet.
ON_THE_WAY = (ReplicaState.PLANNED, ReplicaState.LOADING, ReplicaState.VERIFYING)
#: Revisions that may be loaded.
FETCHED = frozenset({"fetched", "verified"})


@dataclass(frozen=True)
class Standing:
    """A deployment with its replicas: those that live, then those that ended in the last hour."""

    deployment: Deployment
    replicas: list[Replica]

    @property
    def status(self) -> str:
        """stopped, swapping, ready, loading, asleep, failed, or waiting: for room, for a host, or for its next try."""
        states = {one.state for one in self.replicas if one.ended_at is None}
        wish = self.deployment
        if wish.stopped_at is not None:
            return "stopped"
        if wish.next_revision is not None:
            return "swapping"
        if ReplicaState.READY in states:
            return "ready"
        if states & set(ON_THE_WAY):
            return "loading"
        if wish.asleep:
            return "asleep"
        return "failed" if wish.failures else "waiting"


def launch(
    ctx: Context, caller: Caller, spec: DeploymentSpec, idempotency: Idempotency | None = None
) -> tuple[Standing, bool]:
    """Want a model on a device. It does not wait for the load. Answers the deployment, and whether it is a replay.

    Raises Forbidden, NotFound (codes model_not_found, revision_not_found), Conflict (codes deployment_exists,
    revision_not_fetched, no_memory: the message has what is missing in MiB), BadRequest (memory_budget_too_small),
    KeyReused.
    """
    caller.require("launch")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return read_standing(ctx, found.resource_id), True
    deployment_id, golden = new_id(), store_goldens(ctx, caller, spec.golden or ())
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "deployment", deployment_id)
            model_id = _lock_model(tx, spec)
            present = store.lock_placed(tx, spec.model, spec.device)
            if present is not None:
                raise _make_present(present)
            _require_room(tx, spec, silent_s=ctx.settings.lease_ttl_s)
            _insert(tx, caller, deployment_id, model_id, spec, golden, "deployment.launch")
    except Replayed as replay:
        return read_standing(ctx, replay.found.resource_id), True
    return read_standing(ctx, deployment_id), False


def ensure(ctx: Context, caller: Caller, spec: DeploymentSpec) -> tuple[Standing, str]:
    """Want a model on a device as is said: launch it, or change what is there; what is not said stays. Twice is as
    once. Answers the deployment, and what was done: launched, changed or unchanged.

    Where something changes that a process was started with, its replicas are replaced: each ends what runs, and another
    one is loaded. Raises as `launch` does, and Conflict (code revision_differs: that is a swap).
    """
    caller.require("launch")
    golden = store_goldens(ctx, caller, spec.golden or ())
    with ctx.db.transaction() as tx:
        model_id = _lock_model(tx, spec)
        present = store.lock_placed(tx, spec.model, spec.device)
        if present is None:
            deployment_id, done = new_id(), "launched"
            _insert(tx, caller, deployment_id, model_id, spec, golden, "deployment.ensure")
        else:
            deployment_id, done = present.id, _change(tx, caller, present, spec, golden)
    return read_standing(ctx, deployment_id), done


def _require_room(tx: Transaction, spec: DeploymentSpec, *, silent_s: float) -> None:
    """Go on only if one replica fits on a device, or nobody knows."""
    whole = spec.whole
    if whole["engine"] in memory.WEIGHTLESS or not whole["replicas"]:
        return
    sizes = read_sizes(spec.device, whole)
    with suppress(NotFound, memory.FactsUnknown):
        memory.require_room(memory.make_launch_plan(tx, spec.model, sizes, whole["revision"], silent_s=silent_s))


def _lock_model(tx: Transaction, spec: DeploymentSpec) -> UUID:
    model_id = store.lock_model(tx, spec.model)
    if model_id is None:
        raise make_unknown(spec.model)
    return model_id


def _insert(
    tx: Transaction,
    caller: Caller,
    deployment_id: UUID,
    model_id: UUID,
    spec: DeploymentSpec,
    golden: StoredGoldens,
    action: str,
) -> None:
    if spec.whole["revision"] is not None:
        require_fetched(tx, spec.model, spec.whole["revision"])
    store.insert_deployment(tx, deployment_id, model_id, spec.device, spec.whole)
    told = {"model": spec.model, "device": spec.device, **spec.given, **_keep_golden(tx, deployment_id, spec, golden)}
    tell(tx, caller, deployment_id, "launched", **told)
    act(tx, caller, action, deployment_id, **told)


def _keep_golden(tx: Transaction, deployment_id: UUID, spec: DeploymentSpec, golden: StoredGoldens) -> dict[str, int]:
    """Give a deployment the golden prompts that its spec names. Answers what changed by it, for events."""
    if spec.golden is None:
        return {}
    stored, blobs = golden
    record_blobs(tx, DEFAULT_TENANT, blobs)
    return {"goldens": len(stored)} if store.set_golden(tx, deployment_id, stored) else {}


def _change(tx: Transaction, caller: Caller, present: Deployment, spec: DeploymentSpec, golden: StoredGoldens) -> str:
    """Make a deployment what is said. Answers changed or unchanged."""
    revision = spec.given.get("revision")
    if revision is not None and revision != present.revision:
        raise Conflict(
            f"{_name(present)} serves revision {present.revision}, not {revision}. Swap it: another revision is loaded "
            "and tested beside the one that serves.",
            code="revision_differs",
            param="revision",
        )
    before = store.read_columns(present)
    changed = {name: value for name, value in spec.given.items() if name != "revision" and before[name] != value}
    told = changed | _keep_golden(tx, present.id, spec, golden)
    act(tx, caller, "deployment.ensure", present.id, model=present.model, changed=told)
    if not told:
        return "unchanged"
    store.change_deployment(tx, present.id, before | changed)
    tell(tx, caller, present.id, "changed", **told)
    if changed.keys() & STARTED_WITH:
        store.resume_deployment(tx, present.id)
        swapping.order(tx, present.id, Wanted.DRAIN)
    return "changed"


def stop(ctx: Context, caller: Caller, deployment_id: UUID) -> Standing:
    """Want it no more: a swap of it is cancelled, its replicas end what runs and end. Twice is as once.

    Raises Forbidden, NotFound (code deployment_not_found).
    """
    caller.require("launch")
    with ctx.db.transaction() as tx:
        held = lock(tx, deployment_id)
        act(tx, caller, "deployment.stop", deployment_id, model=held.model)
        if held.stopped_at is None:
            if held.next_revision is not None:
                swapping.end(tx, deployment_id, SwapState.CANCELLED)
                held = lock(tx, deployment_id)
            store.stop_deployment(tx, deployment_id, held.swap)
            swapping.order(tx, deployment_id, Wanted.DRAIN)
            tell(tx, caller, deployment_id, "stopped", model=held.model)
    return read_standing(ctx, deployment_id)


def resume(ctx: Context, caller: Caller, deployment_id: UUID) -> Standing:
    """Try again at once what failed to load, and wake up what sleeps. Twice is as once.

    Raises Forbidden, NotFound, Conflict (code deployment_stopped).
    """
    caller.require("launch")
    with ctx.db.transaction() as tx:
        held = require_wanted(lock(tx, deployment_id))
        store.resume_deployment(tx, deployment_id)
        if held.failures or held.asleep:
            tell(tx, caller, deployment_id, "resumed", failures=held.failures, asleep=held.asleep)
        act(tx, caller, "deployment.resume", deployment_id, model=held.model)
    return read_standing(ctx, deployment_id)


def cancel_load(ctx: Context, caller: Caller, deployment_id: UUID) -> Standing:
    """End a swap that is under way; without one, end the loads: the replicas that are ready stay, and no more are
    wanted than those. Twice is as once: with nothing on its way nothing is changed.

    Raises Forbidden, NotFound, Conflict (code deployment_stopped).
    """
    caller.require("launch")
    with ctx.db.transaction() as tx:
        held = require_wanted(lock(tx, deployment_id))
        act(tx, caller, "deployment.cancel", deployment_id, model=held.model)
        if held.next_revision is not None:
            swapping.end(tx, deployment_id, SwapState.CANCELLED)
            swapping.order(tx, deployment_id, Wanted.DRAIN, of=held.next_revision)
            tell(tx, caller, deployment_id, "swap_cancelled", to=held.next_revision)
        else:
            _cancel_loads(tx, caller, held)
    return read_standing(ctx, deployment_id)


def _cancel_loads(tx: Transaction, caller: Caller, held: Deployment) -> None:
    ended = swapping.order(tx, held.id, Wanted.DRAIN, states=ON_THE_WAY)
    living = [one for one in swapping.list_replicas(tx, [held.id]) if one.ended_at is None]
    ready = sum(one.state == ReplicaState.READY and one.wanted != Wanted.DRAIN for one in living)
    # One that waits for its next try, or for room, is a load that is wanted, too.
    if ended or (ready < held.replicas and not held.asleep):
        store.shrink_deployment(tx, held.id, ready)
        tell(tx, caller, held.id, "load_cancelled", replicas=ready, before=held.replicas)


def list_deployments(ctx: Context, caller: Caller) -> list[Standing]:
    """What is wanted, the most urgent first, with what is."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        wanted = store.list_wanted(tx)
        replicas = swapping.list_replicas(tx, [one.id for one in wanted])
    return [Standing(one, [it for it in replicas if it.deployment_id == one.id]) for one in wanted]


def get_deployment(ctx: Context, caller: Caller, deployment_id: UUID) -> Standing:
    """A deployment, one that was stopped too. Raises NotFound (code deployment_not_found)."""
    caller.require("read")
    return read_standing(ctx, deployment_id)


def read_standing(ctx: Context, deployment_id: UUID) -> Standing:
    """A deployment with its replicas, whatever the caller's scopes. Raises NotFound (code deployment_not_found)."""
    with ctx.db.transaction() as tx:
        found = _require(store.find_deployment(tx, deployment_id))
        return Standing(found, swapping.list_replicas(tx, [deployment_id]))


def lock(tx: Transaction, deployment_id: UUID) -> Deployment:
    """A deployment, locked until the transaction's end. Raises NotFound (code deployment_not_found)."""
    return _require(store.lock_deployment(tx, deployment_id))


def _require(found: Deployment | None) -> Deployment:
    if found is None:
        raise NotFound(
            "No deployment with this id. GET /v1/deployments lists those that are wanted.",
            code="deployment_not_found",
        )
    return found


def require_wanted(held: Deployment) -> Deployment:
    """Go on only with a deployment that is not stopped. Raises Conflict (code deployment_stopped)."""
    if held.stopped_at is not None:
        raise Conflict(f"{_name(held)} was stopped. Launch the model again.", code="deployment_stopped")
    return held


def require_fetched(tx: Transaction, model: str, revision: str) -> None:
    """Go on only with a revision whose files are here. Raises NotFound (code revision_not_found), Conflict (code
    revision_not_fetched)."""
    found = revisions.find_revision(tx, model, revision)
    if found is None:
        raise NotFound(
            f"'{model}' has no revision {revision}. `batchinfer models revisions {model}` lists those it has.",
            code="revision_not_found",
            param="revision",
        )
    if found.state not in FETCHED or found.pruned_at is not None:
        state = "pruned" if found.pruned_at is not None else found.state
        raise Conflict(
            f"Revision {revision} of '{model}' is {state}: its files are not all here. Fetch it first.",
            code="revision_not_fetched",
            param="revision",
        )


def tell(tx: Transaction, caller: Caller, deployment_id: UUID, event: str, **data: Any) -> None:
    """Leave an event about a deployment."""
    record(tx, [Event(DEFAULT_TENANT, "deployment", deployment_id, event, caller.actor, data)])


def act(tx: Transaction, caller: Caller, action: str, deployment_id: UUID, **data: Any) -> None:
    """Leave a row of the audit log about a deployment."""
    note(tx, caller, action, show_id(DEPLOYMENT, deployment_id), tenant_id=DEFAULT_TENANT, **data)


def _make_present(present: Deployment) -> Conflict:
    return Conflict(
        f"'{present.model}' is wanted on {present.device} already, as {_name(present)}. Change that one: ensure takes "
        "the same fields, and swap takes another revision.",
        code="deployment_exists",
        param="model",
    )


def _name(deployment: Deployment) -> str:
    return show_id(DEPLOYMENT, deployment.id)
