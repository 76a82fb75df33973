"""How the answer is made: tokens, sampling, stops and its form, each held to its range."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import (
    join,
    read_flag,
    read_int,
    read_list,
    read_number,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.domain.limits import Limits

#: Fields of a request that this module reads.
FIELDS = frozenset(
    {"max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed"}
    | {"repetition_penalty", "logprobs", "stop", "response_format"}
)
MAX_STOPS, MAX_STOP_CHARS = 16, 256
MAX_FORMAT_CHARS, MAX_CHOICES = 64_000, 1_000
_FORMATS: dict[str, tuple[str, ...]] = {
    "text": (),
    "json_object": (),
    "json_schema": ("json_schema",),
    "regex": ("regex",),
    "choice": ("choice",),
}


def parse_max_tokens(given: Mapping[str, object], limits: Limits) -> int:
    """Most tokens of the answer, from either of its two names."""
    read = {
        name: read_int(given[name], name, 1, limits.max_tokens)
        for name in ("max_tokens", "max_completion_tokens")
        if given.get(name) is not None
    }
    if len(set(read.values())) > 1:
        refuse("max_completion_tokens", "differs from `max_tokens`; they mean the same, send one of them.")
    return next(iter(read.values()), limits.default_max_tokens)


def parse_sampling(given: Mapping[str, object]) -> dict[str, Any]:
    """The canonical sampling of a prompt; what is absent or null takes its default, greedy decoding."""

    def number(name: str, default: float, low: float, high: float, *, above: bool = False) -> float:
        value = given.get(name)
        return default if value is None else read_number(value, name, low, high, above=above)

    seed, top_k, logprobs = given.get("seed"), given.get("top_k"), given.get("logprobs")
    return {
        "temperature": number("temperature", 0.0, 0.0, 2.0),
        "top_p": number("top_p", 1.0, 0.0, 1.0, above=True),
        "top_k": 0 if top_k is None else read_int(top_k, "top_k", 0, 1_000_000),
        "min_p": number("min_p", 0.0, 0.0, 1.0),
        "seed": None if seed is None else read_int(seed, "seed", 0, 2**63 - 1),
        "repetition_penalty": number("repetition_penalty", 1.0, 0.0, 10.0, above=True),
        "logprobs": False if logprobs is None else read_flag(logprobs, "logprobs"),
    }


def parse_stop(value: object) -> tuple[str, ...]:
    """Texts that end the answer: one, or a list of at most 16."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (read_text(value, "stop", max_chars=MAX_STOP_CHARS),)
    stops = read_list(value, "stop")
    if len(stops) > MAX_STOPS:
        refuse("stop", f"has {len(stops):,} entries; the limit is {MAX_STOPS}.")
    return tuple(read_text(stop, join("stop", i), max_chars=MAX_STOP_CHARS) for i, stop in enumerate(stops))


def parse_response_format(value: object) -> dict[str, Any] | None:
    """The form of the answer, checked for its shape only; None for plain text."""
    if value is None:
        return None
    at = "response_format"
    given = read_object(value, at)
    kind = read_word(
        require(given, "type", "Say text, json_object, json_schema, regex or choice.", at),
        f"{at}.type",
        _FORMATS,
    )
    refuse_unknown(given, {"type", *_FORMATS[kind]}, at)
    if len(json.dumps(given)) > MAX_FORMAT_CHARS:
        refuse(at, f"is longer than {MAX_FORMAT_CHARS:,} characters as JSON.")
    if kind == "text":
        return None
    if kind == "json_schema":
        _check_schema(require(given, kind, "Send {name, schema}.", at), f"{at}.{kind}")
    elif kind == "regex":
        read_text(require(given, kind, "Send the expression.", at), f"{at}.{kind}", max_chars=MAX_FORMAT_CHARS)
    elif kind == "choice":
        _check_choice(require(given, kind, "Send the list of answers.", at), f"{at}.{kind}")
    return given


def _check_schema(value: object, at: str) -> None:
    given = read_object(value, at)
    refuse_unknown(given, {"name", "schema", "strict", "description"}, at)
    read_text(require(given, "name", "Name the schema.", at), join(at, "name"), max_chars=64)
    read_object(require(given, "schema", "Send a JSON Schema.", at), join(at, "schema"))
    if given.get("strict") is not None:
        read_flag(given["strict"], join(at, "strict"))
    if given.get("description") is not None:
        read_text(given["description"], join(at, "description"), max_chars=MAX_FORMAT_CHARS, allow_empty=True)


def _check_choice(value: object, at: str) -> None:
    answers = read_list(value, at)
    if not 1 <= len(answers) <= MAX_CHOICES:
        refuse(at, f"must have from 1 to {MAX_CHOICES:,} entries.")
    for index, answer in enumerate(answers):
        read_text(answer, join(at, index), max_chars=MAX_FORMAT_CHARS)
