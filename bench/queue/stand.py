"""A service to measure: embedded Postgres (with fsync) and Valkey, a tenant, a model, and worker processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.limits import Limits
from batchinfer.domain.prompts import JobRequest, parse_job
from batchinfer.services import models
from batchinfer.services.context import SCOPES, Caller, Context, open_context
from batchinfer.services.keys import ensure_default_tenant
from batchinfer.services.requests import build_prompt
from batchinfer.settings import PREFIX, Settings, load_settings
from batchinfer.stack.postgres import EmbeddedPostgres
from batchinfer.stack.valkey import EmbeddedValkey
from batchinfer.store import jobs, queue
from batchinfer.store.claims import INFER
from batchinfer.store.migrate import upgrade
from batchinfer.store.minutes import Tally
from batchinfer.store.partitions import ensure_partitions

MODEL = "bench"
ROOT = Path(__file__).parents[2]
#: Seconds after which a run is taken to hang.
PATIENCE_S = 600.0
LIMITS = Limits(512, 32_768, 400_000, 16, 64 * 2**20)
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Worker:
    """A process of ours; CPU seconds are those of all its threads."""

    popen: subprocess.Popen[bytes]
    log: Path

    def cpu_s(self) -> float:
        """CPU time so far, user and system, in seconds."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def kill(self) -> None:
        """End it at once, as a lost host ends."""
        with suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait(30)

    def stop(self) -> None:
        """End it in order."""
        with suppress(ProcessLookupError):
            self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclass
class Stand:
    """The service; `ctx` and `caller` are what a web process has."""

    settings: Settings
    ctx: Context
    caller: Caller
    folder: Path
    workers: list[Worker] = field(default_factory=list)

    def run(self, statement: str, **values: Any) -> Any:
        """The one value that a statement gives, or None where it gives no rows."""
        with self.ctx.db.transaction() as tx:
            found = tx.execute(text(statement), values)
            return found.scalar() if found.returns_rows else None

    def submit_bulk(self, bodies: Sequence[str], *, per_commit: int = 500, announce: bool = False) -> list[UUID]:
        """Store jobs as the pages of a document are stored: many in a transaction."""
        made = []
        for first in range(0, len(bodies), per_commit):
            new = [make_job(body) for body in bodies[first : first + per_commit]]
            entries = [queue.Entry(job.id, INFER, job.tenant_id, MODEL, job.job_class) for job in new]
            tally = Tally()
            tally.count(DEFAULT_TENANT, MODEL, submitted=len(new))
            with self.ctx.db.transaction() as tx:
                jobs.insert_jobs(tx, new)
                queue.enqueue(tx, entries)
                tally.add(tx)
            made += [job.id for job in new]
            if announce:
                self.ctx.announcer.announce(MODEL, JobClass.NORMAL, made[-len(new) :])
        return made

    def wait(
        self, condition: Callable[[], Any], what: str, *, every_s: float = 0.5, patience_s: float = PATIENCE_S
    ) -> Any:
        """Look until something is so. Raises TimeoutError."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if found := condition():
                return found
            time.sleep(every_s)
        raise TimeoutError(f"{what} did not happen within {patience_s:.0f} s.")

    def start_worker(self, *, slots: int, steps_per_s: float, name: str = "bench", **changes: Any) -> Worker:
        """A real model worker with the fake engine. Returns once it is ready."""
        before = self._count_ready()
        options = json.dumps({"steps_per_s": steps_per_s})
        command = [
            "workers.model", "worker", "-n", f"{name}@here", "-P", "threads", "-c", "1", "--without-gossip",
            "--without-mingle", "--model", MODEL, "--device", "cpu", "--engine", "fake", "--slots", str(slots),
            "--engine-options", options, "-l", "WARNING",
        ]  # fmt: skip
        worker = self.start_celery(command, self.settings.model_copy(update=changes))
        self.wait(lambda: self._count_ready() > before, "a worker", every_s=0.1)
        return worker

    def start_celery(self, command: Sequence[str], settings: Settings, **environment: str) -> Worker:
        """`celery -A …` in a process of its own, which ends with the stand."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", *command],
                env={**environment_of(settings, self.folder), **environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.workers.append(Worker(popen, log))
        return self.workers[-1]

    def _count_ready(self) -> int:
        return int(self.run("SELECT count(*) FROM replicas WHERE state = 'ready' AND ended_at IS NULL"))


def make_request(body: str) -> JobRequest:
    """A request with one text, as it comes out of parsing."""
    return parse_job({"model": MODEL, "messages": [{"role": "user", "content": body}]}, LIMITS)


def make_job(body: str) -> jobs.NewJob:
    """The same as a job of the default tenant."""
    request = make_request(body)
    return jobs.NewJob(new_id(), DEFAULT_TENANT, MODEL, request.job_class, build_prompt(request, ()))


def make_bodies(count: int, steps: int, label: str = "page") -> list[str]:
    """Prompts of about 200 characters that the fake engine answers in `steps` steps each."""
    filler = "Read the page and give back number, date and total. " * 3
    return [f"[[steps:{steps}]] {label} {number}: {filler}" for number in range(count)]


@contextmanager
def open_stand(**changes: Any) -> Iterator[Stand]:
    """Servers on free ports in a folder of their own, everything ended at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="batchinfer-bench-")))
        postgres, valkey = EmbeddedPostgres(folder), EmbeddedValkey(folder)
        stack.callback(valkey.stop)
        stack.callback(postgres.stop)
        valkey.launch()
        postgres.start()
        valkey.wait_ready()
        settings = load_settings(
            home=folder / "home", database_url=postgres.url, redis_url=valkey.url, secret_key="bench" * 8, **changes
        )
        upgrade(settings.require_database_url())
        ctx = open_context(settings, name="bench", pool_size=20)
        stack.callback(ctx.close)
        ensure_default_tenant(ctx)
        models.register_model(ctx, MODEL, str(folder), "bench")
        with ctx.db.transaction() as tx:
            ensure_partitions(tx)
        stand = Stand(settings, ctx, Caller(DEFAULT_TENANT, new_id(), "bench", frozenset(SCOPES)), folder)
        stack.callback(lambda: [worker.kill() for worker in stand.workers])
        yield stand


def environment_of(settings: Settings, folder: Path) -> dict[str, str]:
    """The environment of a process that works with these settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    for name in type(settings).model_fields:
        if (value := getattr(settings, name)) is not None:
            plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
            environment[PREFIX + name.upper()] = str(plain)
    return environment
