"""`batchinfer tenants`: who there is, and how long their jobs are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape

from batchinfer.cli.local import HOME, context, operator
from batchinfer.cli.output import JSON, emit, out

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.store.tenants import Tenant


@click.group()
def tenants() -> None:
    """Tenants and what is kept of theirs."""


@tenants.command("list")
@HOME
@JSON
def list_tenants(home: Path | None, as_json: bool) -> None:
    """The tenants there are, newest first; at most 1,000."""
    from batchinfer.services import tenants as service

    with context(home) as ctx:
        for tenant in service.list_tenants(ctx, operator(), limit=1000).data:
            _show(tenant, as_json)


@tenants.command("keep")
@HOME
@click.argument("name")
@click.option("--days", type=click.IntRange(0, 36_500), help="Days; 0 for ever; as the setting says if left out.")
@JSON
def keep(home: Path | None, name: str, days: int | None, as_json: bool) -> None:
    """Say how long a tenant's jobs and results are kept."""
    from batchinfer.services import tenants as service

    with context(home) as ctx:
        _show(service.set_retention(ctx, operator(), name, days), as_json)


def _show(tenant: Tenant, as_json: bool) -> None:
    from batchinfer.api.tenants import show_tenant

    if as_json:
        emit(show_tenant(tenant).model_dump(mode="json"))
        return
    kept = {None: "as the setting says", 0: "for ever"}.get(tenant.keep_days, f"{tenant.keep_days} days")
    out.print(escape(f"{tenant.name}  kept {kept}"))
