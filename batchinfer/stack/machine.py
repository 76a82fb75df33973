"""Everything that `up` holds together on one machine: started in order, watched, and ended in order."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from batchinfer.errors import BatchinferError, StartError, Unavailable
from batchinfer.services import fleet as fleet_service
from batchinfer.services.context import Context, open_context
from batchinfer.stack.children import Child, Program, explain_end, start_child
from batchinfer.stack.first_start import prepare_key, prepare_model, prepare_schema
from batchinfer.stack.health import find_unhealthy, list_replica_ids, read_signs
from batchinfer.stack.programs import Fleet, list_programs
from batchinfer.stack.reload import CodeWatch
from batchinfer.stack.running import KEY_FILE, show_url
from batchinfer.stack.supervisor import Place, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.settings import Settings
    from batchinfer.stack.home import Home
    from batchinfer.stack.ready_file import ReadyFile
    from batchinfer.stack.servers import Servers
    from batchinfer.stack.signals import Signals

WORKING = ("model", "cpu", "beat", "web")
#: How long the small processes may take to become healthy; a model may load for as long as its process lives.
HEALTHY_S = 60.0
#: Ends of one process while starting, after which the start is given up.
TRIES = 3
LOOK_S = 1.0


def open_machine(
    settings: Settings, home: Home, fleet: Fleet, ready_file: ReadyFile, say: Callable[[str], None]
) -> Machine:
    """Bring the database up to date, make tenant, key and model. Raises StartError."""
    ctx = open_context(settings, name="batchinfer-up", pool_size=2)
    try:
        prepare_schema(settings.require_database_url())
        token = prepare_key(ctx, home)
        prepare_model(ctx, fleet)
        return Machine(ctx, token, fleet, ready_file, say)
    except Unavailable:
        ctx.close()
        raise StartError(
            "The database does not answer or refuses us. Look at BATCHINFER_DATABASE_URL if it is set, "
            "else at logs/postgres.log in the home."
        ) from None
    except BaseException:
        ctx.close()
        raise


class _Ended(NamedTuple):
    """A worker's process that ended, until its end is in the database."""

    pid: int
    name: str
    how: str
    #: On `time.monotonic()`.
    at_s: float


class Machine:
    """The processes of this machine. Main thread only."""

    def __init__(
        self,
        ctx: Context,
        token: str,
        fleet: Fleet,
        ready_file: ReadyFile,
        say: Callable[[str], None],
    ) -> None:
        self.ctx = ctx
        self.token = token
        self.fleet = fleet
        self.ready_file = ready_file
        self.say = say
        self.supervisor = Supervisor(on_end=self._note_end, on_start=self._publish)
        self.started_at_s = time.monotonic()
        self._earlier_replicas = list_replica_ids(ctx)
        #: Ended workers whose lease could not be marked dead yet: process id and how it ended.
        self._ended: list[_Ended] = []

    def start(self, servers: Servers, listener: socket.socket, signals: Signals) -> None:
        """Watch over the servers, and start everything else."""
        self.signals = signals
        self.address = listener.getsockname()[:2]
        for place in servers.places():
            self.supervisor.add(place)
        for program in list_programs(self.ctx.settings, self.fleet, listener.fileno()):
            self.supervisor.add(Place(program.role, program.name, self._launcher(program)))

    @property
    def url(self) -> str:
        """Where a browser or client of this machine finds us."""
        return show_url(*self.address)

    def wait_healthy(self) -> None:
        """Go on when all work, and say so. Raises StartError when one cannot, Stopped when asked to stop."""
        waiting = list(self.supervisor.places)
        while waiting:
            self._step(0.1)
            waited_s = time.monotonic() - self.started_at_s
            try:
                signs = read_signs(self.ctx, self._earlier_replicas)
            except Unavailable:
                self._give_up(waiting, {}, waited_s)
                continue
            unhealthy = find_unhealthy(self.supervisor.places, signs, self.url)
            for place in waiting:
                if place not in unhealthy and place.role in WORKING:
                    self.say(f"  {place.name} is ready ({waited_s:.1f} s)")
            self._give_up(unhealthy, signs.failed, waited_s)
            waiting = unhealthy
        self.ready_file.write(self.url, self.token, self.supervisor.pids())
        self.say(f"Ready. Admin pages: {self.url}/admin   API: {self.url}/v1")
        self.say(f"API key: {self.token}  (also in {self.ctx.settings.home / KEY_FILE}, for its owner alone)")

    def run(self, *, reload: bool) -> None:
        """Keep everything running. Raises Stopped when asked to stop."""
        watch = CodeWatch() if reload else None
        looked_at_s = time.monotonic()
        while True:
            self._step(0.5)
            if watch and time.monotonic() - looked_at_s >= LOOK_S:
                looked_at_s = time.monotonic()
                if watch.changed():
                    self.say("The code changed: web, beat and workers start anew.")
                    self.supervisor.restart(WORKING)

    def close(self) -> None:
        """End all but the servers, together and within a bounded time; asked a second time, at once."""
        self.ready_file.remove()
        self.say("Stopping.")
        drain_s = self.ctx.settings.drain_s + 10.0
        self.supervisor.stop(WORKING, drain_s, hurry=lambda: self.signals.stops > 1)
        self.supervisor.places.clear()
        self.ctx.close()

    def _step(self, timeout_s: float) -> None:
        self.signals.wait(timeout_s)
        self.supervisor.look()
        self._end_leases()

    def _launcher(self, program: Program) -> Callable[[], Child]:
        log = self.ctx.settings.logs_dir / f"{program.name}.log"
        return lambda: start_child(program, log)

    def _publish(self) -> None:
        self.ready_file.update(self.supervisor.pids())

    def _note_end(self, place: Place, child: Child) -> None:
        status = child.process.returncode
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        if place.role in {"cpu", "model"}:
            self._ended.append(_Ended(child.pid, place.name, how, time.monotonic()))
        if place.failures:
            self.say(f"{place.name} (process {child.pid}) ended: {how}. It is started anew.")

    def _end_leases(self) -> None:
        """What an ended worker held goes back at once, not after the lease's time."""
        while self._ended:
            pid, name, how, at_s = self._ended[0]
            host = socket.gethostname()
            try:
                rows = fleet_service.end_process(
                    self.ctx,
                    host,
                    pid,
                    f"the process ended: {how}",
                    worker=f"{name}@{host}",
                    ended_ago_s=time.monotonic() - at_s,
                )
            except BatchinferError:
                return  # no database just now: tried again at the next step
            self._ended.pop(0)
            if rows:
                self.say(f"What process {pid} held was given back: {rows} jobs.")

    def _give_up(self, unhealthy: list[Place], failed: dict[str, str], waited_s: float) -> None:
        for place in unhealthy:
            log = self.ctx.settings.logs_dir / f"{place.name}.log"
            if place.name in failed:
                raise StartError(f"The model {self.fleet.model.name} cannot be loaded: {failed[place.name]} ({log})")
            if place.failures >= TRIES:
                why = explain_end(log)
                raise StartError(f"{place.name} ended {place.failures} times while starting{why}. {log} says more.")
            if place.role != "model" and waited_s > HEALTHY_S:
                raise StartError(f"{place.name} is not healthy after {HEALTHY_S:.0f} s. {log} says more.")
