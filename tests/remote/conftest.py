"""Servers that speak OpenAI's chat completions, and requests; nothing here needs torch."""

from __future__ import annotations

import itertools
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bench.openai_server import FakeServer
from workers.engine.protocol import Image, Request
from workers.engine.remote import RemoteEngine, open_remote

PATIENCE_S = 60.0
_ids = itertools.count()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """As quick as can be."""
    server = FakeServer(slots=4, steps_per_s=400.0)
    yield server
    server.close()


@pytest.fixture
def open_engine() -> Iterator[Callable[..., RemoteEngine]]:
    """Opens remote engines; closed at the end."""
    opened: list[RemoteEngine] = []

    def build(server: FakeServer, *, slots: int = 4, **options: Any) -> RemoteEngine:
        opened.append(open_remote(slots=slots, **({"url": server.url, "model": "fake", "dialect": "vllm"} | options)))
        return opened[-1]

    yield build
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(server: FakeServer, open_engine: Callable[..., RemoteEngine]) -> RemoteEngine:
    return open_engine(server)


@pytest.fixture
def picture(tmp_path: Path) -> Image:
    """One pixel as PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    path = tmp_path / "one.png"
    path.write_bytes(data)
    return Image(sha256(data).hexdigest(), path)


def ask(text: str = "Hello", *, images: tuple[Image, ...] = (), **fields: Any) -> Request:
    """A request with an id of its own."""
    content: list[dict[str, Any]] = [{"type": "image", "index": index} for index in range(len(images))]
    content.append({"type": "text", "text": text})
    fields = {"id": f"request-{next(_ids)}", "max_tokens": 8} | fields
    return Request(messages=({"role": "user", "content": content},), images=images, **fields)


def wait_until(holds: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail("waited in vain")
        time.sleep(0.01)
