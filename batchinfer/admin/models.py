"""Models: what exists, what is wanted, what is there, and what each device holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, url_for

from batchinfer.admin.device_bars import draw_use
from batchinfer.admin.live import render_live
from batchinfer.admin.placed import place
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.ids import DEPLOYMENT, REPLICA, show_id
from batchinfer.services import deployments, device_use
from batchinfer.store import pages_fleet

if TYPE_CHECKING:
    from typing import Any
    from uuid import UUID


def register(blueprint: Blueprint) -> None:
    """Add the page, and for templates the addresses of deployments."""
    blueprint.add_url_rule("/models", view_func=show_models)
    blueprint.add_app_template_global(deployment_address, "deployment_address")
    blueprint.add_app_template_global(lambda replica_id: show_id(REPLICA, replica_id), "show_replica")


def deployment_address(deployment_id: UUID, view: str = "show_deployment", **more: Any) -> str:
    """Where a deployment is shown, or an act on it asked for."""
    return url_for(f"admin.{view}", deployment_id=show_id(DEPLOYMENT, deployment_id), **more)


def show_models() -> Response:
    """The page."""
    context, caller = get_context(), get_caller()
    with context.db.transaction() as tx:
        catalogue = pages_fleet.list_catalogue(tx)
    standings = deployments.list_deployments(context, caller)
    placed = place(replica for standing in standings for replica in standing.replicas)
    return render_live(
        "models.html",
        "_models.html",
        catalogue=catalogue,
        standings=standings,
        placed={
            standing.deployment.id: [one for one in placed if one.replica.deployment_id == standing.deployment.id]
            for standing in standings
        },
        bars=[draw_use(use) for use in device_use.list_devices(context, caller)],
    )
