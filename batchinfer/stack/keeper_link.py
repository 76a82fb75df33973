"""What a keeper says to the database and hears from it, on a thread of its own: a database that does not answer holds
up neither the processes of this machine nor whoever wants to stop them."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from batchinfer.errors import BatchinferError
from batchinfer.observe.logs import get_logger
from batchinfer.services import fleet as fleet_service
from batchinfer.services import placing, replicas
from batchinfer.stack.loads import LoadWatch
from batchinfer.stack.orphans import process_runs
from batchinfer.store import hosts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchinfer.services.context import Context
    from batchinfer.services.replicas import Assignment
    from batchinfer.store.hosts import Device

#: Between two looks; each is a sign of life of the host, too.
LOOK_S = 1.0
#: For the last words of a keeper that ends.
LAST_WORDS_S = 3.0

_log = get_logger(__name__)


@dataclass(frozen=True)
class Ending:
    """A worker's process that ended, until its end is in the database."""

    pid: int
    #: Its place: cpu0, model1 and so on.
    name: str
    how: str
    #: On `time.monotonic()`.
    at_s: float
    replica_id: UUID | None = None
    #: It was told to end, or ended in order.
    wanted: bool = False


class KeeperLink(threading.Thread):
    """Beats, places, reports ends, and reads what this host is to hold."""

    def __init__(self, ctx: Context, devices: Sequence[Device], say: Callable[[str], None]) -> None:
        super().__init__(name="keeper", daemon=True)
        self.keeper_id = uuid4()
        self.host = ctx.settings.machine_name
        #: Another keeper has this host now.
        self.superseded = False
        self._ctx, self._devices, self._say = ctx, devices, say
        self._loads = LoadWatch(devices)
        self._rows: list[Assignment] | None = None
        self._ends: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        self._unsaid: Ending | None = None
        self._soon, self._quit = threading.Event(), threading.Event()

    def open(self) -> None:
        """Take the host, and end what an earlier keeper left here. Raises Unavailable."""
        settings = self._ctx.settings
        pids = replicas.open_host(self._ctx, self.host, self.keeper_id, self._devices, settings.machine_labels)
        left = replicas.take_over(self._ctx, self.host, [pid for pid in pids if not process_runs(pid)])
        if left:
            self._say(f"{left} models that an earlier run held here are loaded again.")

    def take_rows(self) -> list[Assignment] | None:
        """What this host is to hold, once a look; None while there is nothing new."""
        rows, self._rows = self._rows, None
        return rows

    def report(self, ending: Ending) -> None:
        """Say that a process ended, soon."""
        self._ends.put(ending)
        self._soon.set()

    def close(self) -> None:
        """Place nothing here any more, and end. Bounded in time, whatever the database does."""
        self._quit.set()
        self._soon.set()
        self._loads.close()
        if self.ident is not None:
            self.join(LAST_WORDS_S)

    def run(self) -> None:
        self._loads.start()
        answers = True
        while not self._quit.is_set() and not self.superseded:
            try:
                self._look()
                answers = True
            except BatchinferError as error:
                if answers:
                    _log.warning("the keeper cannot reach the database; its processes go on", code=error.code)
                answers = False
            except Exception:
                _log.exception("a look of the keeper failed")
            self._soon.wait(LOOK_S)
            self._soon.clear()
        if not self.superseded:
            with suppress(Exception):  # whoever closes may have waited long enough, and closed the connections
                replicas.close_host(self._ctx, self.host, self.keeper_id)

    def _look(self) -> None:
        self._report_ends()
        with self._ctx.db.transaction(relaxed=True) as tx:
            if not hosts.beat_host(tx, self.host, self.keeper_id, self._loads.take()):
                self.superseded = True
                return
        placing.reconcile(self._ctx)
        self._rows = replicas.list_of_host(self._ctx, self.host)

    def _report_ends(self) -> None:
        """What an ended worker held goes back at once, not after the lease's time."""
        while self._unsaid is not None or not self._ends.empty():
            ending = self._unsaid = self._unsaid or self._ends.get()
            reason = f"the process ended: {ending.how}"
            if ending.replica_id is None:
                rows = fleet_service.end_process(
                    self._ctx, self.host, ending.pid, reason,
                    worker=f"{ending.name}@{self.host}", ended_ago_s=time.monotonic() - ending.at_s,
                )  # fmt: skip
            else:
                rows = replicas.end_process(
                    self._ctx, ending.replica_id, self.host, ending.pid, ending.how, wanted_end=ending.wanted
                )
            self._unsaid = None
            if rows:
                self._say(f"What process {ending.pid} held was given back: {rows} jobs.")
