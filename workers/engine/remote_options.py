"""Options of engines that others build, as a deployment or a command line gives them: checked by name and kind."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from workers.engine.protocol import ModelError

_Options = TypeVar("_Options")


@dataclass(frozen=True)
class RemoteOptions:
    """How a server is spoken to. Times are seconds.

    `concurrency` is the most requests at the server at once (all slots where it is None); with `adaptive` there are
    fewer while that is too many. `stream` says whether answers come piece by piece: auto streams what somebody listens
    to or must be watched for loops, and one request beside, as a sign of life. `priority` tells the server how urgent
    a request is, in vLLM's words or our own. `server_loops` leaves answers that repeat themselves to vLLM. `extra` goes
    into every body. `wait_s` is how long the server may still be starting, `gone_s` how long it may be unreachable
    while work waits before the engine is over.
    """

    url: str = ""
    model: str = ""
    dialect: str = "openai"
    key_env: str | None = None
    concurrency: int | None = None
    adaptive: bool = False
    stream: Literal["auto", "always", "never"] = "auto"
    priority: bool = False
    server_loops: bool = False
    check_model: bool = True
    context_tokens: int | None = None
    max_images: int = 16
    revision: str = "upstream"
    extra: dict[str, Any] = field(default_factory=dict)
    connect_s: float = 10.0
    silence_s: float = 90.0
    answer_s: float = 1800.0
    wait_s: float = 10.0
    gone_s: float = 60.0


def read_options(kind: type[_Options], given: Mapping[str, Any]) -> _Options:
    """Options of a kind. Raises ModelError `engine_options` for a name or a value that is none."""
    hints = get_type_hints(kind)
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in known:
            raise ModelError("engine_options", f"The engine has no option {name}; it has {', '.join(sorted(known))}.")
        if not _fits(value, hints[name]):
            raise ModelError("engine_options", f"The engine's option {name} is of another kind than it must be.")
        if hints[name] in (int, float, int | None) and value is not None and value < 0:
            raise ModelError("engine_options", f"The engine's option {name} must not be negative.")
    return kind(**given)


def _fits(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, each) for each in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if origin is list or origin is tuple:
        inner = get_args(hint)[0]
        return isinstance(value, list | tuple) and all(_fits(each, inner) for each in value)
    if origin is dict:
        inner = get_args(hint)[1]
        return isinstance(value, dict) and (inner is Any or all(_fits(each, inner) for each in value.values()))
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)
