"""When an answer may serve again, and under which key it is kept.

Everything that decides an answer is in the key but the model's revision, which only who answers knows: an answer is
kept under a tenant, this key and that revision.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import read_word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Another one where the same key would have to mean another answer.
_VERSION = 1


class Reuse(StrEnum):
    """What a request wants of kept answers."""

    #: Neither looks for one nor keeps its own.
    OFF = "off"
    #: Takes one that is kept, else keeps its own; both only where the same request always has the same answer.
    REUSE = "reuse"
    #: Looks for none and keeps its own, in the place of an older one.
    REFRESH = "refresh"
    #: As reuse, also where each answer is drawn anew: a temperature over 0 without a seed.
    REUSE_ANY = "reuse_any"


def parse_cache(value: object, at: str = "cache") -> Reuse | None:
    """A user's word for it; None where none was said. Raises BadRequest."""
    return None if value is None else Reuse(read_word(value, at, list(Reuse)))


def make_key(model: str, prompt: Mapping[str, Any]) -> str | None:
    """The key of a stored prompt, as 64 hexadecimal digits; None while a picture of it is not normalised.

    The same for the same model, messages, pixels, sampling, limits and form of the answer, whoever asks and whatever
    the files were called.
    """
    pictures = _list_pictures(prompt["images"])
    if pictures is None:
        return None
    decides = {name: prompt[name] for name in ("messages", "sampling", "max_tokens", "stop", "response_format")}
    whole = {**decides, "version": _VERSION, "model": model, "pictures": pictures}
    if "quality" in prompt:
        # What was checked, and how often it was tried otherwise, decides too; how far it has come does not.
        whole["quality"] = {name: prompt["quality"][name] for name in ("checks", "ladder", "fallback", "blank")}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _list_pictures(images: Sequence[Mapping[str, Any]]) -> list[list[Any]] | None:
    """Of each picture what the model sees, and in which file's place."""
    if not all(image.get("normal") for image in images):
        return None
    return [[image["normal"]["sha256"], image.get("upload")] for image in images]


def looks_up(prompt: Mapping[str, Any]) -> bool:
    """Whether a stored prompt takes an answer that is kept."""
    mode = prompt.get("cache")
    return mode == Reuse.REUSE_ANY or (mode == Reuse.REUSE and _is_settled(prompt))


def keeps(prompt: Mapping[str, Any]) -> bool:
    """Whether the answer to a stored prompt is kept."""
    mode = prompt.get("cache")
    return mode == Reuse.REUSE_ANY or (mode in (Reuse.REUSE, Reuse.REFRESH) and _is_settled(prompt))


def _is_settled(prompt: Mapping[str, Any]) -> bool:
    """Whether the same request always has the same answer."""
    sampling = prompt["sampling"]
    return sampling["temperature"] == 0 or sampling["seed"] is not None
