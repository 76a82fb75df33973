"""A chat completion as it comes back, whole or as server-sent events. What is neither is refused, and not guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from workers.engine.protocol import EngineFailure, Finish, TokenUsage
from workers.engine.repetition import REPEATS_FAILURE
from workers.engine.upstream import UpstreamError, garbled, read_event_error

#: The most that an answer may be, and a line of a stream, in bytes: beyond that somebody sends rubbish.
MOST_BYTES, MOST_LINE = 64 * 2**20, 8 * 2**20
#: What an aborted request of Xinference answers with, under status 200.
_ABORTED = "<XINFERENCE_NON_STREAMING_ABORT>"
_DROPPED = EngineFailure("upstream_dropped", "The server ended the answer before its end.", True)
_FILTERED = EngineFailure("upstream_refused", "The server's filter stopped the answer.")
_FINISHES: dict[str, Finish | EngineFailure] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "tool_calls": "stop",
    "length": "length",
    "repetition": REPEATS_FAILURE,
    "abort": _DROPPED,
    "error": _DROPPED,
    "content_filter": _FILTERED,
}


class Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self) -> None:
        self._rest = b""
        self._bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are complete now. Raises UpstreamError for one without an end."""
        self._bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_LINE or self._bytes > MOST_BYTES:
            raise garbled("it is too long")
        for line in lines:
            yield line.rstrip(b"\r")


class Answer:
    """What has come of one answer. Every `take` raises UpstreamError for what is no chat completion."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.ended = False
        self._texts: list[str] = []
        #: Pieces that came, as tokens where the server tells them: what loops are looked for in.
        self.tokens: list[object] = []
        self._usage: Mapping[str, Any] = {}
        self._logprobs: list[dict[str, Any]] = []
        self._finish: Finish | EngineFailure | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def logprobs(self) -> tuple[Mapping[str, Any], ...]:
        """One entry a token, as `Done` has them; empty where none came."""
        return tuple(self._logprobs)

    def find_end(self) -> Finish:
        """How it ended. Raises UpstreamError where it was cut off, or ended as no answer does."""
        if self._finish is None or (self._finish == "stop" and self.text == _ABORTED):
            raise UpstreamError(_DROPPED)
        if isinstance(self._finish, EngineFailure):
            raise UpstreamError(self._finish)
        return self._finish

    def count(self, images: int) -> TokenUsage:
        """Usage as the server counts it; where it does not, tokens out are the pieces that came."""
        details = self._usage.get("prompt_tokens_details")
        details = details if isinstance(details, Mapping) else {}
        by_kind = details.get("multimodal_tokens")
        shown = by_kind.get("image") if isinstance(by_kind, Mapping) else details.get("image_tokens")
        return TokenUsage(
            prompt_tokens=_read_count(self._usage.get("prompt_tokens")) or 0,
            completion_tokens=_read_count(self._usage.get("completion_tokens"), len(self.tokens)),
            image_tokens=_read_count(shown),
            cached_tokens=_read_count(details.get("cached_tokens")),
            images=images,
        )

    def take_whole(self, content: bytes) -> str:
        """An answer in one piece; its text."""
        body = _read_object(content)
        if "choices" not in body and "error" in body:
            raise read_event_error(body["error"])
        self._take_head(body)
        choice = _find_choice(body)
        if choice is None or not isinstance(choice.get("message"), dict):
            raise garbled("it has no choices")
        self.ended = True
        return self._take_choice(choice, choice["message"])

    def take_line(self, line: bytes) -> str | None:
        """A line of a stream; the text that it adds, or None where it adds nothing."""
        if not line.startswith(b"data:"):
            if line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                raise garbled("a line of its stream is none")
            return None
        data = line[5:].strip()
        if data == b"[DONE]":
            self.ended = True
            return None
        body = _read_object(data)
        if "error" in body and body["error"] is not None:
            raise read_event_error(body["error"])
        self._take_head(body)
        choice = _find_choice(body)
        if choice is None:
            return None
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            raise garbled("a piece of its stream has no delta")
        return self._take_choice(choice, delta) or None

    def _take_head(self, body: dict[str, Any]) -> None:
        if isinstance(body.get("model"), str):
            self.model = body["model"]
        if isinstance(body.get("usage"), dict):
            self._usage = body["usage"]

    def _take_choice(self, choice: dict[str, Any], said: dict[str, Any]) -> str:
        text = said.get("content")
        text = "" if text is None else text
        if not isinstance(text, str):
            raise garbled("its text is none")
        ids = choice.get("token_ids")
        if isinstance(ids, list):
            self.tokens.extend(ids)
        elif text:
            self.tokens.append(text)
        self._texts.append(text)
        self._take_logprobs(choice.get("logprobs"))
        if choice.get("finish_reason") is not None:
            self._finish = _FINISHES.get(str(choice["finish_reason"]), "stop")
        return text

    def _take_logprobs(self, logprobs: object) -> None:
        entries = logprobs.get("content") if isinstance(logprobs, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("logprob"), int | float):
                self._logprobs.append({"token": str(entry.get("token", "")), "logprob": float(entry["logprob"])})


def _read_object(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise garbled("it is no JSON object")
    return body


def _find_choice(body: dict[str, Any]) -> dict[str, Any] | None:
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise garbled("it has no choices")
    if not choices:
        return None
    if not isinstance(choices[0], dict):
        raise garbled("its choice is none")
    return choices[0]


def _read_count(value: object, default: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
