"""Clients that wait for an answer: a place for each, how long they will, and whether they are still there."""

from __future__ import annotations

import math
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flask import request

from batchinfer.api.state import current
from batchinfer.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: OpenAI's SDK says here how long it waits for the next byte, in seconds.
_HEADER = "X-Stainless-Read-Timeout"
#: So much earlier than the client gives up it gets its 504, which tells it the job.
_SPARE_S = 5.0
_RETRY_AFTER_S = 2


@contextmanager
def take_place() -> Iterator[None]:
    """A place for one who waits, for the length of the `with`.

    Raises Unavailable (code too_many_waiting), before anything was made, where a quarter of the threads wait already.
    """
    waiters = current().waiters
    with waiters.try_enter() as entered:
        if not entered:
            raise Unavailable(
                f"{waiters.places} requests wait here for their answers already, as many as may. Send it again, or "
                "POST /v1/jobs and poll, which needs no place.",
                code="too_many_waiting",
                retry_after_s=_RETRY_AFTER_S,
            )
        yield


def read_patience_s() -> float:
    """Seconds to wait for an answer: the setting max_answer_s, or less where the client says that it gives up first."""
    longest_s = current().context.settings.max_answer_s
    try:
        given_s = float(request.headers.get(_HEADER, "inf"))
    except ValueError:
        return longest_s
    if not math.isfinite(given_s) or given_s <= 0:
        return longest_s
    return min(longest_s, max(given_s - _SPARE_S, given_s / 2))


def find_presence() -> Callable[[], bool]:
    """Whether the client of this request is still connected; always true under a server that does not say."""
    connection = request.environ.get("gunicorn.socket")
    if type(connection) is not socket.socket:
        return lambda: True

    def is_present() -> bool:
        try:
            return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except (BlockingIOError, InterruptedError):
            return True  # nothing to read, and not closed
        except (OSError, ValueError):
            return False

    return is_present
