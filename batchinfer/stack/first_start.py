"""What a database needs before work can begin: the schema, the tenant, a key, the model that is wanted."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from batchinfer.errors import Unauthenticated
from batchinfer.services import keys, models
from batchinfer.stack.running import KEY_FILE
from batchinfer.store.migrate import upgrade

#: Of the home: the deployment that the last `up` declared for its model.
DECLARED_FILE = "declared-deployment"

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


def prepare_model(ctx: Context, fleet: Fleet, home: Home) -> UUID:
    """Make the model known and wanted, one replica a device, and loaded at once whatever failed before.

    The model of an earlier `up` of this home is wanted no more where this one names another; those that were launched
    by themselves are left as they are.
    """
    folder, devices = fleet.model, fleet.devices
    path = str(folder.path) if folder.path else ""
    models.register_model(ctx, folder.name, path, folder.revision, folder.facts)
    device = devices[0].partition(":")[0]
    found = models.ensure_deployment(ctx, folder.name, engine=fleet.engine, device=device, replicas=len(devices))
    models.begin_declared(ctx, found, _find_declared(home))
    home.keep_secret(DECLARED_FILE, str(found))
    return found


def _find_declared(home: Home) -> UUID | None:
    text = home.read_secret(DECLARED_FILE)
    with suppress(ValueError):
        return UUID(text) if text else None
    return None
