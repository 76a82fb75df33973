"""What a cluster finds in its database: a tenant, a key, a model.

Run by itself (`python seed.py NAME MODEL`) it is the work of whichever release comes first on the path, and migrates.
So it uses what every release has, and imports nothing beside it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from batchinfer.services import keys, models
from batchinfer.services.context import open_context
from batchinfer.settings import load_settings
from batchinfer.store.migrate import upgrade

if TYPE_CHECKING:
    from batchinfer.services.context import Context


def seed(ctx: Context, name: str, model: str) -> str:
    """Make them. Answers the key's token."""
    keys.ensure_default_tenant(ctx)
    token: str = keys.create_key(ctx, name)[1]
    models.register_model(ctx, model, "", "r1")
    return token


if __name__ == "__main__":
    settings = load_settings()
    upgrade(settings.require_database_url())
    context = open_context(settings, name=sys.argv[1], pool_size=2)
    print(seed(context, *sys.argv[1:3]))
    context.close()
