"""Deployment: what is wanted beside what is there, how far a launch or a swap has come, and the acts on it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from flask import Blueprint, Response
from flask_babel import gettext as _

from batchinfer.admin.acting import ask, finish
from batchinfer.admin.device_bars import draw_use
from batchinfer.admin.live import render_live
from batchinfer.admin.models import deployment_address
from batchinfer.admin.placed import count_ready, place
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.deployments import DeploymentSpec
from batchinfer.domain.ids import DEPLOYMENT, parse_id
from batchinfer.services import deployments, device_use, hosts

if TYPE_CHECKING:
    from uuid import UUID

    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.services.deployments import Standing

#: Lines of what happened last.
EVENTS = 12


def register(blueprint: Blueprint) -> None:
    """Add the page and its acts."""
    one = "/deployments/<deployment_id>"
    blueprint.add_url_rule(one, view_func=show_deployment)
    blueprint.add_app_template_filter(read_time)
    for verb, question, take in (
        ("stop", ask_stop, take_stop),
        ("cancel", ask_cancel, take_cancel),
    ):
        blueprint.add_url_rule(f"{one}/{verb}", view_func=question)
        blueprint.add_url_rule(f"{one}/{verb}", view_func=take, methods=["POST"])
    blueprint.add_url_rule(f"{one}/resume", view_func=take_resume, methods=["POST"])
    blueprint.add_url_rule(f"{one}/start", view_func=take_start, methods=["POST"])


def show_deployment(deployment_id: str) -> Response:
    """The page. Raises NotFound."""
    context, caller = get_context(), get_caller()
    standing = _find(deployment_id)
    held = standing.deployment
    found = hosts.list_events(context, caller, subject="deployment", subject_id=held.id, limit=EVENTS)
    uses = device_use.list_devices(context, caller)
    mine = {(one.host, one.device) for one in standing.replicas if one.ended_at is None}
    return render_live(
        "deployment.html",
        "_deployment.html",
        standing=standing,
        held=held,
        deployment_id=deployment_id,
        placed=place(standing.replicas),
        events=found.data,
        bars=[draw_use(use) for use in uses if (use.host, use.device.name) in mine],
    )


def read_time(text: str | None) -> datetime | None:
    """A time that was kept as text in a swap's row."""
    return datetime.fromisoformat(text) if text else None


def _find(deployment_id: str) -> Standing:
    return deployments.get_deployment(get_context(), get_caller(), _read(deployment_id))


def _read(deployment_id: str) -> UUID:
    return parse_id(DEPLOYMENT, deployment_id)


def _back(deployment_id: str) -> str:
    return deployment_address(_read(deployment_id))


def ask_stop(deployment_id: str) -> Response:
    """Whether to want it no more. Raises NotFound."""
    standing = _find(deployment_id)
    ready = count_ready(standing)
    text = _(
        "Its replicas (%(ready)d of them ready) end what runs and are unloaded; a swap is cancelled. Jobs of the model "
        "wait until it is launched again.", ready=ready,
    )  # fmt: skip
    title = _("Stop %(model)s on %(device)s?", model=standing.deployment.model, device=standing.deployment.device)
    return ask(title, verb=_("Stop it"), text=text, danger=True, back=_back(deployment_id))


def take_stop(deployment_id: str) -> BaseResponse:
    """Want it no more. Raises NotFound, Forbidden."""
    deployments.stop(get_context(), get_caller(), _read(deployment_id))
    return finish(_("The deployment is stopped: what runs ends first."), _back(deployment_id))


def ask_cancel(deployment_id: str) -> Response:
    """Whether to end a swap, or without one the loads. Raises NotFound."""
    standing = _find(deployment_id)
    if standing.deployment.next_revision is not None:
        text = _("Revision %(revision)s goes on serving; what was loaded of %(next)s is unloaded.",
                 revision=standing.deployment.revision, next=standing.deployment.next_revision)  # fmt: skip
        return ask(_("Cancel the swap?"), verb=_("Cancel the swap"), text=text, back=_back(deployment_id))
    text = _("What is loading ends. %(ready)d replicas are ready and stay; no more than those are wanted afterwards.",
             ready=count_ready(standing))  # fmt: skip
    return ask(_("Cancel the launch?"), verb=_("Cancel the launch"), text=text, back=_back(deployment_id))


def take_cancel(deployment_id: str) -> BaseResponse:
    """End what is on its way. Raises NotFound, Forbidden, Conflict where it was stopped."""
    swapping = _find(deployment_id).deployment.next_revision is not None
    deployments.cancel_load(get_context(), get_caller(), _read(deployment_id))
    told = _("The swap was cancelled.") if swapping else _("The launch was cancelled.")
    return finish(told, _back(deployment_id))


def take_resume(deployment_id: str) -> BaseResponse:
    """Try again at once, wake up. Raises NotFound, Forbidden, Conflict where it was stopped."""
    deployments.resume(get_context(), get_caller(), _read(deployment_id))
    return finish(_("It is tried again at once."), _back(deployment_id))


def take_start(deployment_id: str) -> BaseResponse:
    """Want one replica of a deployment whose launch was cancelled. Raises NotFound, Forbidden, Conflict."""
    held = deployments.require_wanted(_find(deployment_id).deployment)
    if held.replicas == 0:
        spec = DeploymentSpec(held.model, held.device, {"replicas": 1})
        deployments.ensure(get_context(), get_caller(), spec)
    return finish(_("One replica is wanted again."), _back(deployment_id))
