"""What a run would do, before it is declared: its recipe, and what earlier runs have done by the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.pipelines import make_recipe
from batchinfer.services.runs import check_spec, resolve

if TYPE_CHECKING:
    from batchinfer.services.context import Caller, Context


def preview_run(ctx: Context, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a declaration, and the prompt as it stands now; nothing is made.

    Raises BadRequest (what is wrong with it), NotFound.
    """
    caller.require("submit")
    spec = check_spec(ctx, caller, body)
    with ctx.db.transaction() as tx:
        resolved = resolve(tx, caller.tenant_id, spec)
    recipe = make_recipe(
        spec.pipeline, revision=resolved["revision"], prompt=resolved["prompt"], system=resolved["system"]
    )
    return {"recipe": recipe, "resolved": resolved}
