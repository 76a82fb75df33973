"""Golden prompts: what a revision must answer rightly before it serves. A line of JSON each:

    {"prompt": "Read the total.", "image": "invoice.png", "expect": "42.00"}
    {"messages": [...], "expect": {"json": {"total": "42.00"}}, "max_tokens": 200}

`expect` is a text (equal but for spaces around it), or one of `{"json": {...}}` (these members, whatever else there
is), `{"contains": ...}` (a text or several) and `{"regex": ...}`. A line of `batchinfer goldens export` is one: its
`answer` is what is expected. Pictures are data URLs or the SHA-256 of a blob; the command line reads paths.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchinfer.domain import sampling
from batchinfer.domain.fields import (
    join,
    read_int,
    read_list,
    read_object,
    read_text,
    refuse,
    refuse_unknown,
    require,
)
from batchinfer.domain.messages import MAX_MESSAGES, ROLES, decode_data_url, parse_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchinfer.domain.limits import Limits

MAX_GOLDENS, MAX_EXPECT_CHARS, MAX_REGEX_CHARS, MAX_CONTAINS = 200, 100_000, 1000, 64
#: All of them together as they are stored, without their pictures.
MAX_STORED_CHARS = 2_000_000
EXPECTATIONS = ("text", "json", "contains", "regex")
_ASKED = frozenset({"prompt", "messages", "image", "images", "expect", "answer", "id", "max_tokens", "response_format"})
#: What an export says beside them; of no use here.
_BESIDE = frozenset({"object", "job_id", "run_id", "model", "sha256", "created_at", "created_by"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """Of a golden prompt: its bytes, or (once they are stored) their SHA-256. `param` is for errors about it."""

    data: bytes = b""
    sha256: str | None = None
    param: str = "golden"


@dataclass(frozen=True)
class GoldenPrompt:
    """A prompt and what its answer must be. In `messages` image parts count into `pictures`."""

    name: str
    messages: tuple[dict[str, Any], ...]
    pictures: tuple[Picture, ...]
    #: A word of `EXPECTATIONS`, and what it holds the answer to.
    kind: str
    expected: Any
    max_tokens: int
    sampling: dict[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    response_format: dict[str, Any] | None = None

    def as_stored(self) -> dict[str, Any]:
        """As JSON; every picture has its SHA-256 by now."""
        plain = {name: value for name, value in vars(self).items() if name != "pictures"}
        return {**plain, "pictures": [picture.sha256 for picture in self.pictures]}

    @classmethod
    def from_stored(cls, entry: Mapping[str, Any]) -> GoldenPrompt:
        """Back from `as_stored`."""
        pictures = tuple(Picture(sha256=name) for name in entry["pictures"])
        lists = {name: tuple(entry[name]) for name in ("messages", "stop")}
        return cls(**{**entry, **lists, "pictures": pictures})


def parse_goldens(value: object, limits: Limits, at: str = "golden") -> tuple[GoldenPrompt, ...]:
    """Golden prompts from decoded JSON, in order. Raises BadRequest, BadImage, with the place of the line."""
    lines = read_list(value, at)
    if len(lines) > MAX_GOLDENS:
        refuse(at, f"has {len(lines):,} entries; the limit is {MAX_GOLDENS}.")
    found = tuple(_parse_line(line, join(at, number), limits) for number, line in enumerate(lines))
    stored = sum(len(json.dumps([one.messages, one.expected, one.response_format])) for one in found)
    if stored > MAX_STORED_CHARS:
        refuse(at, f"is longer than {MAX_STORED_CHARS:,} characters without its pictures. Send fewer prompts.")
    return found


def _parse_line(value: object, at: str, limits: Limits) -> GoldenPrompt:
    line = read_object(value, at)
    refuse_unknown(line, _ASKED | _BESIDE, at)
    exported = line.get("prompt")
    given = {**line, **exported} if isinstance(exported, dict) else line
    messages, pictures = _read_exported(given, at) if isinstance(exported, dict) else _read_asked(line, at, limits)
    kind, expected = _read_expect(line, at)
    most = given.get("max_tokens")
    name = line.get("id")
    return GoldenPrompt(
        name=at.rsplit(".", 1)[-1] if name is None else read_text(name, join(at, "id"), max_chars=128),
        messages=messages,
        pictures=pictures,
        kind=kind,
        expected=expected,
        max_tokens=limits.default_max_tokens if most is None
        else read_int(most, join(at, "max_tokens"), 1, limits.max_tokens),
        sampling=sampling.parse_sampling(_find_sampling(given, at)),
        stop=sampling.parse_stop(given.get("stop")) if given is not line else (),
        response_format=sampling.parse_response_format(given.get("response_format")),
    )  # fmt: skip


def _find_sampling(given: Mapping[str, Any], at: str) -> dict[str, Any]:
    """That of an export; a line of ours is decoded greedily."""
    found = given.get("sampling")
    return {} if found is None else read_object(found, join(at, "prompt.sampling"))


_Asked = tuple[tuple[dict[str, Any], ...], tuple[Picture, ...]]


def _read_asked(line: Mapping[str, Any], at: str, limits: Limits) -> _Asked:
    """Messages of a line of ours: a prompt with pictures before it, or messages as OpenAI writes them."""
    if line.get("messages") is not None:
        if line.get("prompt") is not None or line.get("image") is not None or line.get("images") is not None:
            refuse(at, "has `messages` beside `prompt` or a picture. Put all of it into `messages`.")
        messages, uploads = parse_messages(line["messages"], limits)
        for upload in uploads:
            if not upload.data:
                refuse(upload.param, "must hold the picture itself, as a data URL.")
        return messages, tuple(Picture(upload.data, param=upload.param) for upload in uploads)
    asked = require(line, "prompt", "Say what is asked, or send `messages`.", at)
    text = read_text(asked, join(at, "prompt"), max_chars=limits.max_prompt_chars)
    pictures = _read_pictures(line, at, limits)
    places = [{"type": "image", "index": index} for index in range(len(pictures))]
    return ({"role": "user", "content": [*places, {"type": "text", "text": text}]},), pictures


def _read_exported(given: Mapping[str, Any], at: str) -> _Asked:
    """Messages as a job stores them."""
    pictures = (_read_picture(given["image"], join(at, "image")),) if given.get("image") is not None else ()
    where = join(at, "prompt.messages")
    messages = read_list(given.get("messages"), where)
    if not 1 <= len(messages) <= MAX_MESSAGES:
        refuse(where, f"must have from 1 to {MAX_MESSAGES} entries.")
    return tuple(_read_message(message, where, len(pictures)) for message in messages), pictures


def _read_message(value: object, at: str, pictures: int) -> dict[str, Any]:
    message = read_object(value, at)
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else read_list(content, at)
    if message.get("role") not in ROLES or not all(_is_part(part, pictures) for part in parts):
        refuse(at, "is no message that an export wrote. Send the line as it was exported, with its `image`.")
    return {"role": message["role"], "content": parts}


def _is_part(part: object, pictures: int) -> bool:
    match part:
        case {"type": "text", "text": str(), **more}:
            return not more
        case {"type": "image", "index": int(index), **more}:
            return not more and 0 <= index < pictures
    return False


def _read_pictures(line: Mapping[str, Any], at: str, limits: Limits) -> tuple[Picture, ...]:
    one, several = line.get("image"), line.get("images")
    if one is not None and several is not None:
        refuse(join(at, "images"), "stands beside `image`. Send one of them.")
    found = [one] if one is not None else [] if several is None else read_list(several, join(at, "images"))
    if len(found) > limits.max_images:
        refuse(join(at, "images"), f"has {len(found):,} pictures; the limit is {limits.max_images}.")
    where = join(at, "image" if one is not None else "images")
    return tuple(_read_picture(value, where) for value in found)


def _read_picture(value: object, at: str) -> Picture:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return Picture(sha256=value, param=at)
    return Picture(decode_data_url(value, at), param=at)


def _read_expect(line: Mapping[str, Any], at: str) -> tuple[str, Any]:
    """A word of `EXPECTATIONS`, and what it holds the answer to."""
    where, value = join(at, "expect"), line.get("expect")
    if value is None:
        value, where = line.get("answer"), where if line.get("answer") is None else join(at, "answer")
    if isinstance(value, str):
        return "text", read_text(value, where, max_chars=MAX_EXPECT_CHARS, allow_empty=True)
    if not isinstance(value, dict) or len(value) != 1:
        refuse(where, f"must be a text, or an object with one of {', '.join(EXPECTATIONS)}.")
    ((kind, inner),) = value.items()
    refuse_unknown([kind], EXPECTATIONS, where)
    return kind, _EXPECTED[kind](inner, join(where, kind))


def _read_expected_text(value: object, at: str) -> str:
    return read_text(value, at, max_chars=MAX_EXPECT_CHARS, allow_empty=True)


def _read_contains(value: object, at: str) -> list[str]:
    some = [value] if isinstance(value, str) else read_list(value, at)
    if not 1 <= len(some) <= MAX_CONTAINS:
        refuse(at, f"must have from 1 to {MAX_CONTAINS} texts.")
    return [read_text(text, at, max_chars=MAX_EXPECT_CHARS) for text in some]


def _read_regex(value: object, at: str) -> str:
    pattern = read_text(value, at, max_chars=MAX_REGEX_CHARS)
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        refuse(at, "is no expression that Python's `re` reads.")
    return pattern


_EXPECTED: dict[str, Callable[[object, str], Any]] = {
    "text": _read_expected_text,
    "json": read_object,
    "contains": _read_contains,
    "regex": _read_regex,
}


def _search(pattern: str, answer: str) -> bool:
    return re.search(pattern, answer) is not None


def find_mismatch(kind: str, expected: Any, answer: str, *, search: Callable[[str, str], bool] = _search) -> str | None:
    """Why an answer is not what was expected, as a sentence; None where it is. `search` runs an expression."""
    if kind == "text":
        return None if answer.strip() == str(expected).strip() else f"It answers {_cut(answer)}, not {_cut(expected)}."
    if kind == "contains":
        missing = [text for text in expected if text not in answer]
        return f"It does not contain {_cut(missing[0])}." if missing else None
    if kind == "regex":
        return None if search(expected, answer) else f"It answers {_cut(answer)}, which {_cut(expected)} does not find."
    fenced = _FENCE.search(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return f"It answers {_cut(answer)}, which is not JSON."
    where = _find_difference(expected, value, "")
    return None if where is None else f"Its `{where}` is not what was expected." if where else "It is no object."


def _find_difference(expected: Any, value: Any, at: str) -> str | None:
    """The dotted path of the first member that differs; None where every expected one is there."""
    if not isinstance(expected, dict):
        same = expected == value and isinstance(expected, bool) is isinstance(value, bool)
        return None if same else at
    if not isinstance(value, dict):
        return at
    for name, inner in expected.items():
        path = join(at, name)
        found = path if name not in value else _find_difference(inner, value[name], path)
        if found is not None:
            return found
    return None


def _cut(text: object, most: int = 80) -> str:
    shown = json.dumps(str(text), ensure_ascii=False)
    return shown if len(shown) <= most else f"{shown[:most]}…"
