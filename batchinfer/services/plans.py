"""What a document of a run is to become, read from the run as it was declared and resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.domain.limits import Limits
from batchinfer.domain.pipelines import Pipeline, parse_pipeline
from batchinfer.domain.rendering import RenderPlan, plan_pipeline, plan_plain
from batchinfer.errors import BadRequest, Failure

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.store.documents import Rendering, RunPart


def read_pipeline(ctx: Context, run: RunPart) -> Pipeline:
    """A run's pipeline. Raises Failure where it is over limits that were lowered meanwhile."""
    try:
        return parse_pipeline(run.spec.get("pipeline"), Limits.of(ctx.settings))
    except BadRequest as error:
        raise Failure(f"The run can no longer be done as declared: {error.message}", code="run_unreadable") from None


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
