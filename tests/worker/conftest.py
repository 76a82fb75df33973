"""A registered model, jobs for it, crews in this process and real worker processes, all on the test's own servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from pydantic import SecretStr

from batchinfer.domain.jobs import TERMINAL, Job, JobState
from batchinfer.domain.prompts import Limits, parse_job
from batchinfer.services import jobs, models
from batchinfer.services.context import Caller, Context, open_context
from batchinfer.services.crumbs import Crumbs
from batchinfer.stack.processes import Processes
from batchinfer.stack.signals import Signals
from batchinfer.store.hosts import Device
from bench.chaos.proxy import Proxy
from tests.worker.houses import Hold, House, Rows
from workers.answering import Answering
from workers.committer import Committer
from workers.crew import Crew
from workers.engine.fake import FakeEngine
from workers.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from batchinfer.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
MODEL = "fake-model"
#: It hung: only that is said by waiting for so long. A machine with much else to do takes its time.
PATIENCE_S = 120.0


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """The first true value of `condition`; a failure that says `what` after a generous time."""
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < timeout_s:
        if value := condition():
            return value
        time.sleep(min(0.03 + waited_s / 20, 0.15))  # what takes long is looked at seldom: a look is a transaction
    pytest.fail(f"not within {timeout_s} s: {what}")


@pytest.fixture
def lease_ttl_s() -> float:
    """Long enough that no lease runs out because the machine is busy; tests that wait for that parametrize it."""
    return 30.0


@pytest.fixture
def settings(settings: Settings, lease_ttl_s: float) -> Settings:
    """Signs of life that come often, and everything else in proportion."""
    return settings.model_copy(
        update={
            "lease_ttl_s": lease_ttl_s,
            "heartbeat_s": 0.4,
            "poll_s": 0.1,
            "reap_s": 0.5,
            "drain_s": 10.0,
            "watchdog_s": 60.0,
        }
    )


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for a condition to come true."""
    return wait_until


@dataclass
class Jobs:
    """Submits and looks at jobs of one caller."""

    ctx: Context
    caller: Caller

    def submit(self, text: str = "hello", **fields: Any) -> UUID:
        """Submit a text and answer the job's id."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
        job, _ = jobs.submit(self.ctx, self.caller, parse_job(body, Limits.of(self.ctx.settings)))
        return job.id

    def get(self, job_id: UUID) -> Job:
        return jobs.get_job(self.ctx, self.caller, job_id)

    def state(self, job_id: UUID) -> JobState:
        return self.get(job_id).state

    def wait(self, *job_ids: UUID, timeout_s: float = PATIENCE_S) -> list[Job]:
        """The jobs, once all have ended."""

        ended: dict[UUID, Job] = {}

        def look() -> bool:
            for job_id in job_ids:  # none is asked again that has ended, nor any behind one that has not
                if job_id not in ended:
                    job = self.get(job_id)
                    if job.state not in TERMINAL:
                        return False
                    ended[job_id] = job
            return True

        wait_until(look, f"{len(job_ids)} jobs end", timeout_s)
        return [ended[job_id] for job_id in job_ids]

    def wait_running(self, *job_ids: UUID) -> None:
        wait_until(
            lambda: all(self.state(job_id) is JobState.RUNNING for job_id in job_ids),
            f"{len(job_ids)} jobs run",
        )

    def outcomes(self, job_id: UUID) -> list[str]:
        """How the tries of a job ended, in order."""
        return [attempt.outcome for attempt in jobs.list_attempts(self.ctx, self.caller, job_id)]


@pytest.fixture
def work(context: Context, caller: Caller) -> Jobs:
    """Jobs of a registered model without a folder: the fake engine needs none."""
    models.register_model(context, MODEL, f"/nowhere/{MODEL}", "r1")
    return Jobs(context, caller)


@dataclass
class Rig:
    """A crew over a fake engine in this process, with a context of its own."""

    ctx: Context
    engine: FakeEngine
    crew: Crew

    @property
    def station(self) -> Answering:
        assert isinstance(self.crew.station, Answering)
        return self.crew.station


@pytest.fixture
def make_rig(settings: Settings, work: Jobs) -> Iterator[Callable[..., Rig]]:
    """Make crews; those that were started are drained at the end."""
    rigs: list[Rig] = []

    def make(*, slots: int = 4, worker: str = "rig@here", **options: Any) -> Rig:
        changes = {name: options.pop(name) for name in list(options) if name in type(settings).model_fields}
        ctx = open_context(settings.model_copy(update=changes), name="rig", pool_size=4)
        engine = FakeEngine(model=MODEL, slots=slots, **options)
        lease = Lease(ctx, role="model", worker=worker, model=MODEL, device="cpu", slots=slots)
        committer = Committer(ctx, lease)
        crumbs = Crumbs(ctx.settings.crumbs_dir, 4 * slots + 16)
        station = Answering(engine, lease.held, committer, model=MODEL, revision="r1", slots=slots, crumbs=crumbs)
        crew = Crew(ctx, lease, committer, station)
        station.on_room = crew.feeder.wake
        rigs.append(Rig(ctx, engine, crew))
        return rigs[-1]

    yield make
    for rig in rigs:
        if rig.crew.feeder.ident is not None:
            rig.crew.drain(0.0, "the test ended")
        rig.engine.close()
        rig.ctx.close()


@dataclass
class Process:
    """A worker as its own process; its log is read when something fails."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the process did not end within {timeout_s} s:\n{self.tail_log()}")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
        self.popen.wait(10)

    def read_log(self) -> str:
        return self.log.read_text(errors="replace")

    def tail_log(self) -> str:
        """The end of it, for people."""
        return self.read_log()[-6000:]


