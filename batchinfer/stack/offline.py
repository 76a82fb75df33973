"""A database for verbs that need no service: the one that is named, that of a running `up`, or the home's own, which
runs for as long as the verb does."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from batchinfer.errors import StartError
from batchinfer.stack.home import Home
from batchinfer.stack.postgres import EmbeddedPostgres
from batchinfer.stack.running import RUNNING_FILE, find_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.settings import Settings


@contextmanager
def open_database(settings: Settings, *, make: bool = False) -> Iterator[Settings]:
    """Settings with the address of a database that answers. `make`: where the home has none, one is made.

    Raises StartError with the remedy.
    """
    if settings.database_url:
        settings.require_database_url()
        yield settings
        return
    if not make and not (settings.home / "pg").is_dir():
        yield find_servers(settings)  # which says that nothing is known of a server there
        return
    home = Home(settings.home)
    try:
        home.open()
    except StartError:
        if not (settings.home / RUNNING_FILE).is_file():
            raise
        yield find_servers(settings)
        return
    postgres = EmbeddedPostgres(settings.home)
    try:
        yield settings.model_copy(update={"database_url": SecretStr(postgres.start())})
    finally:
        postgres.stop()
        home.close()
