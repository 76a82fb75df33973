"""W3C Trace Context: which trace a request, a job or a piece of work belongs to, read at the door and handed on.

https://www.w3.org/TR/trace-context-2/: a header that is malformed is ignored and never an error; a version that is not
known yet is read as far as version 00 goes.
"""

from __future__ import annotations

import re
import secrets
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAMPLED, _RANDOM = 0x01, 0x02
#: Lower case alone, as the standard says. What follows the flags is of versions to come.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = r"(?:[a-z0-9][a-z0-9_*/@-]{0,255})"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(rf"({_KEY})=({_VALUE})")
_MOST_MEMBERS, _MOST_CHARS, _LONG_MEMBER = 32, 512, 128


@dataclass(frozen=True)
class Trace:
    """A place in a trace. `span_id` is the span under which comes what is done next."""

    #: 32 and 16 lower-case hexadecimal digits, never all zero.
    trace_id: str
    span_id: str
    #: Whether whoever began the trace keeps it.
    sampled: bool = False
    #: Whether the trace id was drawn at random, at least its last 56 bits.
    random: bool = False
    #: What others of the trace told each other, unread: the header `tracestate`.
    state: str = ""

    @property
    def parent(self) -> str:
        """The header `traceparent`, 55 characters."""
        flags = _SAMPLED * self.sampled | _RANDOM * self.random
        return f"00-{self.trace_id}-{self.span_id}-{flags:02x}"

    @property
    def headers(self) -> dict[str, str]:
        """What a request that we send carries."""
        return {"traceparent": self.parent, **({"tracestate": self.state} if self.state else {})}

    def encode(self) -> str:
        """As it is kept with a job: `traceparent`, and behind a space `tracestate` where there is one."""
        return f"{self.parent} {self.state}" if self.state else self.parent

    def under(self, span_id: str) -> Trace:
        """The same trace, one span deeper."""
        return replace(self, span_id=span_id)


def parse_trace(parent: str | None, state: str | None = None) -> Trace | None:
    """The headers `traceparent` and `tracestate` of a request; None where the first is missing or malformed."""
    found = _PARENT.fullmatch((parent or "").strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # Version 00 ends with its flags; ff is none.
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    bits = int(flags, 16)
    return Trace(trace_id, span_id, bool(bits & _SAMPLED), bool(bits & _RANDOM), _clean_state(state or ""))


def decode_trace(kept: str | None) -> Trace | None:
    """What `Trace.encode` made; None where nothing is kept."""
    parent, _, state = (kept or "").partition(" ")
    return parse_trace(parent, state)


def read_trace_id(kept: str | None) -> str | None:
    """The trace id alone of what `Trace.encode` made."""
    return kept[3:35] if kept else None


def new_trace(ratio: float = 0.0) -> Trace:
    """A trace that begins here. `ratio` of them are kept, by the last 56 bits of the id, as OpenTelemetry chooses."""
    trace_id = secrets.token_hex(16)
    if not int(trace_id, 16):
        return new_trace(ratio)
    return Trace(trace_id, new_span_id(), is_within(trace_id, ratio), random=True)


def new_span_id() -> str:
    """A span id drawn at random."""
    return secrets.token_hex(8).replace("0" * 16, "1" * 16)


def derive_span_id(*parts: object) -> str:
    """The same span id for the same parts, so that whoever tells of a span names it alike without having kept it."""
    return sha256("/".join(map(str, parts)).encode()).hexdigest()[:16]


def is_within(digits: str, ratio: float) -> bool:
    """Whether the last 56 bits of an id lie within this part of all."""
    return int(digits[-14:], 16) < ratio * 2**56


def _clean_state(text: str) -> str:
    """A list of members as the standard has it, cut to what must be handed on; empty where it is malformed."""
    members = [part for part in (piece.strip(" \t") for piece in text.split(",")) if part]
    matches = [_MEMBER.fullmatch(part) for part in members]
    keys = {match.group(1) for match in matches if match}
    if len(members) > _MOST_MEMBERS or len(keys) < len(members):
        return ""
    if len(",".join(members)) > _MOST_CHARS:  # long members go first, then those at the end
        members = [part for part in members if len(part) <= _LONG_MEMBER]
    while len(",".join(members)) > _MOST_CHARS:
        members.pop()
    return ",".join(members)


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def begin_trace(trace: Trace | None) -> None:
    """From now on this thread works for `trace`, until it is told otherwise."""
    _current.set(trace)


@contextmanager
def following(trace: Trace | None) -> Iterator[None]:
    """Inside, what is made belongs to `trace`."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def current_trace() -> Trace | None:
    """What this thread works for."""
    return _current.get()


def encode_current() -> str | None:
    """The same as it is kept with what is made now."""
    trace = _current.get()
    return trace.encode() if trace else None
