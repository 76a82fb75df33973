"""What the real web server writes with our settings: its own lines are JSON too, and so is why it does not start."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PATIENCE_S = 60.0


def serve(
    tmp_path: Path, application: str, *, ask: bool, first: Sequence[str] = (), **environment: str
) -> tuple[int, list[str]]:
    """Start the server, ask it once, and end it. Answers its status and the lines of its log.

    `first` are bytes that are sent before, each on a connection of its own.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "BATCHINFER_HOME": str(tmp_path),
        "BATCHINFER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "BATCHINFER_REDIS_URL": "redis://127.0.0.1:1/0",
        **environment,
    }
    log = tmp_path / "web.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        command = [sys.executable, "-m", "gunicorn", "-c", "python:batchinfer.stack.gunicorn_settings"]
        command += ["--bind", f"fd://{listener.fileno()}", application]
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, pass_fds=[listener.fileno()], cwd=tmp_path
        )
        try:
            for data in first:
                with socket.create_connection(listener.getsockname(), timeout=PATIENCE_S) as connection:
                    connection.sendall(data.encode())
                    while connection.recv(65536):
                        pass
            if ask:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/healthz"
                assert httpx.get(url, timeout=PATIENCE_S, trust_env=False).status_code == 200
                process.terminate()
            status = process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()
    return status, log.read_text().splitlines()


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_every_line_is_json(tmp_path: Path, level: str) -> None:
    status, written = serve(tmp_path, "batchinfer.web:create_app()", ask=True, BATCHINFER_LOG_LEVEL=level)
    assert status == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in written]
    own = [line for line in lines if line["logger"] == "gunicorn.error"]
    assert any(line["event"].startswith("Listening at") for line in own)
    assert any(line["event"].startswith("Booting worker") for line in own)
    assert {line["role"] for line in lines} == {"web"}
    assert {line["level"] for line in own} == {"info"}, "at DEBUG it would write what users ask for"
    events = [line["event"] for line in own]
    assert len(set(events)) == len(events), "a line is there twice"


def test_a_request_that_cannot_be_parsed_leaves_none_of_its_bytes(tmp_path: Path) -> None:
    """A key without its header's name, a line that is no request, a chunk without a size: each may hold a secret."""
    secret = "bi_00000000_marker"
    head = "GET /healthz HTTP/1.1\r\nHost: here\r\n"
    broken = [
        f"{head}Bearer {secret}\r\n\r\n",
        f"{secret}\r\n\r\n",
        f"GET /{secret} {secret}\r\n\r\n",
        f"POST /v1/jobs HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: {secret}\r\n\r\n",
    ]
    status, written = serve(tmp_path, "batchinfer.web:create_app()", ask=True, first=broken)
    assert status == 0
    told = [line["event"] for line in map(json.loads, written) if line["event"].startswith("Invalid request")]
    assert len(told) == len(broken)
    assert "InvalidHeader" in told[0]
    assert secret not in "\n".join(written)


def test_an_application_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('it is broken')\n")
    status, written = serve(tmp_path, "broken:app", ask=False)
    assert status != 0
    lines = [json.loads(line) for line in written if line.startswith("{")]  # it also prints the error itself
    (line,) = [line for line in lines if line["event"] == "Exception in worker process"]
    assert (line["role"], line["level"]) == ("web", "error")
    assert "it is broken" in line["exception"]
