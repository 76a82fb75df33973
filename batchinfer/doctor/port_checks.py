"""Ports of this host: whether the web server's is ours or free, and whether the servers of an `up` listen."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchinfer.doctor.findings import Check, fail, fine, skip, warn

if TYPE_CHECKING:
    from batchinfer.doctor.findings import Look, Said

#: Longest wait for a port of this host, and for what listens there.
ANSWER_S = 1.0
#: Addresses that mean every address of a host, and the one by which this host reaches them.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_SERVERS = {"database_url": "Postgres", "redis_url": "Valkey"}


def check_web_port(look: Look) -> Said:
    """The web server's port."""
    settings = look.settings
    running = _read_running(look)
    if (place := _find_place(running.get("url"))) is not None:
        if _listens(*place):
            return fine(f"The web server of this home listens on port {place[1]}.")
        return fail(
            f"`batchinfer up` of this home named port {place[1]}, and nobody listens there.",
            "Look at logs/web.log in the home; if no `batchinfer up` runs any more, start it anew.",
        )
    if not settings.port:
        return skip("The web server takes a free port when it starts (BATCHINFER_PORT is 0).")
    host = _ANY.get(settings.host, settings.host)
    if not _listens(host, settings.port):
        return fine(f"Port {settings.port} is free.")
    if _is_ours(host, settings.port):
        return fine(f"The web server listens on port {settings.port}.")
    return warn(
        f"Port {settings.port} is taken by another program, or by a web server that does not answer.",
        "`ss -ltnp` names it. Choose another with --port or BATCHINFER_PORT.",
    )


def check_servers(look: Look) -> Said:
    """The ports of Postgres and Valkey that `up` runs, which no other host can reach."""
    running = _read_running(look)
    places = {name: _find_place(running.get(key)) for key, name in _SERVERS.items()}
    known = {name: place for name, place in places.items() if place is not None}
    if not known and os.path.lexists(look.settings.home / "servers.json"):
        return skip("Not known: servers.json of the home may not be read, or names no server.")
    if not known:
        return skip("No `batchinfer up` runs in this home.")
    deaf = [f"{name} (port {place[1]})" for name, place in known.items() if not _listens(*place)]
    if deaf:
        return fail(
            f"Nobody listens where servers.json of the home names {' and '.join(deaf)}.",
            "Look at logs/postgres.log and logs/valkey.log; if no `batchinfer up` runs any more, start it.",
        )
    return fine(f"{' and '.join(f'{name} listens on port {place[1]}' for name, place in known.items())}.")


def _read_running(look: Look) -> dict[str, Any]:
    """What an `up` of this home says of itself while it runs; empty where none does."""
    try:
        found = json.loads((look.settings.home / "servers.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _find_place(url: object) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        return (parts.hostname, parts.port) if parts and parts.hostname and parts.port else None
    except ValueError:
        return None


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True


def _is_ours(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status == http.HTTPStatus.OK and json.loads(answer.read(4096)) == {"status": "ok"}
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


PORT_CHECKS = (
    Check("web port", "host", "A port that another program has stops the start.", check_web_port),
    Check("ports of the servers", "host", "Every process of this home talks through them.", check_servers),
)
