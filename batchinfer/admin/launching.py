"""A launch: its plan beside what each device holds, before anything is loaded; then the launch itself; and changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, make_response, render_template, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.device_bars import Bar, draw_fit
from batchinfer.admin.launch_form import make_body, read_values, show_change, show_values, whole_body
from batchinfer.admin.models import deployment_address
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.deployments import ENGINES, parse_deployment
from batchinfer.domain.ids import DEPLOYMENT, parse_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.launches import DTYPES, QUANTISATIONS, read_sizes
from batchinfer.errors import BadRequest, BatchinferError, Conflict, Forbidden, NotFound
from batchinfer.services import deployments, device_use, hosts, memory, models, registry
from batchinfer.services.deployments import FETCHED
from batchinfer.store.deployments import read_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.domain.launches import Advice, DeviceFit
    from batchinfer.services.memory import LaunchPlan


@dataclass(frozen=True)
class Advised:
    """An advice and where it leads: the plan of a smaller launch, or the deployments that would have to stop."""

    advice: Advice
    address: str | None
    deployments: tuple[tuple[str, UUID], ...] = ()

    @property
    def text(self) -> str:
        """As a line of a list: without the word that joins it to the one before."""
        bare = self.advice.text.removeprefix("Or ")
        return bare[:1].upper() + bare[1:]


@dataclass(frozen=True)
class Offer:
    """A device beside the plan."""

    fit: DeviceFit
    bar: Bar
    advice: tuple[Advised, ...]


@dataclass(frozen=True)
class Planned:
    """What came of a question for a plan: the plan, or why there is none. `may_launch`: nothing speaks against it."""

    plan: LaunchPlan | None = None
    offers: tuple[Offer, ...] = ()
    #: Why no plan is needed or can be made.
    note: str = ""
    may_launch: bool = field(default=False)


def register(blueprint: Blueprint) -> None:
    """Add the plan, the launch and the change of a deployment."""
    blueprint.add_url_rule("/plan", view_func=show_plan)
    blueprint.add_url_rule("/plan", view_func=take_launch, methods=["POST"])
    blueprint.add_url_rule("/deployments/<deployment_id>/change", view_func=show_change_form)
    blueprint.add_url_rule("/deployments/<deployment_id>/change", view_func=take_change, methods=["POST"])


def show_plan() -> Response:
    """The form, and once a model is chosen what its launch would take. Nothing is launched."""
    values = read_values(request.args)
    if not values["model"]:
        return _render(values, Planned())
    try:
        return _render(values, make_plan(values))
    except (BadRequest, NotFound, Conflict) as error:
        return _render(values, Planned(), error)


def take_launch() -> BaseResponse:
    """Launch it. What is refused stands beside its field. Raises Forbidden."""
    values = read_values(request.form)
    try:
        spec = parse_deployment(make_body(values))
        standing, _replayed = deployments.launch(get_context(), get_caller(), spec)
    except Forbidden:
        raise
    except (BadRequest, NotFound, Conflict) as error:
        return _render(values, _plan_again(values), error)
    return finish(_("The launch has begun. Jobs wait until the model is ready."),
                  deployment_address(standing.deployment.id))  # fmt: skip


def _plan_again(values: Mapping[str, str]) -> Planned:
    try:
        return make_plan(values)
    except BatchinferError:
        return Planned()


def make_plan(values: Mapping[str, str]) -> Planned:
    """What a form asks for, planned. Raises BadRequest, NotFound."""
    context, caller = get_context(), get_caller()
    spec = parse_deployment(make_body(values))
    whole = spec.whole
    models.get_model(context, caller, spec.model)
    if whole["revision"] is not None:
        registry.get_revision(context, caller, spec.model, whole["revision"])
    if whole["engine"] in memory.WEIGHTLESS:
        note = _("This engine holds no weights on a device of ours: there is nothing to plan.")
        return Planned(note=note, may_launch=True)
    sizes = read_sizes(spec.device, whole)
    try:
        plan = memory.plan_launch(context, caller, spec.model, sizes, whole["revision"])
    except memory.FactsUnknown as error:
        return Planned(note=error.message, may_launch=True)
    holders = {
        share.worker: share.deployment_id
        for use in device_use.list_devices(context, caller)
        for share in use.shares
        if share.deployment_id is not None
    }
    offers = tuple(
        Offer(fit, draw_fit(fit, spec.model, holders),
              tuple(_lead(advice, values, sizes, holders) for advice in fit.advice))
        for fit in plan.devices
    )  # fmt: skip
    return Planned(plan, offers, may_launch=plan.fits is not False or not whole["replicas"])


def _lead(advice: Advice, values: Mapping[str, str], sizes: Any, holders: Mapping[str, UUID]) -> Advised:
    if advice.spec is None:
        return Advised(advice, None, tuple((one, holders[one]) for one in advice.workers if one in holders))
    changed: dict[str, Any] = {name: text for name, text in show_change(values, sizes, advice.spec).items() if text}
    return Advised(advice, url_for("admin.show_plan", **changed))


def _render(values: Mapping[str, str], planned: Planned, error: BatchinferError | None = None) -> Response:
    page = render_template("plan.html", values=values, planned=planned, error=error, choices=list_choices(values))
    return make_response(page, error.status if error else 200)


def list_choices(values: Mapping[str, str]) -> dict[str, Any]:
    """What the selects of the form offer."""
    context, caller = get_context(), get_caller()
    known = [model.name for model in models.list_models(context, caller)]
    devices = {device.name for host in hosts.list_hosts(context, caller) if host.alive for device in host.devices}
    revisions = []
    if values["model"] in known:
        revisions = [
            one.revision
            for one in registry.list_revisions(context, caller, values["model"])
            if one.state in FETCHED and one.pruned_at is None
        ]
    return {
        "model": known,
        "revision": revisions,
        "device": ["auto", "cpu", "cuda", *sorted(devices - {"auto", "cpu", "cuda"})],
        "engine": list(ENGINES),
        "dtype": list(DTYPES),
        "quantisation": list(QUANTISATIONS),
        "class": [str(word) for word in JobClass],
    }


def show_change_form(deployment_id: str) -> Response:
    """The form with what a deployment is now. Raises NotFound, Conflict where it was stopped, Forbidden."""
    held = _find(deployment_id)
    return _render_change(held, show_values(held, read_columns(held)))


def take_change(deployment_id: str) -> BaseResponse:
    """Make the deployment what the form says; what its processes were started with replaces them. Raises as above."""
    held = _find(deployment_id)
    values = {**read_values(request.form), "model": held.model, "device": held.device, "revision": ""}
    try:
        spec = parse_deployment(whole_body(values))
        _standing, done = deployments.ensure(get_context(), get_caller(), spec)
    except (BadRequest, NotFound, Conflict) as error:
        return _render_change(held, values, error)
    told = _("Nothing was changed.") if done == "unchanged" else _("The deployment was changed.")
    return finish(told, deployment_address(held.id))


def _find(deployment_id: str) -> Any:
    caller = get_caller()
    caller.require("launch")
    found = deployments.get_deployment(get_context(), caller, parse_id(DEPLOYMENT, deployment_id))
    # An `ensure` of one that was stopped meanwhile would launch another one.
    return deployments.require_wanted(found.deployment)


def _render_change(held: Any, values: Mapping[str, str], error: BatchinferError | None = None) -> Response:
    page = render_template("change.html", held=held, values=values, error=error, choices=list_choices(values))
    return make_response(page, error.status if error else 200)
