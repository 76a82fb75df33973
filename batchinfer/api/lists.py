"""Lists in OpenAI's shape: object, data, first_id, last_id, has_more; the next page is `after=<last_id>`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from batchinfer.domain.fields import decode_json
from batchinfer.domain.ids import parse_id
from batchinfer.domain.prompts import parse_metadata
from batchinfer.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from pydantic import BaseModel

    from batchinfer.services.context import Page

Thing = TypeVar("Thing")


def read_cursor(prefix: str, text: str | None, name: str = "after") -> UUID | None:
    """An id in a query. Raises BadRequest, not NotFound: the list is there, the parameter is wrong."""
    if text is None:
        return None
    try:
        return parse_id(prefix, text)
    except NotFound:
        raise BadRequest(
            f"`{name}` is no id of this list: such an id begins with {prefix}. Send the `last_id` of a page.",
            code="invalid_cursor" if name == "after" else "invalid_value",
            param=name,
        ) from None


def read_time(seconds: float | None) -> datetime | None:
    """A time in a query, from seconds since 1970."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def read_pairs(text: str | None) -> dict[str, str] | None:
    """Pairs of metadata in a query. Raises BadRequest."""
    if text is None:
        return None
    try:
        return parse_metadata(decode_json(text.encode()))
    except BadRequest as error:
        if error.param is not None:
            raise
        raise BadRequest(
            '`metadata` must be a JSON object of texts, {"customer": "a"} for example.',
            code="invalid_json",
            param="metadata",
        ) from None


def show_page(page: Page[Thing], show: Callable[[Thing], BaseModel]) -> dict[str, Any]:
    """The members that every list has."""
    data = [show(thing) for thing in page.data]
    ids: list[str] = [thing.id for thing in data]  # type: ignore[attr-defined]
    return {
        "data": data,
        "has_more": page.has_more,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }
