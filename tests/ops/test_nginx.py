"""nginx: its limits are those of the settings, and a real one does what the files say."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from flask import Flask, g

from batchinfer.api.errors import write_error
from batchinfer.api.events import HEARTBEAT_S
from batchinfer.api.files import FORM_BYTES
from batchinfer.api.requests import SECURITY_HEADERS
from batchinfer.errors import BatchinferError, NotFound, TooLarge, Unavailable
from batchinfer.settings import Settings
from batchinfer.stack import gunicorn_settings
from tests.ops.conftest import CONFIGURATION, PATIENCE_S, find_nginx, lay_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ops.conftest import Nginx

SERVERS = (CONFIGURATION / "batchinfer" / "servers.conf").read_text()
MIB = 2**20
ONCE = "strict-transport-security"


def read_location(path: str) -> str:
    """What stands in the location of HTTPS that is named so."""
    found = re.search(r"location " + re.escape(path) + r" \{\n(.*?)\n    \}", SERVERS.split("listen 443")[1], re.DOTALL)
    assert found, path
    return found[1]


def read_limit(text: str) -> int:
    found = re.search(r"client_max_body_size (\d+)m;", text)
    assert found
    return int(found[1]) * MIB


def test_bodies_may_be_as_large_as_the_settings_say() -> None:
    settings = Settings()
    assert read_limit(SERVERS.split("location / {\n        include")[0]) == settings.max_body_bytes
    assert read_limit(read_location("= /v1/files")) == settings.max_file_bytes + FORM_BYTES
    assert read_limit(read_location("/admin/batches/new/")) == settings.max_file_bytes + FORM_BYTES
    assert read_limit(read_location("~ ^/v1/uploads/[^/]+/parts$")) == settings.max_part_bytes + FORM_BYTES
    assert read_limit(read_location("~ ^/v1/batches(/validate)?$")) == settings.max_batch_bytes


def test_nginx_waits_longer_than_the_service_lets_anybody_wait() -> None:
    def read_wait(path: str) -> int:
        found = re.search(r"proxy_read_timeout (\d+)s;", read_location(path))
        assert found
        return int(found[1])

    settings = Settings()
    longest = next(fact.le for fact in Settings.model_fields["max_wait_s"].metadata if hasattr(fact, "le"))
    assert read_wait("/") > longest
    assert read_wait("/v1/") > settings.max_answer_s
    assert read_wait("= /v1/events") > 2 * HEARTBEAT_S
    for main in ("nginx.conf", "host.conf"):
        kept = re.search(r"keepalive_timeout (\d+)s;", (CONFIGURATION / main).read_text())
        assert kept
        assert int(kept[1]) < gunicorn_settings.keepalive


def test_every_place_that_passes_on_says_who_asks() -> None:
    assert SERVERS.count("include batchinfer/proxy.conf;") == SERVERS.count("proxy_read_timeout") == 7
    proxy = (CONFIGURATION / "batchinfer" / "proxy.conf").read_text()
    assert "X-Forwarded-For $remote_addr;" in proxy, "never what the client says of itself"


@pytest.mark.parametrize("main", ["nginx.conf", "host.conf"])
def test_nginx_takes_the_configuration(main: str, tmp_path: Path) -> None:
    command = [find_nginx(), "-t", "-p", str(tmp_path), "-c", str(lay_out(tmp_path, main))]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "[warn]" not in run.stderr or "http2" in run.stderr, run.stderr
    servers = tmp_path / "batchinfer" / "servers.conf"
    servers.write_text(servers.read_text().replace("proxy_buffering on;", "proxy_buffering perhaps;"))
    assert subprocess.run(command, capture_output=True).returncode != 0


@pytest.fixture
def client(nginx: Nginx) -> Iterator[httpx.Client]:
    nginx.web.paths.clear()
    nginx.web.go_on.clear()
    with httpx.Client(base_url=nginx.url, verify=nginx.context, timeout=PATIENCE_S) as made:
        yield made


def test_http_leads_to_https(nginx: Nginx) -> None:
    answer = httpx.post(f"http://localhost:{nginx.http_port}/v1/jobs?a=b")
    assert answer.status_code == 308
    assert answer.headers["location"] == "https://localhost/v1/jobs?a=b"
    assert nginx.web.paths == []


def test_the_web_server_learns_who_asks_and_how(nginx: Nginx, client: httpx.Client) -> None:
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "ftp", "X-Forwarded-Host": "elsewhere",
            "Forwarded": "for=192.0.2.1"}  # fmt: skip
    sent = client.get("/v1/jobs", headers={**lies, "X-Request-Id": "mine-1"}).json()["headers"]
    assert sent["X-Forwarded-For"] == "127.0.0.1"
    assert sent["X-Forwarded-Proto"] == "https"
    assert sent["Host"] == f"localhost:{nginx.https_port}"
    assert sent["X-Request-Id"] == "mine-1"
    assert not {"X-Forwarded-Host", "Forwarded"} & set(sent)
    other = client.get("/admin", headers={"X-Request-Id": 'a"b'}).json()["headers"]
    assert re.fullmatch(r"req_[0-9a-f]{32}", other["X-Request-Id"])


def write_ours(error: BatchinferError) -> dict[str, Any]:
    """The body that the web server itself would write."""
    app = Flask("here")
    with app.test_request_context("/v1/jobs"):
        g.request_id = "req_here"
        return dict(json.loads(write_error(error).get_data()))


def check_like_ours(answer: httpx.Response, error: BatchinferError, path: str) -> None:
    """In the service's own form and with its code; the headers that browsers heed are there once."""
    body, ours = answer.json(), write_ours(error)
    assert answer.status_code == error.status
    assert answer.headers["content-type"] == "application/problem+json"
    assert body.keys() == ours.keys()
    assert body["error"] | {"message": ""} == ours["error"] | {"message": ""}
    assert {name: body[name] for name in ("type", "title", "status")} == {
        name: ours[name] for name in ("type", "title", "status")
    }
    assert body["detail"] == body["error"]["message"]
    assert body["instance"] == path
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-should-retry"] == ("true" if error.retry_helps else "false")
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers.get_list(name) == [value]
    assert len(answer.headers.get_list(ONCE)) == 1


