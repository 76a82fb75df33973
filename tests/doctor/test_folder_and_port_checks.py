"""Permissions, SELinux's labels and ports: well and broken on purpose. SELinux by fixtures alone."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from batchinfer.doctor import folder_checks, port_checks
from batchinfer.doctor.findings import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchinfer.doctor.findings import Look

OK, WARNING, ERROR, SKIPPED = Level.OK, Level.WARNING, Level.ERROR, Level.SKIPPED
ENFORCES = {
    "sys/fs/selinux/enforce": "1",
    "proc/self/attr/current": "unconfined_u:unconfined_r:unconfined_t:s0\x00",
}
CONTAINED = {**ENFORCES, "proc/self/attr/current": "system_u:system_r:container_t:s0:c12,c900\x00"}


def make_home(look: Look) -> Path:
    home = look.settings.home
    home.mkdir(mode=0o700)
    for name in ("blobs", "models", "logs"):
        (home / name).mkdir(mode=0o700)
    return home


def test_a_home_that_is_its_owners_is_well(tree: Callable[..., Look]) -> None:
    look = tree({})
    assert folder_checks.check_permissions(look).level is SKIPPED
    make_home(look)
    assert folder_checks.check_permissions(look).level is OK


def test_a_folder_that_may_not_be_written_is_an_error(tree: Callable[..., Look]) -> None:
    look = tree({}, may_use=lambda folder: folder.name != "blobs")
    make_home(look)
    said = folder_checks.check_permissions(look)
    assert said.level is ERROR
    assert "blobs" in said.message
    assert said.remedy


@pytest.mark.parametrize(
    ("home_mode", "blobs_mode", "level"),
    [(0o700, 0o777, ERROR), (0o755, 0o755, WARNING), (0o700, 0o755, OK), (0o2770, 0o2770, OK)],
)
def test_what_others_may_do_is_judged(tree: Callable[..., Look], home_mode: int, blobs_mode: int, level: Level) -> None:
    look = tree({})
    home = make_home(look)
    (home / "blobs").chmod(blobs_mode)
    home.chmod(home_mode)
    assert folder_checks.check_permissions(look).level is level


@pytest.mark.parametrize(
    ("files", "label", "level", "word"),
    [
        ({}, "", SKIPPED, "does not run"),
        ({"sys/fs/selinux/enforce": "0"}, "", SKIPPED, "does not run"),
        (ENFORCES, "system_u:object_r:user_home_t:s0", OK, "user_home_t"),
        (ENFORCES, "", WARNING, "no label"),
        (CONTAINED, "system_u:object_r:container_file_t:s0:c12,c900", OK, "lets"),
        (CONTAINED, "unconfined_u:object_r:user_home_t:s0", ERROR, "user_home_t"),
        (CONTAINED, "", ERROR, "no label"),
        (CONTAINED, "garbage", ERROR, "no label"),
    ],
)
def test_labels_are_judged_by_who_asks(
    tree: Callable[..., Look], files: dict[str, str], label: str, level: Level, word: str
) -> None:
    look = tree(files, label=lambda _: label)
    make_home(look)
    said = folder_checks.check_labels(look)
    assert (said.level, word in said.message) == (level, True), said
    assert bool(said.remedy) == (level in {WARNING, ERROR})


@contextmanager
def listening() -> Iterator[int]:
    """A port on which somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with listening() as port:
        return port


class Healthy(BaseHTTPRequestHandler):
    """Answers as our web server."""

    def do_GET(self) -> None:
        body = b'{"status": "ok"}\n'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def with_port(look: Look, port: int) -> Look:
    return replace(look, settings=look.settings.model_copy(update={"port": port}))


def test_the_web_port_is_free_ours_or_anothers(tree: Callable[..., Look], monkeypatch: pytest.MonkeyPatch) -> None:
    look = tree({})
    assert port_checks.check_web_port(look).level is SKIPPED
    assert port_checks.check_web_port(with_port(look, free_port())).level is OK
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setattr(port_checks, "ANSWER_S", 60.0)
    try:
        assert "listens on port" in port_checks.check_web_port(with_port(look, server.server_port)).message
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    monkeypatch.setattr(port_checks, "ANSWER_S", 0.2)
    with listening() as port:
        said = port_checks.check_web_port(with_port(look, port))
    assert said.level is WARNING
    assert "another program" in said.message


def test_the_servers_of_an_up_listen_or_it_is_told(tree: Callable[..., Look]) -> None:
    look = tree({})
    assert port_checks.check_servers(look).level is SKIPPED
    home = make_home(look)
    with listening() as alive:
        for web, database, levels in (
            (alive, alive, (OK, OK)),
            (free_port(), free_port(), (ERROR, ERROR)),
        ):
            running = {
                "url": f"http://127.0.0.1:{web}",
                "database_url": f"postgresql+psycopg://u:secret@127.0.0.1:{database}/b",
            }
            (home / "servers.json").write_text(json.dumps(running))
            said = port_checks.check_web_port(look), port_checks.check_servers(look)
            assert tuple(one.level for one in said) == levels
            assert not any("secret" in one.message + one.remedy for one in said)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"url": 7, "database_url": "nonsense", "redis_url": "redis://h:x/"}'])
def test_a_broken_file_of_servers_is_as_none(tree: Callable[..., Look], text: str) -> None:
    look = tree({})
    (make_home(look) / "servers.json").write_text(text)
    assert port_checks.check_web_port(look).level is SKIPPED
    assert port_checks.check_servers(look).level is SKIPPED
