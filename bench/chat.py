"""A client for any server that speaks OpenAI's chat completions: the benches' requests, answered as text."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from bench.contestants import PATIENCE_S
from workers.engine.protocol import Request


@dataclass(frozen=True)
class Texts:
    """One pass over requests: seconds, and the text of each answer."""

    seconds: float
    answers: dict[str, str]


def to_messages(request: Request) -> list[dict[str, Any]]:
    """The messages as the API takes them, with pictures as data URLs."""
    return [
        {"role": message["role"], "content": [_to_part(request, part) for part in message["content"]]}
        for message in request.messages
    ]


def _to_part(request: Request, part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    data = base64.b64encode(request.images[part["index"]].path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


@dataclass(frozen=True)
class ChatClient:
    """Sends requests to `base_url`/v1/chat/completions, up to `concurrency` at once; `extra` goes into every body."""

    base_url: str
    model: str
    concurrency: int
    extra: dict[str, Any]

    def answer(self, requests: Sequence[Request]) -> Texts:
        """Bodies are built before the clock starts. Raises httpx.HTTPError for a refusal."""
        bodies = {request.id: self.body(request) for request in requests}
        limits = httpx.Limits(max_connections=self.concurrency)
        with (
            httpx.Client(base_url=self.base_url, timeout=PATIENCE_S, limits=limits, trust_env=False) as client,
            ThreadPoolExecutor(self.concurrency) as threads,
        ):
            began = time.perf_counter()
            texts = list(threads.map(lambda body: _post(client, body), bodies.values()))
            seconds = time.perf_counter() - began
        return Texts(seconds, dict(zip(bodies, texts, strict=True)))

    def body(self, request: Request) -> dict[str, Any]:
        """What is posted for a request."""
        return {
            "model": self.model,
            "messages": to_messages(request),
            "max_tokens": request.max_tokens,
            "temperature": 0,
            **self.extra,
        }


def _post(client: httpx.Client, body: dict[str, Any]) -> str:
    response = client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])