@pytest.mark.parametrize(
    ("path", "bytes_"),
    [
        ("/v1/jobs", 64 * MIB),
        ("/v1/files", 513 * MIB),
        ("/v1/uploads/upload_1/parts", 65 * MIB),
        ("/v1/batches", 200 * MIB),
        ("/v1/batches/batch_1/retry", 64 * MIB),
        ("/admin/batches/new/run", 513 * MIB),
        ("/admin/try", 64 * MIB),
    ],
)
def test_a_body_over_the_limit_is_refused_as_the_service_would(nginx: Nginx, path: str, bytes_: int) -> None:
    """Its length is enough: not a byte of it is sent. One that is as long as may be is waited for."""
    nginx.web.paths.clear()
    answer = announce_body(nginx, path, bytes_ + 1)
    assert answer is not None
    check_like_ours(answer, TooLarge("", code="body_too_large"), path)
    assert announce_body(nginx, path, bytes_) is None
    assert nginx.web.paths == []


def announce_body(nginx: Nginx, path: str, length: int) -> httpx.Response | None:
    """The answer to the head of a request alone; None where nginx asks for the body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", nginx.https_port), PATIENCE_S) as plain,
        nginx.context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(head.encode())
        text = b""
        while b"\r\n\r\n" not in text:
            text += secure.recv(65536)
        top, _, body = text.partition(b"\r\n\r\n")
        lines = top.decode().split("\r\n")
        if lines[0].split()[1] == "100":
            return None
        headers = [tuple(line.split(": ", 1)) for line in lines[1:]]
        wanted = int(next(value for name, value in headers if name.lower() == "content-length"))
        while len(body) < wanted:
            body += secure.recv(65536)
    return httpx.Response(int(lines[0].split()[1]), headers=headers, content=body)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/v1/../metrics", "/metrics?a=b"])
def test_nobody_outside_reads_metrics(nginx: Nginx, path: str) -> None:
    """As it is sent: no client tidies the path before."""
    nginx.web.paths.clear()
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", nginx.https_port), PATIENCE_S) as plain,
        nginx.context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(head.encode())
        assert secure.recv(65536).startswith(b"HTTP/1.1 404 ")
    assert nginx.web.paths == []


def test_the_refusal_of_metrics_reads_as_any_other(client: httpx.Client) -> None:
    check_like_ours(client.get("/metrics"), NotFound("", code="path_not_found"), "/metrics")
    assert client.get("/flower/metrics").status_code == 404


def test_a_web_server_that_is_away_reads_as_any_other_error(client: httpx.Client) -> None:
    answer = client.get("/v1/dies")
    check_like_ours(answer, Unavailable(""), "/v1/dies")
    assert answer.headers["retry-after"] == "5"


def test_what_the_web_server_says_passes_as_it_is(client: httpx.Client) -> None:
    answer = client.get("/v1/none")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert len(answer.headers.get_list(ONCE)) == 1
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/events", "/v1/chat/completions"])
def test_events_arrive_while_the_stream_goes_on(nginx: Nginx, client: httpx.Client, path: str) -> None:
    with client.stream("GET", path) as answer:
        pieces = answer.iter_text()
        assert next(pieces) == "data: first\n\n"  # the second is not even sent
        nginx.web.go_on.set()
        assert "".join(pieces) == "data: second\n\n"


def test_a_body_comes_whole(client: httpx.Client) -> None:
    assert client.post("/v1/files", content=b"x" * (3 * MIB)).json()["length"] == 3 * MIB


def test_browsers_are_offered_http_2(nginx: Nginx) -> None:
    nginx.context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", nginx.https_port), PATIENCE_S) as plain,
        nginx.context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"
        assert secure.version() == "TLSv1.3"
    nginx.context.set_alpn_protocols(["http/1.1"])
