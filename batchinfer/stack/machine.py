"""Everything that `up` holds together on one machine: started in order, watched, and ended in order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchinfer.errors import StartError, Unavailable
from batchinfer.services.context import Context, open_context
from batchinfer.stack.children import explain_end
from batchinfer.stack.first_start import prepare_key, prepare_model, prepare_schema
from batchinfer.stack.health import Signs, find_unhealthy, list_replica_ids, read_signs
from batchinfer.stack.processes import WORKING, Processes
from batchinfer.stack.programs import Fleet, list_programs
from batchinfer.stack.reload import CodeWatch
from batchinfer.stack.running import KEY_FILE, show_url

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from batchinfer.settings import Settings
    from batchinfer.stack.home import Home
    from batchinfer.stack.ready_file import ReadyFile
    from batchinfer.stack.servers import Servers
    from batchinfer.stack.signals import Signals
    from batchinfer.stack.supervisor import Place

#: How long the small processes may take to become healthy; a model may load for as long as its process lives.
HEALTHY_S = 60.0
#: How long the model may find no room: what leaves takes its time.
ROOM_S = 30.0
#: Ends of one process while starting, after which the start is given up.
TRIES = 3
LOOK_S = 1.0


def open_machine(
    settings: Settings, home: Home, fleet: Fleet, ready_file: ReadyFile, say: Callable[[str], None]
) -> Machine:
    """Bring the database up to date, make tenant, key and model. Raises StartError."""
    ctx = open_context(settings, name="batchinfer-up", pool_size=3)
    try:
        prepare_schema(settings.require_database_url())
        token = prepare_key(ctx, home)
        deployment_id = prepare_model(ctx, fleet, home)
        return Machine(ctx, token, fleet, deployment_id, ready_file, say)
    except Unavailable:
        ctx.close()
        raise StartError(
            "The database does not answer or refuses us. Look at BATCHINFER_DATABASE_URL if it is set, "
            "else at logs/postgres.log in the home."
        ) from None
    except BaseException:
        ctx.close()
        raise


class Machine:
    """The processes of this machine. Main thread only."""

    def __init__(
        self,
        ctx: Context,
        token: str,
        fleet: Fleet,
        deployment_id: UUID,
        ready_file: ReadyFile,
        say: Callable[[str], None],
    ) -> None:
        self.ctx = ctx
        self.token = token
        self.fleet = fleet
        self.deployment_id = deployment_id
        self.ready_file = ready_file
        self.say = say
        self.processes = Processes(ctx, fleet.list_devices(), ready_file.update, say)
        self.supervisor = self.processes.supervisor
        self.started_at_s = time.monotonic()
        self._earlier_replicas = list_replica_ids(ctx)
        self._ready: set[str] = set()

    def start(self, servers: Servers, listener: socket.socket, signals: Signals) -> None:
        """Watch over the servers, and start everything else: the models are the slowest. Raises StartError."""
        self.signals = signals
        self.address = listener.getsockname()[:2]
        for place in servers.places():
            self.supervisor.add(place)
        try:
            self.processes.keeper.open()
        except Unavailable:
            raise StartError("The database does not answer. logs/postgres.log in the home may say why.") from None
        for program in list_programs(self.ctx.settings, self.fleet, listener.fileno()):
            self.processes.add(program)

    @property
    def url(self) -> str:
        """Where a browser or client of this machine finds us."""
        return show_url(*self.address)

    def wait_healthy(self) -> None:
        """Go on when all work, and say so. Raises StartError when one cannot, Stopped when asked to stop.

        Other models than the one of this start are loaded meanwhile and afterwards; nobody waits for them here.
        """
        waiting = [place for place in self.supervisor.places if place.role != "model"]
        loaded = False
        while waiting or not loaded:
            self.processes.step(self.signals, 0.1)
            waited_s = time.monotonic() - self.started_at_s
            try:
                signs = read_signs(self.ctx, self.deployment_id, self._earlier_replicas)
            except Unavailable:
                self._give_up(waiting, waited_s)
                continue
            unhealthy = find_unhealthy(self.supervisor.places, signs, self.url)
            for place in waiting:
                if place not in unhealthy and place.role in WORKING:
                    self.say(f"  {place.name} is ready ({waited_s:.1f} s)")
            loaded = loaded or self._see_models(signs, waited_s)
            self._give_up(unhealthy, waited_s)
            waiting = unhealthy
        self.ready_file.write(self.url, self.token, self.supervisor.pids())
        self.say(f"Ready. Admin pages: {self.url}/admin   API: {self.url}/v1")
        self.say(f"API key: {self.token}  (also in {self.ctx.settings.home / KEY_FILE}, for its owner alone)")

    def run(self, *, reload: bool) -> None:
        """Keep everything running. Raises Stopped when asked to stop, StartError where another keeper took over."""
        watch = CodeWatch() if reload else None
        looked_at_s = time.monotonic()
        while True:
            self.processes.step(self.signals, 0.5)
            if watch and time.monotonic() - looked_at_s >= LOOK_S:
                looked_at_s = time.monotonic()
                if watch.changed():
                    self.say("The code changed: web, beat and workers start anew.")
                    self.supervisor.restart(WORKING)

    def close(self) -> None:
        """End all but the servers, together and within a bounded time; asked a second time, at once."""
        self.ready_file.remove()
        self.say("Stopping.")
        self.processes.close(hurry=lambda: self.signals.stops > 1)
        self.supervisor.places.clear()
        self.ctx.close()

    def _see_models(self, signs: Signs, waited_s: float) -> bool:
        """Whether the model of this start is ready on each device. Raises StartError where it cannot be."""
        for name in sorted(signs.ready - self._ready):
            self.say(f"  {name} is ready ({waited_s:.1f} s)")
        self._ready |= signs.ready
        if signs.unwanted or len(self._ready) >= len(self.fleet.devices):
            return True
        for name, why in signs.failed:
            raise StartError(f"The model {self.fleet.model.name} cannot be loaded: {why} ({self._find_log(name)})")
        if len(signs.lost) >= TRIES:
            log = self._find_log(signs.lost[0])
            why = explain_end(log)
            raise StartError(f"{signs.lost[0]} ended {len(signs.lost)} times while starting{why}. {log} says more.")
        if signs.unplaced and waited_s > ROOM_S:
            raise StartError(signs.unplaced)
        return False

    def _find_log(self, name: str) -> Path:
        return self.ctx.settings.logs_dir / f"{name}.log"

    def _give_up(self, unhealthy: list[Place], waited_s: float) -> None:
        for place in unhealthy:
            log = self._find_log(place.name)
            if place.failures >= TRIES:
                why = explain_end(log)
                raise StartError(f"{place.name} ended {place.failures} times while starting{why}. {log} says more.")
            if waited_s > HEALTHY_S:
                raise StartError(f"{place.name} is not healthy after {HEALTHY_S:.0f} s. {log} says more.")
