"""Looks at a server beside its answers: whether it is there, and how many requests wait in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from workers.engine.upstream import Upstream
from workers.engine.window import Window

if TYPE_CHECKING:
    import httpx

#: Seconds that a look may take, and between two of them.
_LOOK_S, _EVERY_S = 5.0, 1.0
_VALUE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^\n]*\})?\s+([0-9.eE+-]+)\s*$")
#: Of the metrics' page, in bytes.
_MOST = 8 * 2**20


class Looker:
    """Looks now and then, one look at a time. `metric` is the server's count of waiting requests, None to leave the
    window alone; `on_there` is called where a quiet server is there."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        upstream: Upstream,
        window: Window,
        on_there: Callable[[], None],
        metric: str | None,
    ) -> None:
        self._client, self._upstream, self._window = client, upstream, window
        self._on_there, self._metric = on_there, metric
        self._task: asyncio.Task[None] | None = None
        self._looked_at = 0.0

    def look(self, now: float, quiet: bool, at_server: int) -> None:
        """Begin a look where one is due: `quiet` says that answers tell nothing of the server."""
        if self.list_tasks() or now - self._looked_at < _EVERY_S or not (quiet or (self._metric and at_server)):
            return
        self._looked_at = now
        self._task = asyncio.get_running_loop().create_task(self._look_once(quiet, at_server))

    def list_tasks(self) -> list[asyncio.Task[None]]:
        """The look under way."""
        return [] if self._task is None or self._task.done() else [self._task]

    async def _look_once(self, quiet: bool, at_server: int) -> None:
        if quiet and await is_there(self._client, self._upstream.base):
            self._on_there()
        if self._metric is None:
            return
        waiting = await count_waiting(self._client, self._upstream.root, self._metric)
        if waiting is not None:
            self._window.note_waiting(waiting, at_server)


async def is_there(client: httpx.AsyncClient, base: str) -> bool:
    """Whether the server lists its models."""
    import httpx

    try:
        response = await client.get(f"{base}/models", timeout=_LOOK_S)
    except httpx.HTTPError:
        return False
    return response.is_success


async def count_waiting(client: httpx.AsyncClient, root: str, metric: str) -> int | None:
    """Requests in the server's queue, of whomever; None where it does not tell."""
    import httpx

    try:
        response = await client.get(f"{root}/metrics", timeout=_LOOK_S)
    except httpx.HTTPError:
        return None
    if not response.is_success or len(response.content) > _MOST:
        return None
    return read_metric(response.text, metric)


def read_metric(page: str, metric: str) -> int | None:
    """The sum of a metric over its labels, in Prometheus' text format; None where the page does not have it."""
    found = [match for line in page.splitlines() if line.startswith(metric) and (match := _VALUE.match(line))]
    try:
        values = [float(match[2]) for match in found if match[1] == metric]
        return int(sum(values)) if values else None
    except (ValueError, OverflowError):
        return None
