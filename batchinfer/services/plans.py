"""What a document of a run is to become, read from the run as it was declared and resolved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchinfer.domain.limits import Limits
from batchinfer.domain.pipelines import Pipeline, parse_pipeline
from batchinfer.domain.rendering import RenderPlan, plan_pipeline, plan_plain
from batchinfer.errors import BadRequest, Failure

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.store.documents import Rendering, RunPart

_UNBOUND = 10**9


def read_pipeline(ctx: Context, run: RunPart) -> Pipeline:
    """A run's pipeline. It was held to the limits when it was declared: those that were lowered since do not bind it.

    Raises Failure (`run_unreadable`) for what another version has declared.
    """
    limits = replace(
        Limits.of(ctx.settings), max_tokens=_UNBOUND, max_prompt_chars=_UNBOUND, max_images=_UNBOUND
    )  # fmt: skip
    try:
        return parse_pipeline(run.spec.get("pipeline"), limits)
    except BadRequest as error:
        raise Failure(f"The run cannot be read as it was declared: {error.message}", code="run_unreadable") from None


def make_plan(ctx: Context, document: Rendering) -> RenderPlan:
    """How the pages of a document are drawn. Raises Failure as `read_pipeline`."""
    if document.run is None:
        return plan_plain(ctx.settings)
    return plan_pipeline(read_pipeline(ctx, document.run), ctx.settings)


def find_most_bytes(ctx: Context, document: Rendering) -> int:
    """The largest file that a document may be."""
    most, said = ctx.settings.max_file_bytes, None
    if document.run is not None:
        said = (document.run.spec.get("source") or {}).get("max_bytes")
    return min(most, int(said)) if said else most
