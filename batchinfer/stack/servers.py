"""The two servers of a machine: our own, or those that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from batchinfer.stack.postgres import EmbeddedPostgres
from batchinfer.stack.supervisor import Place
from batchinfer.stack.valkey import EmbeddedValkey

if TYPE_CHECKING:
    from batchinfer.settings import Settings


class Servers:
    """Postgres and Valkey. Each is ours exactly where the settings name no other. Raises SettingsError."""

    def __init__(self, settings: Settings) -> None:
        if settings.database_url:
            settings.require_database_url()
        if settings.redis_url:
            settings.require_redis_url()
        self.settings = settings
        self.postgres = None if settings.database_url else EmbeddedPostgres(settings.home)
        self.valkey = None if settings.redis_url else EmbeddedValkey(settings.home)

    def start(self) -> None:
        """Start ours side by side and wait until both answer. Raises StartError."""
        if self.valkey:
            self.valkey.launch()
        if self.postgres:
            self.postgres.start()
        if self.valkey:
            self.valkey.wait_ready()

    def settings_in_force(self) -> Settings:
        """The settings with the addresses that everybody is to use."""
        addresses: dict[str, str] = {}
        if self.postgres:
            addresses["database_url"] = self.postgres.url
        if self.valkey:
            addresses["redis_url"] = self.valkey.url
        return self.settings.model_copy(update={name: SecretStr(url) for name, url in addresses.items()})

    def places(self) -> list[Place]:
        """What a supervisor needs to start ours anew, at the same address."""
        places = []
        if self.postgres:
            places.append(Place("postgres", "postgres", self.postgres.launch, self.postgres.child))
        if self.valkey:
            places.append(Place("redis", "valkey", self.valkey.launch, self.valkey.child))
        return places

    def notes(self) -> list[str]:
        """Lines for people on how the servers run."""
        note = self.postgres.note if self.postgres else None
        return [note] if note else []

    def stop(self) -> None:
        """End ours: Valkey, then Postgres."""
        if self.valkey:
            self.valkey.stop()
        if self.postgres:
            self.postgres.stop()
