"""What the routes work with, one object an application: the services' context, the limits, the waiters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import current_app

from batchinfer.api.waiting import Streams, Waiters
from batchinfer.domain.limits import Limits
from batchinfer.observe.fresh import Fresh
from batchinfer.services.metrics import Facts, read_facts

if TYPE_CHECKING:
    from flask import Flask

    from batchinfer.services.context import Context

_NAME = "batchinfer"


@dataclass(frozen=True)
class State:
    """Made when the application is made; every part may be used from any thread."""

    context: Context
    limits: Limits
    waiters: Waiters
    streams: Streams
    #: What metrics tell of the installation, for whoever asks.
    facts: Fresh[Facts]


def open_state(app: Flask, context: Context) -> None:
    """Put the state on the application and tell Flask the limits of a body."""
    settings = context.settings
    limits = Limits.of(settings)
    waiters = Waiters(max(1, settings.web_threads // 4))
    app.extensions[_NAME] = State(context, limits, waiters, Streams(waiters), Fresh(lambda: read_facts(context)))
    app.config.update(
        MAX_CONTENT_LENGTH=limits.max_body_bytes,
        # A field that is no file stays in memory: the longest prompt in UTF-8, and the other fields.
        MAX_FORM_MEMORY_SIZE=4 * limits.max_prompt_chars + 2**20,
        MAX_FORM_PARTS=limits.max_images + 100,
    )


def current() -> State:
    """The state of the application that serves this request."""
    return cast("State", current_app.extensions[_NAME])
