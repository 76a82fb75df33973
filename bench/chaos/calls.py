"""One client's requests, and the bodies that it submits."""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageDraw

from bench.chaos.cluster import MODEL

#: Longest wait for an answer, then the same is sent again.
ANSWER_S = 15.0
#: Pages of a document that is submitted.
PAGES = 2


@dataclass(frozen=True)
class Answer:
    """What came back; status 0 where nothing did."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]
    seconds: float


class Caller:
    """One connection to the API, opened again where it broke. One thread."""

    def __init__(self, url: str, api_key: str, *, timeout_s: float = ANSWER_S) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request, once."""
        started = time.monotonic()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            text = None if body is None else json.dumps(body)
            self._http.request(method, path, text, {**self._headers, **names})
            response = self._http.getresponse()
            found = json.loads(response.read() or b"{}")
            return Answer(response.status, found, dict(response.getheaders()), time.monotonic() - started)
        except (OSError, http.client.HTTPException, ValueError):
            self._http.close()
            return Answer(0, {}, {}, time.monotonic() - started)

    def submit(self, key: str, body: dict[str, Any]) -> Answer:
        """Submit a job under an idempotency key."""
        return self.ask("POST", "/v1/jobs", body, Idempotency_Key=key)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __del__(self) -> None:
        self._http.close()


def text_body(text: str, key: str, **more: Any) -> dict[str, Any]:
    """A job of text; its key is in its metadata, so that the ledger finds what a key made."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "metadata": {"key": key}, **more}


@cache
def _draw(kind: str, pages: int = 1) -> str:
    drawn = [Image.new("RGB", (64, 48), "white") for _ in range(pages)]
    for number, page in enumerate(drawn):
        ImageDraw.Draw(page).text((4, 4), f"{number}", fill="black")
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": drawn[1:]} if pages > 1 else {}
    drawn[0].save(buffer, kind, **more)
    return base64.b64encode(buffer.getvalue()).decode()


def picture_body(text: str, key: str) -> dict[str, Any]:
    """A job with a picture: a CPU worker prepares it before a model worker meets it."""
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + _draw("PNG")}},
    ]
    return {**text_body(text, key), "messages": [{"role": "user", "content": parts}]}


def document_body(text: str, key: str) -> dict[str, Any]:
    """A document of PAGES pages."""
    data = "data:application/pdf;base64," + _draw("PDF", PAGES)
    parts = [{"type": "text", "text": text}, {"type": "file", "file": {"filename": "two.pdf", "file_data": data}}]
    return {**text_body(text, key), "messages": [{"role": "user", "content": parts}]}