@dataclass
class Launcher:
    """Starts `celery -A workers.…` with nothing but the settings in its environment."""

    settings: Settings
    folder: Path
    started: list[Process] = field(default_factory=list)
    #: Beside the settings.
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, module: str, *arguments: str, **changes: Any) -> Process:
        settings = self.settings.model_copy(update=changes)
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONUNBUFFERED": "1"}
        environment |= self.environment
        for name in type(settings).model_fields:
            if (value := getattr(settings, name)) is not None:
                plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
                environment[f"BATCHINFER_{name.upper()}"] = str(plain)
        log = self.folder / f"{module}-{len(self.started)}.log"
        command = [sys.executable, "-m", "celery", "-A", module, *arguments]
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        self.started.append(Process(popen, log))
        return self.started[-1]

    def start_model(self, *options: str, name: str = "model-0", slots: int = 4, **changes: Any) -> Process:
        return self.start(
            "workers.model", "worker", "-n", f"{name}@here", "-P", "threads", "-c", "1", "--without-gossip",
            "--without-mingle", "--model", MODEL, "--device", "cpu", "--engine", "fake", "--slots", str(slots),
            *options, **changes,
        )  # fmt: skip

    def start_cpu(self, *options: str, name: str = "cpu-0", **changes: Any) -> Process:
        return self.start(
            "workers.cpu", "worker", "-n", f"{name}@here", "-P", "threads", "-c", "1", "--without-gossip",
            "--without-mingle", *options, **changes,
        )  # fmt: skip


@pytest.fixture
def launcher(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Launcher]:
    """Worker processes; those that still run are killed at the end."""
    launcher = Launcher(settings, tmp_path)
    yield launcher
    for process in launcher.started:
        process.kill()
        sys.stdout.write(f"--- {process.log.name}\n{process.tail_log()}\n")


@pytest.fixture
def make_proxy() -> Iterator[Callable[[SecretStr | None], tuple[Proxy, SecretStr]]]:
    """A proxy in front of a server, and the server's address by way of it."""
    made: list[Proxy] = []

    def make(address: SecretStr | None) -> tuple[Proxy, SecretStr]:
        assert address is not None
        parts = urlsplit(address.get_secret_value())
        assert parts.hostname
        assert parts.port
        made.append(Proxy((parts.hostname, parts.port)))
        user, at, _ = parts.netloc.rpartition("@")
        return made[-1], SecretStr(urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{made[-1].port}")))

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def database_proxy(settings: Settings, make_proxy: Any) -> tuple[Proxy, SecretStr]:
    """A proxy in front of this test's Postgres, and the address by way of it."""
    made: tuple[Proxy, SecretStr] = make_proxy(settings.database_url)
    return made


@pytest.fixture
def sql(settings: Settings) -> Callable[..., None]:
    """Run a statement, to damage what no interface would."""

    def run(statement: str, *values: Any) -> None:
        assert settings.database_url is not None
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
            connection.execute(statement.encode(), values)

    return run


@pytest.fixture
def rows(context: Context) -> Rows:
    return Rows(context)


@pytest.fixture
def hold(rows: Rows) -> Iterator[Hold]:
    """Keep replicas in a state."""
    held = Hold(rows)
    yield held
    held.release()


@pytest.fixture
def open_house(settings: Settings) -> Iterator[Callable[..., House]]:
    """Keepers of hosts by name; what they hold is ended with the test."""
    opened = []
    with Signals() as signals:

        def make(host: str = "one", **changes: Any) -> House:
            ctx = open_context(settings.model_copy(update={"host_name": host, **changes}), name=host, pool_size=3)
            said: list[str] = []
            processes = Processes(ctx, [Device("cpu", "cpu")], lambda _pids: None, said.append)
            house = House(processes, signals, said)
            opened.append((house, ctx))
            processes.keeper.open()
            return house

        yield make
        for house, ctx in opened:
            house.processes.keeper.close()
            house.processes.supervisor.stop(["model"], 0.0, hurry=lambda: True)
            ctx.close()
