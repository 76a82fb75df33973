"""Another revision for a deployment: whether both fit, golden prompts, the swap, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, make_response, render_template, request
from flask_babel import gettext as _

from batchinfer.admin.acting import finish
from batchinfer.admin.models import deployment_address
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.goldens import MAX_GOLDENS
from batchinfer.domain.ids import DEPLOYMENT, parse_id
from batchinfer.domain.launches import read_sizes
from batchinfer.domain.limits import Limits
from batchinfer.domain.swaps import SwapRequest, parse_swap
from batchinfer.errors import BadRequest, BatchinferError, Conflict, NotFound
from batchinfer.media.golden_files import read_golden_lines
from batchinfer.services import deployments, memory, registry, swapping
from batchinfer.services.deployments import FETCHED
from batchinfer.store.deployments import read_columns

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.services.memory import LaunchPlan
    from batchinfer.store.deployments import Deployment

_ONE = "/deployments/<deployment_id>"


def register(blueprint: Blueprint) -> None:
    """Add the swap and the rollback, each with its form."""
    blueprint.add_url_rule(f"{_ONE}/swap", view_func=show_swap)
    blueprint.add_url_rule(f"{_ONE}/swap", view_func=take_swap, methods=["POST"])
    blueprint.add_url_rule(f"{_ONE}/rollback", view_func=show_rollback)
    blueprint.add_url_rule(f"{_ONE}/rollback", view_func=take_rollback, methods=["POST"])


def show_swap(deployment_id: str) -> Response:
    """Which revision, and whether both fit. Raises NotFound, Forbidden, Conflict where it was stopped."""
    held = _find(deployment_id)
    return _render(held, request.args.get("revision", ""))


def take_swap(deployment_id: str) -> BaseResponse:
    """Begin the swap. What is refused stands beside its field. Raises as above."""
    held, form = _find(deployment_id), request.form
    try:
        body: dict[str, Any] = {"revision": form.get("revision") or None, "drain_first": "drain_first" in form}
        golden = _read_golden()
        if golden:
            body["golden"] = golden
        asked = parse_swap(body, Limits.of(get_context().settings))
        swapping.begin_swap(get_context(), get_caller(), held.id, asked)
    except (BadRequest, NotFound, Conflict) as error:
        return _render(held, form.get("revision", ""), error)
    return finish(_("The swap has begun. Until it switches, the revision before serves."), deployment_address(held.id))


def _read_golden() -> list[dict[str, Any]]:
    """The lines of the file or of the field, one of them. Raises BadRequest."""
    file, text = request.files.get("golden_file"), request.form.get("golden", "").strip()
    data = file.stream.read() if file is not None and file.filename else b""
    if data and text:
        raise BadRequest(_("Send the prompts as a file or as text, not both."), param="golden")
    raw = data or text.encode()
    return [line for _number, line in read_golden_lines(raw, _("The text"))] if raw.strip() else []


def show_rollback(deployment_id: str) -> Response:
    """Back to the revision before, and whether both fit. Raises as `show_swap`, and Conflict where there is none."""
    held = _find(deployment_id)
    if held.previous_revision is None:
        raise Conflict(_("It was never swapped: there is no revision to go back to."), code="no_previous_revision")
    return _render(held, held.previous_revision, back=True)


def take_rollback(deployment_id: str) -> BaseResponse:
    """Begin the way back. Raises as `show_rollback`."""
    held = _find(deployment_id)
    try:
        asked = SwapRequest("", drain_first="drain_first" in request.form)
        swapping.rollback(get_context(), get_caller(), held.id, asked)
    except (NotFound, Conflict) as error:
        return _render(held, held.previous_revision or "", error, back=True)
    return finish(_("The way back has begun. Until it switches, the revision now serves."), deployment_address(held.id))


def _find(deployment_id: str) -> Deployment:
    caller = get_caller()
    caller.require("launch")
    found = deployments.get_deployment(get_context(), caller, parse_id(DEPLOYMENT, deployment_id))
    return deployments.require_wanted(found.deployment)


def _render(held: Deployment, revision: str, error: BatchinferError | None = None, *, back: bool = False) -> Response:
    listed = registry.list_revisions(get_context(), get_caller(), held.model)
    plan, note = _plan(held, revision) if revision else (None, "")
    page = render_template(
        "swap.html",
        held=held,
        revision=revision,
        revisions=[one for one in listed if one.state in FETCHED and one.revision != held.revision],
        plan=plan,
        note=note,
        back=back,
        error=error,
        given=request.form,
        most_goldens=MAX_GOLDENS,
    )
    return make_response(page, error.status if error else 200)


def _plan(held: Deployment, revision: str) -> tuple[LaunchPlan | None, str]:
    """What the other revision takes beside what is there now; else why nobody knows."""
    if held.engine in memory.WEIGHTLESS:
        return None, _("This engine holds no weights on a device of ours: both fit.")
    sizes = read_sizes(held.device, read_columns(held))
    try:
        return memory.plan_launch(get_context(), get_caller(), held.model, sizes, revision), ""
    except BatchinferError as error:
        return None, error.message
