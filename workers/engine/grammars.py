"""What a `response_format` asks for, as a grammar's source: checked and bounded before anything is compiled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from workers.engine.protocol import Refused

#: Characters of a schema; of an expression; choices, and their characters together.
MAX_SCHEMA_CHARS = 200_000
MAX_REGEX_CHARS = 20_000
MAX_CHOICES = 1_000
MAX_CHOICE_CHARS = 100_000
#: What an expression may come to when its repetitions are written out, in characters: nested ones multiply.
MAX_REGEX_STATES = 50_000
_KINDS = "text, json_object, json_schema, regex or choice"
_REPEATED = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def find_kind(response_format: Mapping[str, Any] | None) -> str | None:
    """The kind of a constraint; None for free text. Raises Refused for a kind that is not known."""
    kind = (response_format or {}).get("type", "text")
    if kind not in ("text", "json_object", "json_schema", "regex", "choice"):
        raise Refused("invalid_response_format", f"response_format.type is not known; use {_KINDS}.")
    return None if kind == "text" else str(kind)


def write_source(kind: str, response_format: Mapping[str, Any]) -> str:
    """The grammar of a constraint, in the library's own language. Raises Refused with the field and the remedy."""
    from llguidance import LLMatcher

    # Compact JSON: a small model would otherwise spend its tokens on blanks.
    compact: Any = {"whitespace_flexible": False}
    if kind == "json_object":
        return str(LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=compact))
    if kind == "regex":
        return str(LLMatcher.grammar_from_regex(read_regex(response_format)))
    if kind == "choice":
        listed = " | ".join(json.dumps(choice) for choice in read_choices(response_format))
        return str(LLMatcher.grammar_from_lark(f"start: {listed}"))
    try:
        return str(LLMatcher.grammar_from_json_schema(read_schema(response_format), overrides=compact))
    except (ValueError, TypeError):
        raise unusable(kind) from None


def unusable(kind: str) -> Refused:
    """The refusal of what no answer, or no answer at a bearable cost, can be held to."""
    remedy = {
        "json_schema": "Check that some value meets the schema, that it uses Draft 2020-12 keywords and that its $ref "
        "stay inside it, or make it smaller.",
        "regex": "Use an expression without look-around and back-references, with smaller repetitions.",
    }.get(kind, "Use other or fewer choices.")
    return Refused("invalid_response_format", f"response_format: this {kind} cannot be held to. {remedy}")


def measure_regex(expression: str) -> int:
    """About how many characters an expression has once repetitions are written out; unbounded ones count as few."""
    sizes, last, at = [0], 0, 0
    while at < len(expression):
        char = expression[at]
        if counted := _REPEATED.match(expression, at):
            times = int(counted[2] or counted[1])
            sizes[-1] += last * max(0, times - 1)
            last *= max(1, times)
            at = counted.end()
            continue
        if char == "(":
            sizes.append(0)
        elif char == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif char not in "*+?|)":
            at = _end_of_class(expression, at) if char == "[" else at + (char == "\\")
            last = 1
            sizes[-1] += 1
        at += 1
    return sum(sizes)


def _end_of_class(expression: str, at: int) -> int:
    """The place of the bracket that closes the class opened at `at`, or the last place."""
    place = at + 1 + (expression[at + 1 : at + 2] == "^")
    place += expression[place : place + 1] == "]"
    while place < len(expression) and expression[place] != "]":
        place += 2 if expression[place] == "\\" else 1
    return min(place, len(expression) - 1)


def read_regex(response_format: Mapping[str, Any]) -> str:
    """The expression that is asked for. Raises Refused."""
    expression = response_format.get("regex", response_format.get("pattern"))
    if not isinstance(expression, str) or not expression:
        raise Refused(
            "invalid_response_format", "response_format.regex must be an expression of one character or more."
        )
    _check_regex(expression)
    return expression


def _check_regex(expression: str) -> None:
    _check_size(expression, "regex", MAX_REGEX_CHARS)
    states = measure_regex(expression)
    if states > MAX_REGEX_STATES:
        raise Refused(
            "invalid_response_format",
            f"response_format: this regex comes to {states} characters when its repetitions are written out, the limit "
            f"is {MAX_REGEX_STATES}. Use smaller repetitions.",
        )


def read_choices(response_format: Mapping[str, Any]) -> list[str]:
    """The texts that may be the answer. Raises Refused."""
    choices = response_format.get("choice", response_format.get("choices"))
    texts = isinstance(choices, list | tuple) and all(isinstance(choice, str) and choice for choice in choices)
    if not texts or not choices or len(choices) > MAX_CHOICES:
        raise Refused(
            "invalid_response_format",
            f"response_format.choice must be a list of 1 to {MAX_CHOICES} texts of one character or more.",
        )
    _check_size("".join(choices), "choice", MAX_CHOICE_CHARS)
    return list(choices)


def read_schema(response_format: Mapping[str, Any]) -> str:
    """The schema that is asked for, as JSON. Raises Refused."""
    inner = response_format.get("json_schema", response_format.get("schema"))
    schema = inner.get("schema", inner) if isinstance(inner, Mapping) else inner
    if not isinstance(schema, Mapping):
        raise Refused("invalid_response_format", "response_format.json_schema.schema must be a JSON schema, an object.")
    try:
        text = json.dumps(schema)
        patterns = list(_find_patterns(schema))
    except (ValueError, TypeError, RecursionError):
        raise unusable("json_schema") from None
    _check_size(text, "json_schema", MAX_SCHEMA_CHARS)
    for pattern in patterns:
        _check_regex(pattern)
    return text


def _find_patterns(schema: Any) -> Iterator[str]:
    """Every regular expression in a schema."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        if isinstance(schema.get("patternProperties"), Mapping):
            yield from schema["patternProperties"]
        for value in schema.values():
            yield from _find_patterns(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _find_patterns(value)


def _check_size(text: str, kind: str, limit: int) -> None:
    if len(text) > limit:
        raise Refused(
            "invalid_response_format",
            f"response_format: this {kind} has {len(text)} characters, the limit is {limit}. Make it smaller.",
        )
