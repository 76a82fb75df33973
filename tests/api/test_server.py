"""Under the real web server, over a real socket: what a test client cannot show."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchinfer.settings import Settings

#: Two of them may wait.
THREADS = 8
LIMIT_BYTES = 2_000_000


@pytest.fixture
def server(settings: Settings) -> Iterator[tuple[str, int]]:
    """The address of gunicorn with the application, one process of threads, on a free port; and its pid."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BATCHINFER_")},
        "BATCHINFER_HOME": str(settings.home),
        "BATCHINFER_DATABASE_URL": settings.database_url.get_secret_value(),
        "BATCHINFER_REDIS_URL": settings.redis_url.get_secret_value(),
        "BATCHINFER_WEB_THREADS": str(THREADS),
        "BATCHINFER_MAX_BODY_BYTES": str(LIMIT_BYTES),
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "--bind",
            f"fd://{listener.fileno()}",
            "--no-control-socket",
        ]
        command += ["--worker-class", "gthread", "--threads", str(THREADS), "batchinfer.web:create_app()"]
        process = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()])
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            # The socket listens already: the first answer comes as soon as the application is there.
            assert httpx.get(f"{address}/healthz", timeout=60, trust_env=False).status_code == 200
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def url(server: tuple[str, int]) -> str:
    """The address of the server."""
    return server[0]


@pytest.fixture
def http(url: str, api_key: str, model: str) -> Iterator[httpx.Client]:
    """A client with a key."""
    with httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=60, trust_env=False
    ) as client:
        yield client


def test_a_chunked_body_over_the_limit(http: httpx.Client) -> None:
    """No Content-Length says beforehand how long it is."""

    def chunks() -> Iterator[bytes]:
        for _ in range(80):
            yield b" " * 65_536

    answer = http.post("/v1/jobs", content=chunks(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert f"{LIMIT_BYTES:,}" in answer.json()["error"]["message"]
    assert http.get("/healthz").status_code == 200


def test_a_body_over_the_limit_that_says_so(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", content=b" " * 3 * LIMIT_BYTES, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_chunked_job_within_the_limit(http: httpx.Client, ask: Callable[..., dict[str, Any]]) -> None:
    raw = json.dumps(ask()).encode()
    content = (raw[i : i + 7] for i in range(0, len(raw), 7))
    answer = http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202


def test_a_large_file_of_a_form(http: httpx.Client, model: str, png: bytes) -> None:
    data = png + b"\0" * (LIMIT_BYTES // 2)
    answer = http.post("/v1/jobs", data={"model": model, "prompt": "read"}, files={"file": ("a.png", data)})
    assert answer.status_code == 202


def test_health_answers_while_more_wait_than_there_are_threads(
    url: str, http: httpx.Client, ask: Callable[..., dict[str, Any]], worker: Any
) -> None:
    """Only a quarter of the threads may wait; the others answer at once, so somebody is always free."""
    job_id = http.post("/v1/jobs", json=ask()).json()["id"]
    states: list[str] = []

    def wait() -> None:
        headers = {"Authorization": http.headers["Authorization"]}
        answer = httpx.get(f"{url}/v1/jobs/{job_id}?wait=25", headers=headers, timeout=90, trust_env=False)
        states.append(answer.json()["status"])

    threads = [threading.Thread(target=wait) for _ in range(2 * THREADS)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(states) < 2 * THREADS - THREADS // 4 and time.monotonic() < deadline:
        assert httpx.get(f"{url}/healthz", timeout=15, trust_env=False).status_code == 200
    assert states.count("queued") == 2 * THREADS - THREADS // 4
    worker.answer_all()
    for thread in threads:
        thread.join(60)
    # Those who had a place heard of the end.
    assert states.count("succeeded") == THREADS // 4


def test_a_client_that_leaves_in_the_middle_harms_nobody(url: str, http: httpx.Client) -> None:
    host, port = url.removeprefix("http://").split(":")
    for _ in range(THREADS + 2):
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: {http.headers['Authorization']}\r\n"
            raw.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{".encode())
    assert http.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("chunked", [True, False])
def test_lines_that_are_cut_off_make_nothing(url: str, http: httpx.Client, model: str, chunked: bool) -> None:
    """Whole lines came and the rest did not: none of them becomes a job."""
    line = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]}).encode() + b"\n"
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: {http.headers['Authorization']}\r\n"
    head += "Content-Type: application/x-ndjson\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n" if chunked else f"Content-Length: {len(line) + 10}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(head.encode() + (b"%x\r\n%s\r\n" % (len(line), line) if chunked else line))
        raw.shutdown(socket.SHUT_WR)
        assert b" 200 " not in raw.recv(4096)[:20]
    assert http.get("/v1/batches").json()["data"] == []
    assert http.get("/v1/files").json()["data"] == []
    whole = http.post("/v1/batches", content=iter([line, line]), headers={"Content-Type": "application/x-ndjson"})
    assert whole.status_code == 200, "chunked and whole is as good as any"


def _read_peak_mib(pid: int) -> float:
    """The most memory that the worker of this gunicorn has had."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return max(
        int(line.split()[1]) / 1024
        for child in children
        for line in Path(f"/proc/{child}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


@pytest.mark.long
def test_50_000_lines_pass_through_the_web_server_with_flat_memory(
    server: tuple[str, int], http: httpx.Client, model: str
) -> None:
    line = json.dumps({"model": model, "messages": [{"role": "user", "content": "x" * 2000}]}).encode() + b"\n"
    headers = {"Content-Type": "application/x-ndjson"}

    def send(number: int) -> None:
        pieces = (line * 100 for _ in range(number // 100))
        assert http.post("/v1/batches", content=pieces, headers=headers).status_code == 200

    send(500)
    before_mib = _read_peak_mib(server[1])
    send(50_000)
    assert 50_000 * len(line) > 90 * 2**20
    assert _read_peak_mib(server[1]) - before_mib < 16
