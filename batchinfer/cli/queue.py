"""`batchinfer queue`: what waits; pause it, resume it, look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape

from batchinfer.cli.local import HOME, context, operator
from batchinfer.cli.output import out, say

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from batchinfer.services.scheduling import ShownPause


@click.group()
def queue() -> None:
    """What waits: pause it, resume it, look at it."""


_TENANT = click.option("--tenant", help="A tenant's name; all tenants if left out.")
_MODEL = click.option("--model", help="A model's name; all models if left out.")


@queue.command("show")
@HOME
def show_queue(home: Path | None) -> None:
    """What waits and runs of the first tenant, every pause, and the limits."""
    from batchinfer.services import quotas, scheduling

    with context(home) as ctx:
        state, quota = scheduling.read_queue(ctx, operator()), quotas.read_quota(ctx, operator())
    for row in state.waiting:
        waits = f"{row.waiting:>9,} waiting {row.running:>7,} running"
        out.print(escape(f"{row.kind:<8} {row.job_class:<12} {waits}  {row.model}"))
    out.print(f"{quota.jobs:,} of at most {quota.max_jobs:,}; all tenants {quota.backlog:,} of {quota.max_backlog:,}")
    _show_pauses(state.pauses)


@queue.command("pause")
@HOME
@_TENANT
@_MODEL
def pause_queue(home: Path | None, tenant: str | None, model: str | None) -> None:
    """Begin nothing more of a tenant, a model, both or all; what runs ends as it would."""
    from batchinfer.services import scheduling

    with context(home) as ctx:
        _show_pauses(scheduling.pause(ctx, operator(), tenant=tenant, model=model))


@queue.command("resume")
@HOME
@_TENANT
@_MODEL
def resume_queue(home: Path | None, tenant: str | None, model: str | None) -> None:
    """End the pause of exactly this tenant, model, both or all."""
    from batchinfer.services import scheduling

    with context(home) as ctx:
        _show_pauses(scheduling.resume(ctx, operator(), tenant=tenant, model=model))


def _show_pauses(pauses: Iterable[ShownPause]) -> None:
    for pause in pauses:
        who, what = pause.tenant or "every tenant", pause.model or "every model"
        say(f"paused: {who}, {what}, since {pause.created_at.isoformat(timespec='seconds')} by {pause.actor}")
    if not pauses:
        say("Nothing is paused.")
