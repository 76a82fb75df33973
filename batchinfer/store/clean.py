"""What Postgres cannot keep: NUL, half surrogates, numbers that are none, and in jsonb the order of members.

That order says nothing in most JSON. In a schema it does: an answer that is held to it has its fields in that order, as
the model was taught it. So what stands in `properties` is noted beside it, and put in order again when it is read.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from psycopg.types.json import Jsonb

_UNKEEPABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: Beside `properties`: their names in order. To whoever reads the schema and does not know it, a note without meaning.
ORDER = "x-batchinfer-order"


def clean_text(text: str) -> str:
    """The text with U+FFFD where a character cannot be stored."""
    return _UNKEEPABLE.sub(_REPLACEMENT, text)


def clean_json(value: Any) -> Any:
    """The same JSON value with every text cleaned, and null for NaN and the infinities."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return _note_order({clean_text(str(key)): clean_json(member) for key, member in value.items()})
    if isinstance(value, list | tuple):
        return [clean_json(member) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_jsonb(value: Any) -> Jsonb | None:
    """A value for a jsonb column; None is SQL's NULL."""
    return None if value is None else Jsonb(clean_json(value))


def load_json(text: str | bytes) -> Any:
    """What a json or jsonb column holds, with properties in the order in which they were written."""
    return json.loads(text, object_hook=_put_in_order)


def _note_order(value: dict[str, Any]) -> dict[str, Any]:
    named = value.get("properties")
    # A property may be called `properties` itself; then there may be a note among the names.
    names = [name for name in named if name != ORDER] if isinstance(named, dict) else []
    if names != sorted(names, key=_jsonb_place):
        value[ORDER] = names
    return value


def _jsonb_place(name: str) -> tuple[int, bytes]:
    """By what jsonb sorts members: the length of the name in bytes, then the bytes."""
    raw = name.encode()
    return len(raw), raw


def _put_in_order(value: dict[str, Any]) -> dict[str, Any]:
    names = value.pop(ORDER, None)
    named = value.get("properties")
    if isinstance(names, list) and isinstance(named, dict) and set(map(str, names)) == named.keys():
        value["properties"] = {name: named[name] for name in names}
    return value
