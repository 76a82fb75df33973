"""`batchinfer keys` and `batchinfer audit`: API keys, made and ended next to the database, and who did what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape

from batchinfer.cli.local import HOME, context, operator
from batchinfer.cli.output import JSON, emit, err, out, say, words

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@HOME
@click.option("--name", default="cli", show_default=True, help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, help="What it may do; several times for more; all if left out.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires.")
@click.option("--per-minute", type=click.IntRange(1), help="Requests that it may send in a minute.")
@click.option("--tenant", help="Whose key it is, by name; the first tenant's if left out. A new name makes a tenant.")
@JSON
def create_key(
    home: Path | None,
    name: str,
    scopes: tuple[str, ...],
    days: float | None,
    per_minute: int | None,
    tenant: str | None,
    as_json: bool,
) -> None:
    """Make a key and show it, this once."""
    from batchinfer.domain.ids import KEY, show_id
    from batchinfer.services import keys as service
    from batchinfer.services import tenants
    from batchinfer.services.context import SCOPES

    with context(home) as ctx:
        owner = service.ensure_default_tenant(ctx)
        if tenant is not None:
            owner = tenants.ensure_tenant(ctx, operator(), tenant)
        key, token = service.create_key(
            ctx,
            name,
            scopes or SCOPES,
            tenant_id=owner,
            expires_in_s=None if days is None else days * 86400,
            requests_per_minute=per_minute,
        )
    if as_json:
        emit({"id": show_id(KEY, key.id), "name": key.name, "scopes": sorted(key.scopes), "key": token})
    else:
        out.print(token)
    err.print(f"May: {words(key.scopes)}. Only its hash is stored: it cannot be shown again.")


@keys.command("list")
@HOME
@click.option("--tenant", help="Whose keys, by name; the first tenant's if left out.")
@JSON
def list_keys(home: Path | None, tenant: str | None, as_json: bool) -> None:
    """The keys there are, without their secrets, newest first; at most 1,000."""
    from batchinfer.api.keys import show_key
    from batchinfer.domain.ids import KEY, show_id
    from batchinfer.services import keys as service

    with context(home) as ctx:
        for key in service.list_keys(ctx, operator(), tenant=tenant, limit=1000).data:
            if as_json:
                emit(show_key(key).model_dump(mode="json"))
                continue
            state = "valid" if key.valid else "ended"
            out.print(escape(f"{show_id(KEY, key.id)}  {state}  bi_{key.prefix}_…  {key.name}  {words(key.scopes)}"))


@keys.command("revoke")
@HOME
@click.argument("key_id")
@JSON
def revoke_key(home: Path | None, key_id: str, as_json: bool) -> None:
    """End a key at once; its id is in `keys list`."""
    from batchinfer.api.keys import show_key
    from batchinfer.domain.ids import KEY, parse_id
    from batchinfer.services import keys as service

    with context(home) as ctx:
        key, ended = service.revoke_key(ctx, operator(), parse_id(KEY, key_id))
    if as_json:
        emit(show_key(key).model_dump(mode="json"))
    else:
        say("Revoked." if ended else "It had ended before.")


@keys.command("rotate")
@HOME
@click.argument("key_id")
@click.option("--days", type=click.FloatRange(min=0), default=7.0, show_default=True, help="Days the old one goes on.")
@JSON
def rotate_key(home: Path | None, key_id: str, days: float, as_json: bool) -> None:
    """Replace a key by a new one that may do the same, and show it, this once; the old one ends after some days."""
    from batchinfer.domain.ids import KEY, parse_id, show_id
    from batchinfer.services import keys as service

    with context(home) as ctx:
        key, token = service.rotate_key(ctx, operator(), parse_id(KEY, key_id), days * 86400)
    if as_json:
        emit({"id": show_id(KEY, key.id), "name": key.name, "scopes": sorted(key.scopes), "key": token})
    else:
        out.print(token)
    err.print(f"May: {words(key.scopes)}. Only its hash is stored: it cannot be shown again.")


@click.command("audit")
@HOME
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@JSON
def audit(home: Path | None, limit: int, as_json: bool) -> None:
    """What administrators did, newest first."""
    from batchinfer.api.audit import show_act
    from batchinfer.services import audit as service

    with context(home) as ctx:
        for stored in service.list_acts(ctx, operator(), limit=limit).data:
            if as_json:
                emit(show_act(stored).model_dump(mode="json"))
                continue
            act, when = stored.act, stored.created_at.isoformat(timespec="seconds")
            out.print(escape(f"{when}  {act.action:<14} {act.subject}  {stored.tenant}  by {act.actor}  {act.data}"))
