"""The CPU worker: `celery -A workers.cpu worker -n cpu-0@%h`. It prepares pictures and renders documents.

Claimed, fenced and reaped like a model's work; users' files are opened in limited child processes only.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, ClassVar

import click

from batchinfer.bus.app import CPU_QUEUE, PREPARE_TASK
from batchinfer.services.context import Context, open_context
from batchinfer.settings import load_settings
from workers.application import offer_app, option
from workers.bootstep import DutyStep, make_worker
from workers.committer import Committer
from workers.crew import Crew
from workers.duty import Duty
from workers.lease import Lease
from workers.ticking import StandIn
from workers.workshop import ACTS, DELIVERIES, FETCHES, LISTINGS, Workshop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kombu import Queue

    from batchinfer.observe.metrics import Sheet

#: Feeder, committer, heart, reaper and stand-in; each piece needs one more.
CONNECTIONS = 5


class CpuDuty(Duty):
    """Open the sandbox and work in it; tick where nobody else does."""

    def __init__(self, ctx: Context, worker: str, *, processes: int) -> None:
        super().__init__(ctx, worker)
        self._processes = processes

    def open(self) -> Crew:
        lease = Lease(self.ctx, role="cpu", worker=self.worker, device="cpu", slots=self._processes)
        committer = Committer(self.ctx, lease)
        station = Workshop(self.ctx, lease, committer, processes=self._processes, scratch=self._make_scratch())
        crew = Crew(self.ctx, lease, committer, station)
        station.on_room = crew.feeder.wake
        StandIn(self.ctx, self.quit).start()
        return crew

    def tell(self, sheet: Sheet) -> None:
        """The same with what it is."""
        super().tell(sheet)
        host = self.ctx.settings.machine_name
        sheet.add("batchinfer_worker_info", 1, "cpu", self.worker, host, "", "", "", "cpu")

    def _make_scratch(self) -> Path:
        """A folder of our own for pictures on their way into the store; what an earlier process left is
        removed."""
        scratch = self.ctx.settings.home / "scratch" / self.worker
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True, mode=0o700)
        return scratch


class CpuStep(DutyStep):
    """Started by Celery with the options of the command line."""

    requires: ClassVar[set[str]] = {"celery.worker.components:Pool"}

    def make_duty(self, worker: Any) -> Duty:
        processes, name = int(self.options["processes"]), str(worker.hostname)
        ctx = open_context(
            load_settings(),
            name=f"batchinfer {name}",
            pool_size=CONNECTIONS + processes + DELIVERIES + FETCHES + LISTINGS + ACTS,
        )
        return CpuDuty(ctx, name, processes=processes)

    def list_queues(self) -> Sequence[Queue]:
        return [CPU_QUEUE]


OPTIONS = (option("--processes", type=click.IntRange(1, 64), default=2, help="Pieces of work at once."),)


#: `app`, made when Celery asks for it.
__getattr__ = offer_app(lambda: make_worker("cpu", OPTIONS, CpuStep, PREPARE_TASK))
