"""What every service needs, opened once a process and passed in; and who calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from redis import Redis

from batchinfer.bus.announce import Announcer
from batchinfer.bus.app import make_celery, open_redis
from batchinfer.bus.bell import DoneBell
from batchinfer.bus.control import Control
from batchinfer.bus.rates import RateMeter
from batchinfer.bus.tokens import TokenListener
from batchinfer.domain.keys import SCOPES
from batchinfer.errors import Forbidden, SettingsError
from batchinfer.media.blobs import BlobStore
from batchinfer.media.outward import Door
from batchinfer.observe.spans import open_exporter
from batchinfer.services.tracing import Tracer
from batchinfer.store.session import Database

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.observe.spans import SpanExporter
    from batchinfer.settings import Settings

__all__ = ["SCOPES", "Caller", "Context", "Idempotency", "Page", "open_context"]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Context:
    """The parts that services work with. One a process; every part may be used from any thread."""

    settings: Settings
    db: Database
    blobs: BlobStore
    announcer: Announcer
    bell: DoneBell
    control: Control
    tokens: TokenListener
    rates: RateMeter
    redis: Redis
    #: The one way out to hosts that users name.
    door: Door = field(default_factory=Door)
    #: Where the setting otlp_endpoint names a collector.
    tracer: Tracer | None = None

    def close(self) -> None:
        """Let go of all connections and threads. Safe to call twice."""
        if self.tracer is not None:
            self.tracer.close()
        self.bell.close()
        self.tokens.close()
        self.announcer.close()
        self.redis.close()
        self.db.dispose()


@dataclass(frozen=True)
class Caller:
    """Who calls: the holder of a key, in a tenant. Every read and write is bound to `tenant_id`."""

    tenant_id: UUID
    key_id: UUID
    name: str
    scopes: frozenset[str]
    #: The key's own rate; None takes the setting.
    requests_per_minute: int | None = None

    @property
    def actor(self) -> str:
        """Who did it, for an event row."""
        return f"key {self.key_id} {self.name}"

    def require(self, scope: str) -> None:
        """Go on only if the key may. Raises Forbidden with the scope that is missing."""
        if scope not in self.scopes:
            raise Forbidden(
                f"This key lacks the scope '{scope}'. Use a key that has it, or make one with "
                f"`batchinfer keys create --scope {scope}`."
            )


@dataclass(frozen=True)
class Idempotency:
    """A client's Idempotency-Key, where it was used, and the SHA-256 of the request that came with it."""

    method: str
    route: str
    key: str
    request_sha256: bytes


@dataclass(frozen=True)
class Page(Generic[Thing]):
    """Some of a list, in the list's order; `has_more` says whether it goes on in the direction asked for."""

    data: list[Thing]
    has_more: bool

    @classmethod
    def cut(cls, found: list[Thing], limit: int, *, backwards: bool) -> Page[Thing]:
        """A page out of up to one thing more than it holds: the one too many lies at the end that was asked for."""
        return cls(found[-limit:] if backwards else found[:limit], len(found) > limit)


def open_context(settings: Settings, *, name: str = "batchinfer", pool_size: int | None = None) -> Context:
    """Open all parts; nothing connects before it is used.

    `name` shows in Postgres as the application's name; `pool_size` defaults to one connection a web thread and four.
    Raises SettingsError where an address is missing, or the extra for otlp_endpoint.
    """
    celery = make_celery(settings, name)
    redis = open_redis(settings)
    db = Database(settings.require_database_url(), pool_size=pool_size or settings.web_threads + 4, application=name)
    bell, tracer = DoneBell(redis), None
    if settings.otlp_endpoint:
        tracer = Tracer(db, _open_exporter(settings, name), settings.trace_ratio)
        bell.on_ring = tracer.note_ended
    return Context(
        settings=settings,
        db=db,
        blobs=BlobStore(settings.blobs_dir),
        announcer=Announcer(celery, redis),
        bell=bell,
        tracer=tracer,
        control=Control(celery, redis),
        tokens=TokenListener(redis),
        rates=RateMeter(redis),
        redis=redis,
    )


def _open_exporter(settings: Settings, name: str) -> SpanExporter:
    try:
        return open_exporter(settings.otlp_endpoint, name)
    except ImportError:
        raise SettingsError(
            "BATCHINFER_OTLP_ENDPOINT needs OpenTelemetry: install it with `pip install 'batchinfer-vlm[otlp]'`, "
            "or unset it."
        ) from None
