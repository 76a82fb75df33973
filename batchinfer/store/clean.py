"""What a model says may hold what Postgres cannot keep: NUL, half surrogates, numbers that are none."""

from __future__ import annotations

import math
import re
from typing import Any

from psycopg.types.json import Jsonb

_UNKEEPABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean_text(text: str) -> str:
    """The text with U+FFFD where a character cannot be stored."""
    return _UNKEEPABLE.sub(_REPLACEMENT, text)


def clean_json(value: Any) -> Any:
    """The same JSON value with every text cleaned, and null for NaN and the infinities."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): clean_json(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(member) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_jsonb(value: Any) -> Jsonb | None:
    """A value for a jsonb column; None is SQL's NULL."""
    return None if value is None else Jsonb(clean_json(value))
