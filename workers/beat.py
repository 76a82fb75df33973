"""The beat: `celery -A workers.beat beat`. Its scheduler does the tick itself instead of sending a message:
Redis may be away, and no file is kept."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler

from batchinfer.observe.logs import get_logger
from batchinfer.services.context import Context, open_context
from batchinfer.settings import load_settings
from workers.application import make_application, offer_app
from workers.metrics import MetricsPage
from workers.ticking import tick

if TYPE_CHECKING:
    from batchinfer.observe.metrics import Sheet

_log = get_logger(__name__)


class TickScheduler(Scheduler):  # type: ignore[misc]
    """One entry, done here: `services.upkeep.tick` every `reap_s`. Two beats at once are harmless."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._ctx: Context | None = None
        self._page: MetricsPage | None = None
        self._ticks = Counter({"done": 0, "failed": 0})
        super().__init__(*arguments, **options)

    def setup_schedule(self) -> None:
        """Called unless Celery only wants to show the schedule."""
        self._ctx = open_context(load_settings(), name="batchinfer beat", pool_size=2)
        self._page = MetricsPage(self._ctx, self._tell)
        _log.info("beat started", reap_s=self._ctx.settings.reap_s)

    def tick(self, **_: Any) -> float:
        """Do what is due. Answers the seconds until the next tick."""
        ctx = self._ctx
        if ctx is None:
            return float(self.max_interval)
        started = time.monotonic()
        self._ticks["done" if tick(ctx, by_beat=True) else "failed"] += 1
        return max(0.05, ctx.settings.reap_s - (time.monotonic() - started))

    def sync(self) -> None:
        """Nothing is kept in a file."""

    def close(self) -> None:
        """Let go of the connections."""
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._ctx is not None:
            self._ctx.close()
            self._ctx = None

    def _tell(self, sheet: Sheet) -> None:
        for result, number in self._ticks.items():
            sheet.add("batchinfer_ticks_total", number, result)

    @property
    def info(self) -> str:
        """A line of the banner."""
        return "    . schedule -> a tick, done by beat itself"


#: `app`, made when Celery asks for it.
__getattr__ = offer_app(lambda: make_application("beat"))
