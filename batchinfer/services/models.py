"""Models: what exists, what is wanted, and how it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.errors import NotFound
from batchinfer.services.audit import note
from batchinfer.store import deployments, events, fleet, placing, replicas
from batchinfer.store.events import Event

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context
    from batchinfer.store.deployments import Deployment
    from batchinfer.store.fleet import Model
    from batchinfer.store.session import Transaction


def make_unknown(name: str, param: str = "model") -> NotFound:
    """The error for a model that is not there, named in the field `param`."""
    return NotFound(
        f"No model named '{name[:100]}'. GET /v1/models lists the models that are here.",
        code="model_not_found",
        param=param,
    )


def register_model(ctx: Context, name: str, path: str, revision: str, facts: dict[str, Any] | None = None) -> UUID:
    """Make a model folder known under a name; the same name again replaces path, revision and facts."""
    with ctx.db.transaction() as tx:
        return fleet.register_model(tx, name=name, path=path, revision=revision, facts=facts or {})


def add_model(ctx: Context, caller: Caller, name: str, path: str, revision: str, facts: dict[str, Any]) -> None:
    """An operator's act: make a model folder known, and want it on any device where it is wanted on none.

    Raises Forbidden.
    """
    caller.require("launch")
    with ctx.db.transaction() as tx:
        fleet.register_model(tx, name=name, path=path, revision=revision, facts=facts)
        if not deployments.list_of_model(tx, name):
            deployments.ensure_deployment(tx, model=name, engine="auto", device="auto", replicas=1)
        note(tx, caller, "model.add", name, revision=revision)


def ensure_deployment(
    ctx: Context, model: str, *, engine: str = "auto", device: str = "auto", replicas: int = 1
) -> UUID:
    """Want a model on a kind of device; one deployment a (model, device). Raises NotFound (code model_not_found)."""
    with ctx.db.transaction() as tx:
        found = deployments.ensure_deployment(tx, model=model, engine=engine, device=device, replicas=replicas)
    if found is None:
        raise make_unknown(model)
    return found


def begin_declared(ctx: Context, deployment_id: UUID, earlier_id: UUID | None) -> None:
    """The model that a start of the service names: awake, without the pauses of earlier failures, and in place of the
    one that the start before it named."""
    with ctx.db.transaction() as tx:
        replicas.reset_failures(tx, deployment_id)
        placing.set_asleep(tx, [deployment_id], asleep=False)
        placing.note_used(tx, [deployment_id])
        if earlier_id is not None and earlier_id != deployment_id and placing.end_wish(tx, earlier_id):
            data = {"reason": "a start of the service named another model"}
            events.record(tx, [Event(DEFAULT_TENANT, "deployment", earlier_id, "stopped", "up", data)])


def list_deployments(ctx: Context) -> list[Deployment]:
    """What is wanted, the most urgent first."""
    with ctx.db.transaction() as tx:
        return deployments.list_wanted(tx)


def list_models(ctx: Context, caller: Caller) -> list[Model]:
    """Every model with its state: ready, loading, failed or stopped. Models are the installation's, not a tenant's."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return fleet.list_models(tx)


def get_model(ctx: Context, caller: Caller, name: str) -> Model:
    """One model. Raises NotFound (code model_not_found)."""
    caller.require("read")
    found = find_model(ctx, name)
    if found is None:
        raise make_unknown(name)
    return found


def find_model(ctx: Context, name: str) -> Model | None:
    """One model for a part of the system itself, or None."""
    with ctx.db.transaction() as tx:
        return fleet.find_model(tx, name)


def require_model(tx: Transaction, name: str, param: str = "model") -> None:
    """Go on only if there is a model of this name. Raises NotFound (code model_not_found)."""
    if not fleet.model_exists(tx, name):
        raise make_unknown(name, param)
