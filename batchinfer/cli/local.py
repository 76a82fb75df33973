"""Verbs beside the database: the home, the settings, and the services' context, without HTTP."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from batchinfer.settings import Settings, load_settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from batchinfer.services.context import Caller, Context

HOME = click.option("--home", type=click.Path(path_type=Path), help="Folder of everything that this host keeps.")


def load(home: Path | None, **overrides: Any) -> Settings:
    """The settings, with the home that the command names. Raises SettingsError."""
    return load_settings(**overrides, **({} if home is None else {"home": home}))


def context(home: Path | None) -> AbstractContextManager[Context]:
    """The services' context on the servers of this home. Raises StartError where none are known."""
    from batchinfer.services.context import open_context
    from batchinfer.stack.running import find_servers

    return closing(open_context(find_servers(load(home)), name="batchinfer-cli", pool_size=1))


def operator() -> Caller:
    """Whoever may read the home may do all in its tenant."""
    from batchinfer.domain.ids import DEFAULT_TENANT
    from batchinfer.services.context import SCOPES, Caller

    return Caller(DEFAULT_TENANT, UUID(int=0), "the command line", frozenset(SCOPES))
