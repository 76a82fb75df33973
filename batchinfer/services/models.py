"""Models: what exists, what is wanted, and how it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.errors import NotFound
from batchinfer.services.audit import note
from batchinfer.store import fleet

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context
    from batchinfer.store.fleet import Deployment, Model
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
    """An operator's act: make a model folder known, and want it on any device. Raises Forbidden."""
    caller.require("launch")
    with ctx.db.transaction() as tx:
        fleet.register_model(tx, name=name, path=path, revision=revision, facts=facts)
        fleet.ensure_deployment(tx, model=name, engine="auto", device="auto", replicas=1)
        note(tx, caller, "model.add", name, revision=revision)


def ensure_deployment(
    ctx: Context, model: str, *, engine: str = "auto", device: str = "auto", replicas: int = 1
) -> UUID:
    """Want a model on a kind of device; one deployment a (model, device). Raises NotFound (code model_not_found)."""
    with ctx.db.transaction() as tx:
        found = fleet.ensure_deployment(tx, model=model, engine=engine, device=device, replicas=replicas)
    if found is None:
        raise make_unknown(model)
    return found


def list_deployments(ctx: Context) -> list[Deployment]:
    """What is wanted, oldest first."""
    with ctx.db.transaction() as tx:
        return fleet.list_deployments(tx)


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
