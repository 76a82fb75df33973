"""`batchinfer up` as a process of its own, driven over HTTP alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from batchinfer.stack.orphans import find_marked, find_postgres, process_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

#: Of a start and of an end that hung; so are the other waits here.
READY_S = 200.0
STOP_S = 120.0
COMMAND = (sys.executable, "-m", "batchinfer.cli")


class Up:
    """One run of `batchinfer up`."""

    def __init__(self, home: Path, *arguments: str, command: Sequence[str] = COMMAND, **environment: str) -> None:
        self.home = home
        self.ready_file = home.parent / f"{home.name}-ready.json"
        self.output = home.parent / f"{home.name}-up.log"
        argv = [*command, "up", "--home", str(home), "--ready-file", str(self.ready_file), *arguments]
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.ready_file.unlink(missing_ok=True)  # of a run that was killed
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home.parent,
            )

    @property
    def facts(self) -> dict[str, Any]:
        """What the ready-file says now."""
        found: dict[str, Any] = json.loads(self.ready_file.read_text())
        return found

    @property
    def said(self) -> str:
        """All that it wrote."""
        return self.output.read_text()

    def pids(self, role: str | None = None) -> list[int]:
        """Process ids of a role, or of all."""
        by_role = self.facts["pids"]
        return list(by_role[role]) if role else [pid for pids in by_role.values() for pid in pids]

    def wait_ready(self) -> Up:
        """Go on when it says that all is healthy."""
        wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None, READY_S)
        assert self.process.poll() is None, f"{self.said}\n{self.tail_logs()}"
        return self

    def client(self) -> httpx.Client:
        """A client with the key."""
        headers = {"Authorization": f"Bearer {self.facts['api_key']}"}
        return httpx.Client(base_url=self.facts["url"], headers=headers, timeout=90, trust_env=False)

    def submit(self, client: httpx.Client, text: str, **more: Any) -> dict[str, Any]:
        """One job of text alone."""
        messages = [{"role": "user", "content": text}]
        answer = client.post("/v1/jobs", json={"model": "docreader", "messages": messages, **more})
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def wait_ended(self, client: httpx.Client, job_id: str) -> dict[str, Any]:
        """Poll until a job has ended."""
        job: dict[str, Any] = {}

        def ended() -> bool:
            nonlocal job
            job = client.get(f"/v1/jobs/{job_id}", params={"wait": 5}).json()
            return job["status"] in {"succeeded", "failed", "cancelled", "expired", "quarantined"}

        wait_until(ended)
        return job

    def stop(self) -> int:
        """SIGTERM, as an init system would; answers the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)

    def left(self) -> set[int]:
        """Processes of this home that still run."""
        return {pid for pid in find_marked(self.home) | find_postgres(self.home / "pg") if process_runs(pid)}

    def tail_logs(self) -> str:
        """The ends of all logs, for a failed assertion."""
        logs = sorted((self.home / "logs").glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


def wait_until(holds: Callable[[], bool], timeout_s: float = 180.0) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def patience() -> Callable[..., None]:
    """`wait_until`, for tests."""
    return wait_until


def _starter() -> Iterator[Callable[..., Up]]:
    with ExitStack() as ending:

        def start(home: Path, *arguments: str, **options: Any) -> Up:
            up = Up(home, *arguments, **options)
            ending.callback(_end, up)
            return up

        yield start


def _end(up: Up) -> None:
    try:
        up.stop()
    finally:
        up.process.kill()
        up.process.wait()


@pytest.fixture
def start_up() -> Iterator[Callable[..., Up]]:
    """Start `batchinfer up`; ended with the test."""
    yield from _starter()


@pytest.fixture(scope="module")
def fake_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that serves the fake engine to all tests of a module. Its leases never run out by themselves."""
    for start in _starter():
        home = tmp_path_factory.mktemp("up") / "home"
        yield start(home, "--engine", "fake", BATCHINFER_LEASE_TTL_S="3600").wait_ready()


def _start_with_folders(tmp_path_factory: pytest.TempPathFactory, **more: str) -> Iterator[Up]:
    for start in _starter():
        base = tmp_path_factory.mktemp("nights")
        folders = {}
        for name, setting in (("scans", "BATCHINFER_SOURCE_FOLDERS"), ("results", "BATCHINFER_SINK_FOLDERS")):
            (base / name).mkdir()
            folders[setting] = str(base / name)
        yield start(base / "home", "--engine", "fake", **folders, **more).wait_ready()


@pytest.fixture(scope="module")
def night_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One with the fake engine that may read documents below `scans` beside its home, and write below `results`."""
    yield from _start_with_folders(tmp_path_factory)


@pytest.fixture(scope="module")
def page_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The same, which also delivers webhooks to this machine."""
    webhooks = {"BATCHINFER_WEBHOOK_HTTP": "true", "BATCHINFER_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    yield from _start_with_folders(tmp_path_factory, **webhooks)
