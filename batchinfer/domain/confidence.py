"""How sure a model was of each field of its JSON answer, from the probabilities of the tokens that it is made of."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPACE = re.compile(r"\s*")
#: The parts of valid JSON: marks, strings, and whatever else is a value.
_PART = re.compile(r'[{}\[\],:]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s{}\[\],:"]+', re.DOTALL)
#: In the place of a token that is a part of a character only.
_BROKEN = "\ufffd"
#: Characters that a broken token may stand for.
_MOST_BEHIND = 8


@dataclass(frozen=True)
class Confidence:
    """Of one field: the geometric mean of its tokens' probabilities, and the least of them; 0 to 1."""

    mean: float
    min: float


def find_confidence(text: str, logprobs: Sequence[dict[str, Any]] | None) -> dict[str, Confidence] | None:
    """The confidence of each leaf of a JSON answer, by its dotted path: `items.0.price`, `` where all of it is one.

    `logprobs` are the answer's tokens in order, each {"token", "logprob"}. None where there are none, where the text is
    no JSON, or where the tokens cannot be found in it.
    """
    if not logprobs or not _is_json(text):
        return None
    ends = _place(text, [entry["token"] for entry in logprobs])
    if ends is None:
        return None
    return {path: _measure(ends, logprobs, start, end) for path, start, end in _list_leaves(text)}


def show_confidence(text: str, logprobs: Sequence[dict[str, Any]] | None) -> dict[str, dict[str, Any]] | None:
    """The same as JSON: {path: {"mean", "min"}}."""
    fields = find_confidence(text, logprobs)
    return None if fields is None else {path: vars(field) for path, field in fields.items()}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _place(text: str, tokens: Sequence[str]) -> list[int] | None:
    """Where in the text each token ends, rising; None where they do not follow one another in it.

    Some tokenizers do not show the blank that a token begins with. A token of a part of a character ends where the one
    before it does, until a whole one is found behind it. What was made after the text ends with it.
    """
    ends, at, broken = list[int](), 0, 0
    for token in tokens:
        if _BROKEN in token and not text.startswith(token, at):
            broken += 1
        elif at < len(text) and token:
            begin = _find(text, token, at, broken)
            if begin is None:
                return None
            at, broken = min(begin + len(token), len(text)), 0
        ends.append(at)
    return ends if broken or not text[at:].strip() else None


def _find(text: str, token: str, at: int, broken: int) -> int | None:
    """Where the next token begins: at once, behind a blank, or behind broken ones. It may reach beyond the text."""
    for begin in (at, _SPACE.match(text, at).end()):  # type: ignore[union-attr]  # it matches nothing, too
        if text.startswith(token, begin) or token.startswith(text[begin:]):
            return begin
    if broken:
        found = text.find(token, at, at + broken * _MOST_BEHIND + len(token))
        return found if found >= 0 else None
    return None if token.strip() else at - len(token)


def _list_leaves(text: str) -> Iterator[tuple[str, int, int]]:
    """The leaves of valid JSON: path, and where the value lies; a string without its quotes, unless it is empty."""
    above: list[list[Any]] = []  # of each object or list around: its steps, and whether a key is next
    for part in _PART.finditer(text):
        mark = part[0]
        if mark in ("{", "["):
            above.append([0 if mark == "[" else None, mark == "{"])
        elif mark in ("}", "]"):
            above.pop()
        elif mark == ",":
            step = above[-1]
            above[-1] = [step[0] + 1, False] if isinstance(step[0], int) else [None, True]
        elif mark == ":":
            above[-1][1] = False
        elif above and above[-1][1]:
            above[-1][0] = json.loads(mark)
        else:
            quotes = int(mark[0] == '"' and len(mark) > 2)
            yield ".".join(str(step) for step, _ in above), part.start() + quotes, part.end() - quotes


def _measure(ends: Sequence[int], logprobs: Sequence[dict[str, Any]], start: int, end: int) -> Confidence:
    """Of the tokens that reach into `start` to before `end`."""
    first, last = bisect_left(ends, start + 1), bisect_left(ends, end)
    logs = [min(float(entry["logprob"]), 0.0) for entry in logprobs[first : last + 1]]
    return Confidence(round(math.exp(sum(logs) / len(logs)), 6), round(math.exp(min(logs)), 6))
