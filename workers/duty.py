"""A worker's duty, from its start to its end, on a thread of its own: it needs no Redis, and Celery's part
needs not it.

Celery's main thread may spend its time reaching for a broker that is not there; work flows all the same.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from batchinfer.doctor.everything import note_host
from batchinfer.doctor.findings import Look
from batchinfer.observe.logs import get_logger
from batchinfer.services.work import ORDERLY_END
from workers.crew import LAST_WRITES_S, Crew
from workers.insist import Stopped
from workers.metrics import MetricsPage
from workers.watchdog import EXIT_MODEL, end_process_after

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from uuid import UUID

    from batchinfer.observe.metrics import Sheet
    from batchinfer.services.context import Context

#: On top of the drain and the last writes, for whatever else an orderly end needs.
SPARE_S = 4.0
#: Time for a start that is under way to notice the end.
START_GRACE_S = 2.0

_log = get_logger(__name__)


class StartFailed(Exception):
    """This process cannot do its duty, and would not if started again. The message is a line for the log."""


class Duty(ABC, threading.Thread):
    """Subclasses say what to open and what to note. `on_ready` runs when work is taken, `on_failed` with
    the status that the process must end with."""

    def __init__(self, ctx: Context, worker: str) -> None:
        super().__init__(name="duty", daemon=True)
        self.ctx, self.worker = ctx, worker
        self.crew: Crew | None = None
        #: Whether work was ever taken.
        self.serves = False
        self.on_ready: Callable[[], None] = lambda: None
        self.on_failed: Callable[[int], None] = lambda _status: None
        self.quit = threading.Event()

    @abstractmethod
    def open(self) -> Crew:
        """Make everything ready for work but the lease. Raises StartFailed, Stopped."""

    def note(self, state: str) -> None:
        """Record where the worker is: ready, draining or stopped."""

    def renew(self) -> None:
        """The lease was taken for dead, and there is a new one."""

    def describe(self) -> dict[str, Any]:
        """For `celery inspect stats`, before the crew works too."""
        return {}

    def tell(self, sheet: Sheet) -> None:
        """Put the numbers of this process on a page of metrics, whatever it is at."""
        crew, now = self.crew, self._find_state()
        for state in ("starting", "serving", "draining"):
            sheet.add("batchinfer_worker_state", state == now, state)
        if crew is not None:
            crew.tell(sheet)

    def _find_state(self) -> str:
        return "draining" if self.quit.is_set() else "serving" if self.serves else "starting"

    def run(self) -> None:
        page = MetricsPage(self.ctx, self.tell)
        try:
            self._work(page)
        finally:
            page.close()

    def _work(self, page: MetricsPage) -> None:
        note_host(Look.of_host(self.ctx.settings))
        try:
            self.crew = self.open()
            self.crew.metrics_address = page.address
            self.crew.heart.on_reopened = self.renew
            self.crew.start(self.quit)
            self.note("ready")
            self.serves = True
            _log.info("ready", worker=self.worker)
            self.on_ready()
        except Stopped:
            self.note("stopped")
            return
        except StartFailed as error:
            _log.error(str(error), worker=self.worker)
            self.on_failed(EXIT_MODEL)
            return
        except Exception:
            _log.exception("the worker could not start")
            self.on_failed(1)
            return
        self.quit.wait()
        self._leave(self.crew)

    def wake(self, *, urgent: bool = False) -> None:
        """An announcement came; `urgent`: of something interactive."""
        if self.crew is not None:
            self.crew.feeder.wake(urgent=urgent)

    def list_jobs(self) -> list[dict[str, Any]]:
        """For `celery inspect jobs`: nothing before the crew works."""
        return self.crew.list_jobs() if self.crew else []

    def cancel(self, ids: Collection[UUID]) -> list[UUID]:
        """Somebody says that these jobs are or are to be cancelled. Answers which of them are held here."""
        if self.crew is None:
            return []
        self.crew.heart.beat_soon()
        return self.crew.cancel(ids)

    def stop(self) -> None:
        """Begin the orderly end. Safe from a signal handler, and to call twice."""
        if not self.quit.is_set():
            self.quit.set()
            limit_s = self.ctx.settings.drain_s + LAST_WRITES_S + SPARE_S
            end_process_after(limit_s, 1, ORDERLY_END)

    def wait(self) -> bool:
        """Wait for the orderly end. False where it does not come: a model that is being loaded cannot be stopped."""
        self.join(self.ctx.settings.drain_s + LAST_WRITES_S if self.crew else START_GRACE_S)
        return not self.is_alive()

    def _leave(self, crew: Crew) -> None:
        try:
            self.note("draining")
            crew.drain(self.ctx.settings.drain_s, ORDERLY_END)
            self.note("stopped")
        except Exception:
            _log.exception("the orderly end failed")
