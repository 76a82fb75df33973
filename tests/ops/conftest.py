"""A real nginx with this tree's configuration, before a small web server that says what it was asked."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from batchinfer.stack.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "nginx"
PATIENCE_S = 60.0


@dataclass
class Web:
    """The small web server: what it was asked, and the streams that it holds until it is told to go on."""

    port: int = 0
    paths: list[str] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Nginx:
    """A running nginx: its ports, what it trusts us with, and the web server behind it."""

    http_port: int
    https_port: int
    context: ssl.SSLContext
    web: Web

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name in the library
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.web.paths.append(self.path)
        length = len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if self.path == "/v1/dies":
            self.close_connection = True
            return
        if self.path == "/v1/events" or self.path.startswith("/v1/chat"):
            self._stream()
            return
        body = json.dumps({"headers": dict(self.headers.items()), "length": length}).encode()
        self.send_response(404 if self.path == "/v1/none" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        """One event, and the other when the test says so."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        if self.path.startswith("/v1/chat"):  # of a stream that no configuration knows
            self.send_header("X-Accel-Buffering", "no")
        self.end_headers()
        self._chunk(b"data: first\n\n")
        self.web.go_on.wait(PATIENCE_S)
        self._chunk(b"data: second\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


@contextmanager
def _running_web() -> Iterator[Web]:
    web = Web()
    handler = type("Handler", (_Handler,), {"web": web})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        web.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield web
        web.go_on.set()
        server.shutdown()
        thread.join(PATIENCE_S)


def find_nginx() -> str:
    """The program. Skips where there is none."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("nginx is not installed")
    return found


def lay_out(folder: Path, main: str, *, http: int = 80, https: int = 443, web: int = 8000) -> Path:
    """The configuration as it lies under /etc/nginx, with free ports and a certificate of our own."""
    shutil.copytree(CONFIGURATION / "batchinfer", folder / "batchinfer")
    (folder / "logs").mkdir()
    _make_certificate(folder / "tls")
    servers = folder / "batchinfer" / "servers.conf"
    servers.write_text(servers.read_text().replace("listen 80 ", f"listen {http} ").replace("443 ssl", f"{https} ssl"))
    if main == "nginx.conf":
        shutil.copytree(CONFIGURATION / "monitoring", folder / "batchinfer-more")
        text = (CONFIGURATION / main).read_text().replace("server web:8000", f"server 127.0.0.1:{web}")
        text = text.replace("/var/cache/nginx", str(folder)).replace("/dev/stdout", str(folder / "logs" / "access.log"))
        text = text.replace("/dev/stderr", str(folder / "logs" / "error.log"))
    else:  # what a distribution's file is around it
        included = (CONFIGURATION / main).read_text()
        text = f"pid {folder}/nginx.pid; error_log stderr; events {{}} http {{ access_log off;\n{included}\n}}"
    if os.geteuid() == 0:  # else its workers are nobody, who may not look into the test's folder
        text = f"user root;\n{text}"
    (folder / "nginx.conf").write_text(text)
    return folder / "nginx.conf"


def _make_certificate(folder: Path) -> None:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    encoding = serialization.Encoding.PEM
    plain = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(plain)
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(encoding))


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx as compose.yaml has it, but for its ports, paths and user."""
    program, folder = find_nginx(), tmp_path_factory.mktemp("nginx")
    http, https = free_ports(2)
    with _running_web() as web:
        file = lay_out(folder, "nginx.conf", http=http, https=https, web=web.port)
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(file), "-g", "daemon off;"],
            stderr=subprocess.DEVNULL,
        )
        try:
            found = Nginx(http, https, ssl.create_default_context(cafile=str(folder / "tls" / "cert.pem")), web)
            _wait_ready(found, process, folder / "logs" / "error.log")
            yield found
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


def _wait_ready(nginx: Nginx, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{nginx.http_port}/nginx-alive").status_code == 204:
                return
        time.sleep(0.05)
    pytest.fail(f"nginx does not answer: {log.read_text() if log.exists() else 'no log'}")
