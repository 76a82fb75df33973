"""What anybody may do for all: every worker looks for leases that fell silent; beat ticks as its only duty, and a CPU
worker where nobody else did for a while."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from batchinfer.errors import Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.services import upkeep, work

if TYPE_CHECKING:
    from batchinfer.services.context import Context

#: Seconds without any tick after which a CPU worker ticks.
TAKE_OVER_S = 60.0

_log = get_logger(__name__)


def tick(ctx: Context, *, by_beat: bool = False) -> bool:
    """One tick, that never raises: the next one comes soon. False where it could not be done."""
    try:
        done = upkeep.tick(ctx, by_beat=by_beat)
    except Unavailable as error:
        _log.warning("no tick: the database does not answer", code=error.code)
        return False
    except Exception:
        _log.exception("a tick failed")
        return False
    if done.leases_ended or done.expired or done.partitions_made:
        _log.info(
            "ticked",
            leases_ended=done.leases_ended,
            expired=done.expired,
            partitions_made=done.partitions_made,
        )
    return True


class StandIn(threading.Thread):
    """Ticks while nobody else does."""

    def __init__(self, ctx: Context, quit_: threading.Event, *, take_over_s: float = TAKE_OVER_S) -> None:
        super().__init__(name="stand-in", daemon=True)
        self.ticks = 0
        self._ctx, self._quit, self._take_over_s = ctx, quit_, take_over_s

    def run(self) -> None:
        # A fresh installation has never ticked: beat gets the same time to begin.
        while not self._quit.wait(min(self._take_over_s, self._ctx.settings.reap_s)):
            try:
                since_s = upkeep.seconds_since_tick(self._ctx)
            except Unavailable:
                continue
            if since_s is not None and since_s < self._take_over_s:
                continue
            if tick(self._ctx):
                self.ticks += 1


class Reaper(threading.Thread):
    """Gives back what silent workers hold. One of all the workers does it at a time; the others pass over it."""

    def __init__(self, ctx: Context, quit_: threading.Event) -> None:
        super().__init__(name="reaper", daemon=True)
        self.reaped = 0
        self._ctx, self._quit = ctx, quit_

    def run(self) -> None:
        while not self._quit.wait(self._ctx.settings.reap_s):
            try:
                number = work.reap(self._ctx)
            except Unavailable:
                continue
            except Exception:
                _log.exception("looking for silent leases failed")
                continue
            if number:
                self.reaped += number
                _log.info("silent workers' work was given back", leases=number)
