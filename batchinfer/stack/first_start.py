"""What a database needs before work can begin: the schema, the tenant, a key, the model that is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.errors import Unauthenticated
from batchinfer.services import keys, models
from batchinfer.stack.running import KEY_FILE
from batchinfer.store.migrate import upgrade

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.stack.home import Home
    from batchinfer.stack.programs import Fleet


def prepare_schema(database_url: str) -> None:
    """Bring the database to this release's schema. Raises StartError, Unavailable."""
    upgrade(database_url)


def prepare_key(ctx: Context, home: Home) -> str:
    """The key of this home; a new one where the database knows none."""
    keys.ensure_default_tenant(ctx)
    token = home.read_secret(KEY_FILE)
    if token is not None:
        try:
            keys.authenticate(ctx, token)
        except Unauthenticated:
            pass  # revoked, or the home was pointed at another database
        else:
            return token
    _, token = keys.create_key(ctx, "up")
    home.keep_secret(KEY_FILE, token)
    return token


def prepare_model(ctx: Context, fleet: Fleet) -> None:
    """Make the model known and wanted."""
    folder, devices = fleet.model, fleet.devices
    path = str(folder.path) if folder.path else ""
    models.register_model(ctx, folder.name, path, folder.revision, folder.facts)
    device = devices[0].partition(":")[0]
    models.ensure_deployment(ctx, folder.name, engine=fleet.engine, device=device, replicas=len(devices))
