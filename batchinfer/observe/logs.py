"""Logs: one JSON object a line, with the role of the process and the ids bound to what it does.

Never in a log: prompts, pictures, answers, keys. `bind` takes ids and names; a test reads the lines.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

import structlog

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

#: Fields whose values never reach a line, whoever logs them.
SECRET = frozenset({"authorization", "token", "api_key", "password", "secret", "prompt", "messages", "text"})
#: What Postgres and SQLAlchemy add to an error: whole rows and values, prompts among them.
_DETAIL = re.compile(
    r"\n(?:DETAIL:|\[parameters:).*?"
    r"(?=\n(?:HINT:|CONTEXT:|\[SQL:|\(Background on|Traceback |The above |During )|\Z)",
    re.DOTALL,
)
#: Libraries that tell more than a reader of our lines wants at INFO.
_LOUD = ("httpx", "httpcore", "urllib3", "PIL", "alembic.runtime.migration")


class HasLogLevel(Protocol):
    """What is needed of the settings."""

    @property
    def log_level(self) -> str: ...


def configure_logging(settings: HasLogLevel, role: str, stream: TextIO | None = None) -> None:
    """Send every line of this process, those of libraries too, to `stream` (standard error) once.

    `role` is postgres, redis, web, beat, cpu, model or cli. A terminal gets lines for people, all else JSON.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_role(role),
        _hide_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_renderers(stream)))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if getattr(handler, "is_batchinfer", False)]:
        root.removeHandler(old)
    handler.is_batchinfer = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)


def get_logger(name: str = "batchinfer") -> FilteringBoundLogger:
    """A logger: `log.info("what happened", job_id=…)`. The event is a fixed sentence, values are fields."""
    return cast("FilteringBoundLogger", structlog.stdlib.get_logger(name))


def bind(**values: Any) -> AbstractContextManager[None]:
    """Put ids (request_id, job_id, lease_id) on every line logged inside the `with`, in this thread."""
    return structlog.contextvars.bound_contextvars(**values)


def _renderers(stream: TextIO) -> list[Processor]:
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if stream.isatty():
        return [drop, structlog.dev.ConsoleRenderer()]
    return [drop, structlog.processors.format_exc_info, _hide_details, structlog.processors.JSONRenderer(default=str)]


def _add_role(role: str) -> Processor:
    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["role"] = role
        return event

    return add


def _hide_details(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if isinstance(trouble := event.get("exception"), str):
        event["exception"] = _DETAIL.sub("\n(values are left out)", trouble)
    return event


def _hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in SECRET & event.keys():
        event[name] = "…"
    return event
