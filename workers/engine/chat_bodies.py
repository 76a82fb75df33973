"""A request as the body of a chat completion: pictures as data URLs, the rest in the words of the server's dialect."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.engine.dialects import VLLM_LOOPS, Dialect
from workers.engine.protocol import Request
from workers.engine.tickets import Ticket

#: Threads that read pictures and write bodies, and the share of the slots that they write ahead for: one in so many.
_THREADS, _AHEAD_SHARE = 2, 4

#: By the first bytes of a file; what is none of these is sent as PNG, for the server to refuse.
_KINDS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))


@dataclass(frozen=True)
class Writer:
    """Writes the bodies for one model of one server. `extra` goes into each, before what the request says.

    With `urgency` a request's class is told; with `server_loops` vLLM ends answers that repeat themselves.
    """

    model: str
    dialect: Dialect
    urgency: bool = False
    server_loops: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def write(self, request: Request) -> bytes:
        """The body of an answer in one piece. Reads the pictures' files; raises OSError where one is gone, Refused as
        the dialect does."""
        body: dict[str, Any] = dict(self.extra)
        body |= {"model": self.model, "messages": write_messages(request), "max_tokens": request.max_tokens}
        body |= self.dialect.write_sampling(request.sampling)
        body |= self.dialect.write_format(request.response_format)
        if request.stop:
            body["stop"] = list(request.stop)
        if self.urgency:
            body |= self.dialect.write_urgency(request.job_class)
        if self.server_loops and request.stop_repetition:
            body |= VLLM_LOOPS
        return json.dumps(body, separators=(",", ":")).encode()


class Bodies:
    """Writes bodies with pictures in threads beside the engine's loop, for some of what waits before its turn, so that
    a free place at the server is filled at once. A text is written faster than it is handed over."""

    def __init__(self, writer: Writer, slots: int) -> None:
        self.writer = writer
        #: For so many that wait.
        self.ahead = max(2, slots // _AHEAD_SHARE)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="bodies")

    def prepare(self, ticket: Ticket) -> bool:
        """Begin to write the body of a request; False where there is nothing to do."""
        if ticket.plan is not None or not ticket.request.images:
            return False
        ticket.plan = self._threads.submit(self.writer.write, ticket.request)
        return True

    async def take(self, ticket: Ticket) -> bytes:
        """The body. Raises what the writer raises."""
        self.prepare(ticket)
        written: Future[bytes] | None = ticket.plan
        if written is None:
            return self.writer.write(ticket.request)
        ticket.plan = None  # bodies may be large
        return await asyncio.wrap_future(written)

    def close(self) -> None:
        """Write no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def as_stream(body: bytes) -> bytes:
    """The same body with the answer piece by piece, and its usage at the end."""
    return body[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'


def write_messages(request: Request) -> list[dict[str, Any]]:
    """The messages, a picture as a data URL each time that it is shown."""
    urls = [write_data_url(image.path) for image in request.images]
    return [
        {"role": message["role"], "content": _write_content(message["content"], urls)} for message in request.messages
    ]


def write_data_url(path: Path) -> str:
    """A picture's file. Raises OSError."""
    data = path.read_bytes()
    kind = next((kind for start, kind in _KINDS if data.startswith(start)), "image/png")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _write_content(parts: Any, urls: list[str]) -> Any:
    # A single text as a string: some servers' templates take nothing else where there is no picture.
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return [
        {"type": "text", "text": part["text"]}
        if part["type"] == "text"
        else {"type": "image_url", "image_url": {"url": urls[part["index"]]}}
        for part in parts
    ]
