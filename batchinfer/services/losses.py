"""What the settings and the breadcrumbs make of a lost worker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from batchinfer.domain.retries import RetryClass, find_rule
from batchinfer.services.crumbs import read_crumbs
from batchinfer.store.returns import LossRule

if TYPE_CHECKING:
    from batchinfer.services.context import Context


def make_loss_rule(ctx: Context) -> LossRule:
    """The rule under which leases end here."""
    return LossRule(
        max_crashes=ctx.settings.max_crashes,
        waits=find_rule(RetryClass.INFRASTRUCTURE, ctx.settings),
        find_suspects=partial(read_crumbs, ctx.settings.crumbs_dir),
    )
