"""What every engine asks of a request before it takes it, whatever the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from workers.engine.protocol import Refused, Request, Sampling

_ROLES = {"system", "user", "assistant"}


def check_request(request: Request, *, context_tokens: int, max_images: int) -> None:
    """Raises Refused for a request that no model with this context could run."""
    _check_max_tokens(request.max_tokens, context_tokens)
    _check_sampling(request.sampling)
    if not request.messages:
        raise Refused("bad_messages", "messages is empty; send at least one message.")
    for place, message in enumerate(request.messages):
        _check_message(place, message, len(request.images))
    if any(not isinstance(text, str) or not text for text in request.stop):
        raise Refused("bad_stop", "stop must hold strings of at least one character.")
    if len(request.images) > max_images:
        raise Refused(
            "too_many_images",
            f"The request has {len(request.images)} pictures and at most {max_images} may be sent.",
        )
    unplaced = sorted(set(range(len(request.images))) - set(find_image_places(request)))
    if unplaced:
        raise Refused(
            "image_not_placed",
            f"Picture {unplaced[0]} has no place in the messages; add an image part with its index.",
        )


def find_image_places(request: Request) -> list[int]:
    """Indexes into `images`, in the order in which the messages show them."""
    parts = (part for message in request.messages for part in message["content"])
    return [part["index"] for part in parts if part["type"] == "image"]


def list_texts(request: Request) -> list[str]:
    """The users' texts, in order."""
    parts = (part for message in request.messages for part in message["content"])
    return [part["text"] for part in parts if part["type"] == "text"]


def _check_max_tokens(max_tokens: object, context_tokens: int) -> None:
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise Refused("bad_max_tokens", "max_tokens must be a whole number of at least 1.")
    if max_tokens > context_tokens:
        raise Refused(
            "bad_max_tokens",
            f"max_tokens is {max_tokens} and the model's context holds {context_tokens}; ask for fewer.",
        )


def _check_sampling(sampling: Sampling) -> None:
    limits = {
        "temperature": (0.0, 100.0),
        "top_p": (0.0, 1.0),
        "min_p": (0.0, 1.0),
        "top_k": (0, 2**31),
        "repetition_penalty": (0.01, 100.0),
    }
    for name, (low, high) in limits.items():
        value = getattr(sampling, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Refused("bad_sampling", f"{name} must be a number from {low} to {high}.")
        if not low <= value <= high or (name == "top_p" and value == 0):
            raise Refused("bad_sampling", f"{name} is {value} and must lie between {low} and {high}.")


def _check_message(place: int, message: Mapping[str, Any], images: int) -> None:
    where = f"messages[{place}]"
    if message.get("role") not in _ROLES:
        raise Refused("bad_messages", f"{where}.role must be one of {', '.join(sorted(_ROLES))}.")
    content = message.get("content")
    if not isinstance(content, list | tuple):
        raise Refused("bad_messages", f"{where}.content must be a list of parts.")
    for number, part in enumerate(content):
        _check_part(f"{where}.content[{number}]", part, images)


def _check_part(where: str, part: Mapping[str, Any], images: int) -> None:
    kind = part.get("type")
    if kind == "image":
        index = part.get("index")
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < images:
            raise Refused("bad_image_index", f"{where}.index must count into the {images} pictures, from 0.")
    elif kind == "text":
        _check_text(where, part.get("text"))
    else:
        raise Refused("bad_messages", f'{where}.type must be "text" or "image".')


def _check_text(where: str, text: object) -> None:
    if not isinstance(text, str):
        raise Refused("bad_messages", f"{where}.text must be a string.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused("bad_text", f"{where}.text holds half of a surrogate pair; send valid Unicode.") from None
