"""The mix is replayed from its seed, the proxy does what the faults ask of it, and the report adds up."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from bench.chaos.faults import FAULTS, NEEDS, draw_plan
from bench.chaos.mix import Part, make_mix
from bench.chaos.proxy import Loss, Proxy
from bench.chaos.report import save_part, write_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_seed_is_a_plan() -> None:
    plan = draw_plan(7, 40, list(FAULTS))
    assert plan == draw_plan(7, 40, list(FAULTS))
    assert plan != draw_plan(8, 40, list(FAULTS))
    counted = Counter(plan)
    assert set(counted) == set(FAULTS)
    assert max(counted.values()) - min(counted.values()) <= 1
    assert set(NEEDS) < set(FAULTS)


def test_a_seed_is_a_load() -> None:
    first, again = make_mix(7, 500), make_mix(7, 500)
    bodies = [first(number, f"key-{number}") for number in range(500)]
    assert bodies == [again(number, f"key-{number}") for number in range(500)]
    texts = [str(body["messages"]) for body in bodies]
    assert sum("[[crash]]" in text for text in texts) == 2
    assert any("image_url" in text for text in texts)
    assert all(body["metadata"]["key"] == f"key-{number}" for number, body in enumerate(bodies))


class Echo:
    """Answers `ok` to whatever it is told, and remembers it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.heard: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            while data := client.recv(1000):
                self.heard.append(data)
                client.sendall(b"ok")


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with closing(Proxy(echo.listener.getsockname())) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=20)


@pytest.mark.parametrize(("loss", "heard"), [(Loss.BEFORE, [b"INSERT"]), (Loss.AFTER, [b"INSERT", b"COMMIT"])])
def test_a_commit_is_lost(echo: Echo, proxy: Proxy, loss: Loss, heard: list[bytes]) -> None:
    proxy.lose_commits([loss], b"INSERT")
    with connect(proxy) as other:  # nothing of interest in its transaction
        other.sendall(b"COMMIT")
        assert other.recv(10) == b"ok"
    echo.heard.clear()
    with connect(proxy) as client:
        client.sendall(b"INSERT")
        assert client.recv(10) == b"ok"
        client.sendall(b"COMMIT")
        assert client.recv(10) == b""
    assert echo.heard == heard
    assert proxy.lost[loss] == 1


def test_what_is_held_arrives_late(echo: Echo, proxy: Proxy) -> None:
    told = threading.Event()
    with connect(proxy) as client:
        client.sendall(b"early")
        assert client.recv(10) == b"ok"
        proxy.swallow(told.set)
        client.sendall(b"late")
        assert told.wait(20)
        assert echo.heard == [b"early"]
        proxy.mend()
        assert client.recv(10) == b"ok"
    assert echo.heard == [b"early", b"late"]
    assert proxy.held_bytes == 4


def test_cut_and_mended(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"ok"
        proxy.cut()
        assert client.recv(10) == b""
    with connect(proxy) as client:
        assert client.recv(10) == b""
    proxy.mend()
    with connect(proxy) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"ok"


def test_the_report_adds_up(tmp_path: Path) -> None:
    clean = Part(5, Counter({"kill -9": 3, "FLUSHALL": 1}), 1000, 1010, Counter({"succeeded": 1010}), fenced=7)
    dirty = Part(6, Counter({"kill -9": 2}), 10, 10, Counter({"succeeded": 9}), problems=["lost: 1"])
    dirty.skipped = {"network cut": "only root may"}
    for part in (clean, dirty):
        save_part(tmp_path / "parts", part, {"cores": 2})
    write_report(tmp_path / "parts", tmp_path / "chaos.md")
    page = (tmp_path / "chaos.md").read_text()
    assert "1,020 jobs of 1,010 acknowledged submissions, 6 faults, 2 parts; the ledger of 1 of them is clean" in page
    assert "| kill -9 | 5 |" in page
    assert "- network cut: only root may" in page
    assert "- seed 6: lost: 1" in page
    assert "NOT CLEAN" in page
