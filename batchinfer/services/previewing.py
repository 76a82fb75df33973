"""What a run would do, before it is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.services.runs import check_spec

if TYPE_CHECKING:
    from batchinfer.services.context import Caller, Context


def preview_run(ctx: Context, caller: Caller, body: object) -> dict[str, Any]:
    """What is known of a declaration without looking into its source: {"documents", "bytes", "unchanged", "refused",
    "redone", "complete", "reason"}. Nothing is made.

    Raises BadRequest (what is wrong with it), NotFound.
    """
    caller.require("submit")
    source = check_spec(ctx, caller, body).source
    named = len(source.files) + len(source.urls)
    reason = f"It names {named:,} documents." if named else "What lies in its folder or bucket is listed by the run."
    return {
        "documents": named, "bytes": 0, "unchanged": 0, "refused": 0, "redone": 0, "complete": named > 0,
        "reason": reason,
    }  # fmt: skip
