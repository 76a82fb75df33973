"""`batchinfer keys`: API keys, made and ended next to the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape

from batchinfer.cli.local import HOME, context, operator
from batchinfer.cli.output import err, out, say, words

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
def create_key(home: Path | None, name: str, scopes: tuple[str, ...], days: float | None) -> None:
    """Make a key and show it, this once."""
    from batchinfer.services import keys as service
    from batchinfer.services.context import SCOPES

    with context(home) as ctx:
        service.ensure_default_tenant(ctx)
        expires_in_s = None if days is None else days * 86400
        key, token = service.create_key(ctx, name, scopes or SCOPES, expires_in_s=expires_in_s)
    out.print(token)
    err.print(f"May: {words(key.scopes)}. Only its hash is stored: it cannot be shown again.")


@keys.command("list")
@HOME
def list_keys(home: Path | None) -> None:
    """The keys there are, without their secrets."""
    from batchinfer.domain.ids import DEFAULT_TENANT, KEY, show_id
    from batchinfer.store import keys as store

    with context(home) as ctx, ctx.db.transaction() as tx:
        for key in store.list_keys(tx, DEFAULT_TENANT):
            state = "valid" if key.valid else "ended"
            out.print(escape(f"{show_id(KEY, key.id)}  {state}  bi_{key.prefix}_…  {key.name}  {words(key.scopes)}"))


@keys.command("revoke")
@HOME
@click.argument("key_id")
def revoke_key(home: Path | None, key_id: str) -> None:
    """End a key at once; its id is in `keys list`."""
    from batchinfer.services import keys as service

    with context(home) as ctx:
        ended = service.revoke_key(ctx, operator(), key_id)
    say("Revoked." if ended else "It had ended before.")
