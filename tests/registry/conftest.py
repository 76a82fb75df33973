"""A hub on this machine, models that it has, and the registry's verbs with what a CPU worker does, without one."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from sqlalchemy import text

from batchinfer.domain.registry import RegisterRequest, parse_register
from batchinfer.domain.retries import classify_error
from batchinfer.errors import BatchinferError
from batchinfer.services import fetches, registry, work
from batchinfer.store.claims import FETCH, Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from batchinfer.services.context import Caller, Context
    from batchinfer.settings import Settings
    from batchinfer.store.revisions import Revision

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "acme/reader"
CONFIG = {
    "architectures": ["ReaderForConditionalGeneration"], "model_type": "reader", "torch_dtype": "bfloat16",
    "text_config": {"max_position_embeddings": 4096},
}  # fmt: skip


def make_weights(count: int, *, seed: int = 1) -> bytes:
    """A safetensors file with one tensor of so many bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    body = hashlib.shake_128(bytes([seed])).digest(min(count, 2**16))
    return struct.pack("<Q", len(header)) + header + (body * (count // max(1, len(body)) + 1))[:count]


def make_model(weights: int = 300_000, *, seed: int = 1) -> dict[str, bytes]:
    """The files of a model in two shards."""
    shards = {f"model-0000{n}-of-00002.safetensors": make_weights(weights // 2, seed=seed + n) for n in (1, 2)}
    index = {"metadata": {}, "weight_map": {f"w{n}": name for n, name in enumerate(shards)}}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "preprocessor_config.json": b'{"min_pixels": 3136, "max_pixels": 1003520, "patch_size": 14}',
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
        "README.md": b"---\nlicense: apache-2.0\n---\n# Reader\n",
        "modeling_reader.py": b"raise SystemExit('never')",
        "model.safetensors.index.json": json.dumps(index).encode(),
        **shards,
    }


@dataclass
class Asked:
    """A request that the hub had."""

    path: str
    range: str | None
    authorization: str | None


@dataclass
class FakeHub:
    """Hugging Face's and ModelScope's routes, for one repository. What is set here says how it answers."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=make_model)
    asked: list[Asked] = field(default_factory=list)
    #: Statuses of the next answers to requests for files, and the `Retry-After` that goes with them.
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    listing_status: int = 200
    #: A file's bytes end after so many, once a number; the connection is cut there.
    cuts: list[int] = field(default_factory=list)
    #: Files are answered with an address elsewhere.
    elsewhere: str | None = None
    knows_ranges: bool = True
    #: Told of a file, whatever it is.
    sizes: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    #: Seconds before each piece of so many bytes.
    slow: tuple[float, int] | None = None

    def count_weights(self) -> int:
        """Requests for files of weights."""
        return sum("safetensors" in one.path and "index" not in one.path for one in self.asked)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = handler.headers
        self.asked.append(Asked(handler.path, headers.get("Range"), headers.get("Authorization")))
        parts = urlsplit(handler.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path == f"/api/models/{REPO}/revision/main":
            self._send(handler, self.listing_status, json.dumps(self._list()).encode())
        elif path == f"/api/v1/models/{REPO}/repo/files":
            self._send(handler, self.listing_status, json.dumps(self._list_scope()).encode())
        elif path == f"/api/v1/models/{REPO}/repo":
            self._send_file(handler, query["FilePath"][0])
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
            if self.elsewhere:
                self._send(handler, 302, b"", Location=f"{self.elsewhere}/cdn/{name}?signed={'x' * 3000}")
            else:
                self._send_file(handler, name)
        elif path.startswith("/cdn/"):
            self._send_file(handler, path.removeprefix("/cdn/"))
        else:
            self._send(handler, 404, b"{}")

    def _list(self) -> dict[str, Any]:
        return {"sha": COMMIT, "cardData": {"license": "apache-2.0"}, "siblings": [self._tell(n) for n in self.files]}

    def _tell(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        size = self.sizes.get(name, len(data))
        if not name.endswith(".safetensors"):
            git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            return {"rfilename": name, "size": size, "blobId": self.hashes.get(name, git)}
        sha256 = self.hashes.get(name, hashlib.sha256(data).hexdigest())
        return {"rfilename": name, "size": size, "blobId": "0" * 40, "lfs": {"size": size, "sha256": sha256}}

    def _list_scope(self) -> dict[str, Any]:
        files = [{"Path": name, "Size": len(data), "Type": "blob", "Revision": COMMIT,
                  "Sha256": hashlib.sha256(data).hexdigest()} for name, data in self.files.items()]  # fmt: skip
        return {"Code": 200, "Data": {"Files": [{"Path": "assets", "Size": 0, "Type": "tree"}, *files]}}

    def _send_file(self, handler: BaseHTTPRequestHandler, name: str) -> None:
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            wait = {"Retry-After": self.retry_after} if self.retry_after else {}
            self._send(handler, status, b"", **wait)
            return
        if name not in self.files:
            self._send(handler, 404, b"")
            return
        data, asked = self.files[name], handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.knows_ranges else 0
        handler.send_response(206 if asked and self.knows_ranges else 200)
        if asked and self.knows_ranges:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        body, cut = data[start:], self.cuts.pop(0) if self.cuts and name.endswith(".safetensors") else None
        body = body if cut is None else body[:cut]
        step = self.slow[1] if self.slow else len(body) or 1
        for place in range(0, len(body), step):
            if self.slow:
                time.sleep(self.slow[0])
            handler.wfile.write(body[place : place + step])
            handler.wfile.flush()

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub with one model in it."""
    made = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        timeout = 20

        def do_GET(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                made.answer(self)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(settings: Settings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The hubs of this machine, and no pauses."""
    monkeypatch.setattr(fetches, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(fetches, "_LONGEST_PAUSE_S", 0.01)
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return settings.model_copy(update={"hub_url": hub.url, "modelscope_url": hub.url, "hub_networks": "127.0.0.0/8",
                                       "hub_timeout_s": 5.0})  # fmt: skip


@dataclass
class Desk:
    """Does what an operator and a CPU worker do."""

    ctx: Context
    caller: Caller
    lease_id: UUID | None = None

    def register(self, name: str = "reader", **source: Any) -> Revision:
        source = source or {"kind": "huggingface", "repo": REPO}
        return registry.register(self.ctx, self.caller, parse_register({"name": name, "source": source}))

    def request(self, **source: Any) -> RegisterRequest:
        return parse_register({"name": "reader", "source": source})

    def begin(self, revision: Revision) -> Revision:
        return registry.fetch(self.ctx, self.caller, revision.model, revision.revision)

    def read(self, revision: Revision) -> Revision:
        return registry.get_revision(self.ctx, self.caller, revision.model, revision.revision)

    def claim(self) -> work.Claim | None:
        """What a worker would claim."""
        if self.lease_id is None:
            self.lease_id = work.open_lease(self.ctx, role="cpu", worker="cpu-0@here", host="here", pid=1)
        claims = work.claim(self.ctx, lease_id=self.lease_id, kinds=(FETCH,), model=None, limit=1)
        return claims[0] if claims else None

    def step(self, wanted: Callable[[], bool] = lambda: True) -> bool | BatchinferError:
        """One claim and one try of it; the error is written as the workshop does, and answered."""
        claim = self.claim()
        assert claim is not None, "nothing waits"
        try:
            return fetches.fetch_revision(self.ctx, claim, lambda action: action(), wanted)
        except BatchinferError as error:
            assert self.lease_id is not None
            ending = Ending(claim.id, claim.attempt, error.as_dict(), classify_error(error))
            work.fail(self.ctx, self.lease_id, [ending])
            return error

    def fetch(self, revision: Revision) -> Revision:
        """All of it, at once."""
        self.begin(revision)
        assert self.step() is True, self.read(revision).error
        return self.read(revision)

    def make_due(self) -> None:
        """What waits for another try may be claimed at once."""
        with self.ctx.db.transaction() as tx:
            tx.execute(text("UPDATE queue SET available_at = now()"))

    def lose(self) -> None:
        """The worker is lost."""
        assert self.lease_id is not None
        work.end_lease(self.ctx, self.lease_id, "lost", clean=False)
        self.lease_id = None


@pytest.fixture
def desk(context: Context, caller: Caller) -> Desk:
    """An operator's desk."""
    return Desk(context, caller)


@pytest.fixture
def local(desk: Desk) -> Desk:
    """The same at the command line of the service's own machine."""
    from batchinfer.services.audit import NO_KEY

    return replace(desk, caller=replace(desk.caller, key_id=NO_KEY))
