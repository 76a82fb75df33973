"""A small server that speaks OpenAI's chat completions over the fake engine, and misbehaves when it is told to.

    python -m bench.openai_server [--slots N] [--steps-per-s N] [--model NAME]

Writes its address as one line of JSON and serves until its standard input ends. Tests run it in a thread
(`FakeServer`), and put into `faults` what the next requests meet.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from workers.engine.fake import FakeEngine
from workers.engine.protocol import Done, Image, Refused, Request, Sampling

_POLL_S = 0.02
_LOOPBACK = "127.0.0.1"


class Fault(NamedTuple):
    """What a request meets. Kinds: status (`value` is the code), drop (after so many pieces), garbage, hang, other
    (another model's name), blank (no usage), cut (the stream ends without a finish), late (an error within it)."""

    kind: str
    value: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b'{"error": {"message": "told to", "code": "told_to"}}'


class FakeServer:
    """Serves until `close`. Everything that was asked is in `bodies`; `cancelled` counts connections that were
    dropped before their answer's end."""

    def __init__(self, *, model: str = "fake", key: str | None = None, port: int = 0, **engine: Any) -> None:
        self.engine = FakeEngine(model=model, **engine)
        self.model, self.key = model, key
        self.faults: deque[Fault] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.cancelled = 0
        self.most_at_once = self._at_once = 0
        self.waiting = 0
        self.version: object = "0.32.0"
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._loop.run_until_complete(self._listen(port))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="fake-server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{_LOOPBACK}:{self.port}"

    def close(self) -> None:
        """Drop every connection."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self.engine.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._hang_up())
        self._loop.close()

    async def _listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._connect, _LOOPBACK, port, limit=2**26, backlog=1024)

    async def _hang_up(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request of a connection; whether another may come."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return await _reply(writer, 401, b'{"error": {"message": "no key", "code": "invalid_api_key"}}')
        if method == "GET":
            return await self._tell(writer, path)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(reader, writer, json.loads(content))
        finally:
            self._at_once -= 1

    async def _tell(self, writer: asyncio.StreamWriter, path: str) -> bool:
        if path == "/metrics":
            return await _reply(writer, 200, f'vllm:num_requests_waiting{{model="x"}} {self.waiting}.0\n'.encode())
        if path == "/version":
            return await _reply(writer, 200, json.dumps({"version": self.version}).encode())
        listed = {"object": "list", "data": [{"id": self.model, "object": "model", "max_model_len": 32_768}]}
        return await _reply(writer, 200, json.dumps(listed).encode())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: dict[str, Any]) -> bool:
        self.bodies.append(body)
        fault = self.faults.popleft() if self.faults else Fault("none")
        if fault.kind == "status":
            return await _reply(writer, fault.value, fault.body, *fault.headers)
        if fault.kind == "garbage":
            return await _reply(writer, 200, b"<html>not what was asked for</html>")
        if fault.kind == "hang":
            await reader.read()
            self.cancelled += 1
            return False
        pieces: asyncio.Queue[str | Done] = asyncio.Queue()

        def put(item: str | Done) -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(pieces.put_nowait, item)

        request = read_request(body)
        listen = (lambda _id, text: put(text)) if body.get("stream") or fault.kind == "drop" else None
        try:
            self.engine.submit(request, put, listen)
        except Refused as refusal:
            refused = {"error": {"message": refusal.message, "code": refusal.code}}
            return await _reply(writer, 400, json.dumps(refused).encode())
        talk = _Talk(reader, writer, body, fault, "another" if fault.kind == "other" else self.model)
        try:
            return await talk.hold(pieces)
        except (ConnectionError, asyncio.CancelledError):
            self.cancelled += 1
            self.engine.cancel(request.id)
            raise


class _Talk:
    """One answer, whole or in events."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: dict[str, Any], fault: Fault, model: str
    ) -> None:
        self._reader, self._writer, self._body, self._fault, self._model = reader, writer, body, fault, model
        self._streams = bool(body.get("stream"))

    async def hold(self, pieces: asyncio.Queue[str | Done]) -> bool:
        """Until the end. Raises ConnectionError where either side drops the connection."""
        sent = 0
        if self._streams:
            self._writer.write(_write_head(200, "text/event-stream", ("Transfer-Encoding", "chunked")))
        while True:
            item = await self._next(pieces)
            if isinstance(item, Done):
                return await self._end(item)
            sent += 1
            if self._streams:
                self._event({"choices": [{"index": 0, "delta": {"content": item}, "finish_reason": None}]})
            if self._fault.kind in ("drop", "late") and sent >= self._fault.value:
                if self._fault.kind == "late":
                    self._event({"error": {"message": "told to", "code": 500}})
                await self._writer.drain()
                raise ConnectionResetError

    async def _next(self, pieces: asyncio.Queue[str | Done]) -> str | Done:
        while True:
            if self._reader.at_eof() or self._writer.transport.is_closing():
                raise ConnectionResetError
            try:
                return pieces.get_nowait()
            except asyncio.QueueEmpty:
                pass
            try:
                return await asyncio.wait_for(pieces.get(), _POLL_S * 5)
            except TimeoutError:
                continue

    async def _end(self, done: Done) -> bool:
        if done.finish == "error" and done.error is not None:
            failed = {"error": {"message": done.error.message, "code": done.error.code}}
            if self._streams:
                self._event(failed)
                self._writer.write(b"0\r\n\r\n")
                return True
            return await _reply(self._writer, 500, json.dumps(failed).encode())
        if done.finish not in ("stop", "length"):
            raise ConnectionResetError
        usage = {"usage": _write_usage(done)} if self._fault.kind != "blank" else {}
        if not self._streams:
            message = {"role": "assistant", "content": done.text}
            choice = {"index": 0, "message": message, "finish_reason": done.finish}
            whole = {"id": done.id, "object": "chat.completion", "model": self._model, "choices": [choice], **usage}
            return await _reply(self._writer, 200, json.dumps(whole).encode())
        if self._fault.kind != "cut":
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": done.finish}]})
            self._event({"choices": [], **usage})
            self._chunk(b"data: [DONE]\n\n")
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    def _event(self, body: dict[str, Any]) -> None:
        head = {"id": "chat", "object": "chat.completion.chunk", "model": self._model}
        self._chunk(b"data: " + json.dumps(head | body).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def read_request(body: dict[str, Any]) -> Request:
    """A body as the fake engine's request; pictures count by their bytes."""
    images: list[Image] = []
    messages = [{"role": message["role"], "content": _read_content(message, images)} for message in body["messages"]]
    sampling = Sampling(
        temperature=body.get("temperature", 0.0), repetition_penalty=body.get("repetition_penalty", 1.0)
    )
    return Request(
        id=uuid.uuid4().hex,
        messages=tuple(messages),
        images=tuple(images),
        sampling=sampling,
        max_tokens=body.get("max_tokens", 512),
        stop=tuple(body.get("stop", ())),
    )


def _read_content(message: dict[str, Any], images: list[Image]) -> list[dict[str, Any]]:
    content = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] == "text":
            parts.append(part)
            continue
        data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        parts.append({"type": "image", "index": len(images)})
        images.append(Image(hashlib.sha256(data).hexdigest(), Path()))
    return parts


def _write_usage(done: Done) -> dict[str, Any]:
    usage = done.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"image_tokens": usage.image_tokens, "cached_tokens": 0},
    }


def _write_head(status: int, kind: str, *headers: tuple[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Type: {kind}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _reply(writer: asyncio.StreamWriter, status: int, content: bytes, *headers: tuple[str, str]) -> bool:
    writer.write(_write_head(status, "application/json", ("Content-Length", str(len(content))), *headers) + content)
    await writer.drain()
    return True


@contextmanager
def serving(**options: Any) -> Iterator[FakeServer]:
    """A server in a thread of this process."""
    server = FakeServer(**options)
    try:
        yield server
    finally:
        server.close()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--steps-per-s", type=float, default=0.0)
    parser.add_argument("--model", default="fake")
    given = parser.parse_args()
    with serving(model=given.model, slots=given.slots, steps_per_s=given.steps_per_s) as server:
        print(json.dumps({"url": server.url, "started": time.time()}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
