"""The keeper of a machine: a process for each replica that rows assign to it, and no other."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from batchinfer.domain.replicas import ReplicaState, Wanted
from batchinfer.errors import StartError
from batchinfer.stack.children import start_child
from batchinfer.stack.keeper_link import Ending, KeeperLink
from batchinfer.stack.programs import make_model_program
from batchinfer.stack.supervisor import Place
from batchinfer.stack.warmer import Warmer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchinfer.services.context import Context
    from batchinfer.services.replicas import Assignment
    from batchinfer.stack.children import Child
    from batchinfer.stack.supervisor import Supervisor
    from batchinfer.store.hosts import Device

_LOADING = (ReplicaState.LOADING, ReplicaState.VERIFYING)
_UNSETTLED = (ReplicaState.PLANNED, *_LOADING)
#: A load that is cancelled ends by SIGTERM, and by SIGKILL so much later.
CANCEL_S = 5.0
#: On top of the drain time, for a process that does not end though its row says so.
SPARE_S = 20.0


@dataclass
class _Held:
    """A process of ours and the replica that it is."""

    place: Place
    replica_id: UUID
    #: When its row first said that it goes, or had ended, on `time.monotonic()`.
    goes_since_s: float | None = None
    told: bool = False


class Keeper:
    """Starts and ends the processes of `supervisor` that hold models. Main thread only, but for its link."""

    def __init__(
        self, ctx: Context, supervisor: Supervisor, devices: Sequence[Device], say: Callable[[str], None]
    ) -> None:
        self.link = KeeperLink(ctx, devices, say)
        self._warmer = Warmer(ctx, self.link.host, self.link.keeper_id)
        self._ctx, self._supervisor, self._say = ctx, supervisor, say
        self._held: dict[str, _Held] = {}
        #: A row is started once; what follows its end is a new row.
        self._started: set[UUID] = set()

    def open(self) -> None:
        """Take the host and begin. Raises Unavailable."""
        self.link.open()
        self.link.start()
        self._warmer.start()

    def step(self) -> None:
        """Do what the rows say, if they were read anew. Raises StartError where another keeper has this host."""
        if self.link.superseded:
            raise StartError(
                f"Another keeper has taken over the host {self.link.host}, so this one ends. Where both are meant to "
                "run, give one of them another name with BATCHINFER_HOST_NAME."
            )
        rows = self.link.take_rows()
        if rows is not None:
            self._follow(rows)

    def note_end(self, place: Place, child: Child, how: str) -> bool:
        """A process of ours ended. True where nobody had told it to."""
        held = self._held.pop(place.name)
        wanted = child.process.returncode == 0 or held.told or held.goes_since_s is not None
        self.link.report(Ending(child.pid, place.name, how, time.monotonic(), held.replica_id, wanted))
        return not wanted

    def close(self) -> None:
        """Take nothing more on; the processes are the supervisor's to end."""
        self._warmer.close()
        self.link.close()

    def _follow(self, rows: list[Assignment]) -> None:
        now_s = time.monotonic()
        live = {row.id for row in rows}
        for row in rows:
            held = self._held.get(_name(row))
            if held is not None and row.id not in self._started and row.state != ReplicaState.PLANNED:
                # Its lease was lost and it goes on as a new replica.
                self._started.add(row.id)
                held.replica_id, held.goes_since_s = row.id, None
            if held is not None and held.replica_id == row.id:
                self._look_after(held, row, now_s)
            elif row.state == ReplicaState.PLANNED and row.id not in self._started:
                self._begin(row, rows)
        for held in self._held.values():
            if held.replica_id not in live:
                self._look_after(held, None, now_s)

    def _begin(self, row: Assignment, rows: list[Assignment]) -> None:
        if row.wanted == Wanted.DRAIN:
            self._started.add(row.id)
            self.link.report(Ending(0, _name(row), "it was not wanted any more", time.monotonic(), row.id, wanted=True))
            return
        # What counts more is loaded first; equals at once.
        outranked = any(other.priority > row.priority and other.state in _UNSETTLED for other in rows)
        if outranked or _name(row) in self._held:
            return
        self._started.add(row.id)
        program = make_model_program(self._ctx.settings, row)
        log = self._ctx.settings.logs_dir / f"{program.name}.log"
        place = Place(program.role, program.name, lambda: start_child(program, log), once=True)
        self._held[place.name] = _Held(place, row.id)
        try:
            self._supervisor.add(place)
        except (StartError, OSError) as error:  # a full disk, no more processes
            del self._held[place.name]
            self._supervisor.places.remove(place)
            self.link.report(Ending(0, place.name, f"it could not be started ({error})", time.monotonic(), row.id))

    def _look_after(self, held: _Held, row: Assignment | None, now_s: float) -> None:
        """End what is to go and does not by itself: a load at once, work after its drain. `row` None: it has ended."""
        child = held.place.child
        if child is None or (row is not None and row.wanted != Wanted.DRAIN):
            held.goes_since_s = None
            return
        if held.goes_since_s is None:
            held.goes_since_s = now_s
        waited_s = now_s - held.goes_since_s
        settings = self._ctx.settings
        cancels = row is not None and row.state in _UNSETTLED
        # Where the row ended with its lease, the process may go on under a new one.
        ask_s = 0.0 if cancels else CANCEL_S if row is not None else settings.lease_ttl_s
        begun = row is not None and row.state == ReplicaState.DRAINING
        if waited_s >= ask_s and not held.told and not begun:
            held.told = True
            child.send(signal.SIGTERM)
        if waited_s >= ask_s + (CANCEL_S if cancels else settings.drain_s + SPARE_S):
            child.send(signal.SIGCONT)
            child.send(signal.SIGKILL)


def _name(row: Assignment) -> str:
    return row.worker.partition("@")[0]
