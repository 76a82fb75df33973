"""A worker's page of metrics: one thread, one reader at a time, on loopback unless told otherwise.

It begins before the model is loaded and ends after the drain. What goes wrong in it costs the page and nothing else.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

from batchinfer import __version__
from batchinfer.doctor.findings import Look
from batchinfer.doctor.readings import tell_machine
from batchinfer.errors import BatchinferError
from batchinfer.observe.fresh import Fresh, Overdue
from batchinfer.observe.logs import get_logger
from batchinfer.observe.metrics import CONTENT_TYPE, Sheet
from batchinfer.services.metrics import PROXY_HEADERS, check_reader
from workers.memory_readings import tell_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Context
    from batchinfer.settings import Settings

#: Ports that are tried from `metrics_port` on: one for each worker of a machine.
PORTS = 100
#: Time that a reader has to send its request and to take the answer, and that a page may take to be made.
_READER_S, _PAGE_S = 5.0, 5.0
_KEEP_S, _CLOSE_S = 2.0, 1.0
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what an operator may say, not what is bound by itself

_log = get_logger(__name__)


class MetricsPage:
    """Serves what `tell` puts on a sheet, together with the machine's numbers. Nothing listens where `metrics_port` is
    0 or no port is free."""

    def __init__(self, ctx: Context, tell: Callable[[Sheet], None]) -> None:
        self._ctx, self._tell = ctx, tell
        self._look = Look.of_host(ctx.settings)
        self._page = Fresh(self._make, keep_s=_KEEP_S, patience_s=_PAGE_S)
        self._server = _bind(ctx.settings, self._answer)
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
            _log.info("metrics are told", address=self.address)

    @property
    def address(self) -> str:
        """Where others find it; empty where there is none."""
        if self._server is None:
            return ""
        host, port = self._server.server_address[:2]
        name = self._ctx.settings.machine_name if host in _EVERYWHERE else str(host)
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def close(self) -> None:
        """Listen no more. A reader who takes his time is not waited for."""
        if self._server is not None:
            ending = threading.Thread(target=self._server.shutdown, daemon=True)
            ending.start()
            ending.join(_CLOSE_S)
            self._server.server_close()

    def _make(self) -> bytes:
        sheet = Sheet()
        sheet.add("batchinfer_build_info", 1, __version__)
        for result, number in self._ctx.announcer.counts().items():
            sheet.add("batchinfer_announcements_total", number, result)
        tell_machine(sheet, self._look)
        tell_process(sheet, self._look)
        self._tell(sheet)
        return sheet.render()

    def _answer(self, path: str, address: str, authorization: str, proxied: bool) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        if path.partition("?")[0] != "/metrics":
            return 404, "text/plain", b"No such path. Metrics are at /metrics.\n"
        try:
            check_reader(self._ctx.settings, address, authorization, proxied=proxied)
            return 200, CONTENT_TYPE, self._page.get()
        except BatchinferError as error:
            return error.status, "text/plain; charset=utf-8", f"{error.message} ({error.code})\n".encode()
        except Overdue:
            return 503, "text/plain", b"The numbers were not there in time. Ask again in a few seconds.\n"
        except Exception:
            _log.exception("metrics could not be told")
            return 500, "text/plain", b"Something broke on our side. The log of the worker has it.\n"


_Answer = tuple[int, str, bytes]


def _bind(settings: Settings, answer: Callable[[str, str, str, bool], _Answer]) -> HTTPServer | None:
    if not settings.metrics_port:
        return None

    class Handler(BaseHTTPRequestHandler):
        timeout = _READER_S

        def do_GET(self) -> None:
            proxied = any(name in self.headers for name in PROXY_HEADERS)
            status, kind, body = answer(
                self.path, self.client_address[0], self.headers.get("Authorization", ""), proxied
            )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            return "batchinfer"

        def log_message(self, *_: object) -> None:
            """Asked every few seconds."""

    class Server(HTTPServer):
        address_family = 10 if ":" in settings.metrics_host else 2  # AF_INET6, AF_INET
        allow_reuse_address = True

        def server_bind(self) -> None:
            # HTTPServer's own asks for the name of the address, which may take seconds.
            super(HTTPServer, self).server_bind()

        def handle_error(self, *_: object) -> None:
            """A reader that left is no fault."""

    for port in range(settings.metrics_port, settings.metrics_port + PORTS):
        try:
            return Server((settings.metrics_host, port), Handler)
        except OSError:
            continue
    _log.warning(
        "no port is free for metrics; the worker goes on without",
        first=settings.metrics_port,
        remedy="set BATCHINFER_METRICS_PORT to another, and BATCHINFER_METRICS_HOST to an address of this machine",
    )
    return None
