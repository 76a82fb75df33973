"""The processes of one machine: those that are kept running, and the model workers that rows assign to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchinfer.stack.children import Child, Program, start_child
from batchinfer.stack.keeper import Keeper
from batchinfer.stack.keeper_link import Ending
from batchinfer.stack.rotation import LogRotation
from batchinfer.stack.supervisor import Place, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchinfer.services.context import Context
    from batchinfer.stack.signals import Signals
    from batchinfer.store.hosts import Device

WORKING = ("model", "cpu", "beat", "web")


class Processes:
    """Supervisor and keeper together. Main thread only."""

    def __init__(
        self,
        ctx: Context,
        devices: Sequence[Device],
        publish: Callable[[dict[str, list[int]]], None],
        say: Callable[[str], None],
    ) -> None:
        self._ctx, self._say = ctx, say
        self.supervisor = Supervisor(on_end=self._note_end, on_start=lambda: publish(self.supervisor.pids()))
        self._logs = LogRotation(ctx.settings.logs_dir)
        self.keeper = Keeper(ctx, self.supervisor, devices, say)

    def add(self, program: Program) -> None:
        """Keep a program running, from now on."""
        log = self._ctx.settings.logs_dir / f"{program.name}.log"
        self.supervisor.add(Place(program.role, program.name, lambda: start_child(program, log)))

    def step(self, signals: Signals, timeout_s: float) -> None:
        """Wait for a signal, at most so long, and see what ended and what is wanted. Raises Stopped, StartError."""
        signals.wait(timeout_s)
        self.supervisor.look()
        self._logs.look()
        self.keeper.step()

    def close(self, hurry: Callable[[], bool]) -> None:
        """End all but the servers, together and within a bounded time; in a `hurry`, at once."""
        self.keeper.close()
        self.supervisor.stop(WORKING, self._ctx.settings.drain_s + 10.0, hurry)

    def _note_end(self, place: Place, child: Child) -> None:
        status = child.process.returncode
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        again = bool(place.failures)
        if place.role == "model":
            again = self.keeper.note_end(place, child, how)
        elif place.role == "cpu":
            self.keeper.link.report(Ending(child.pid, place.name, how, time.monotonic()))
        if again:
            self._say(f"{place.name} (process {child.pid}) ended: {how}. It is started anew.")
