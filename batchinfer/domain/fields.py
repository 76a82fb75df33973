"""Reading one field of what a user sent. A reader returns the value or raises BadRequest, naming the field.

`at` is the dotted path of the field (`messages.0.content.1.image_url.url`), the `param` of the answer.
"""

from __future__ import annotations

import json
import math
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn, cast

from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Deepest nesting of a body: a schema in `response_format` needs a dozen levels, an attack thousands.
MAX_DEPTH = 64
#: Most members of all objects and lists of a body together: a request has hundreds, an attack millions.
MAX_VALUES = 100_000
_SHOWN_CHARS = 60


def refuse(at: str, sentence: str, code: str = "invalid_value") -> NoReturn:
    """Raise BadRequest about the field at `at`; the sentence starts with its name."""
    raise BadRequest(f"`{at}` {sentence}", code=code, param=at)


def show(text: object) -> str:
    """What a user sent, short and printable, for a message that goes back to them."""
    clean = "".join(char if char.isprintable() else "?" for char in str(text)[:_SHOWN_CHARS])
    return clean + ("…" if len(str(text)) > _SHOWN_CHARS else "")


def join(at: str, key: object) -> str:
    """The path of `key` inside the field at `at`."""
    return f"{at}.{show(key)}" if at else show(key)


def decode_json(raw: bytes) -> object:
    """JSON from a body: UTF-8, no NaN or Infinity, no depth that ends the process. Raises BadRequest."""
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise BadRequest(
            f"The body is nested deeper than {MAX_DEPTH} levels. Send a flatter one.", code="invalid_json"
        ) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(f"The body is not JSON: it breaks at {where}.", code="invalid_json") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8 at byte {error.start}.", code="invalid_json") from None
    except ValueError:  # the interpreter's own limit on the digits of a whole number
        raise BadRequest("The body holds a number with too many digits.", code="invalid_json") from None


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"The body holds {name}, which is not a JSON number. Send a finite one.", code="invalid_json")


def check_plain(value: object, at: str = "") -> None:
    """Refuse what Postgres cannot keep, anywhere in a tree (NUL, lone surrogates, infinite numbers), and vast trees."""
    rest, count = [(at, value, 0)], 0
    while rest:
        at, value, depth = rest.pop()
        if depth > MAX_DEPTH:
            refuse(at, f"is nested deeper than {MAX_DEPTH} levels. Send a flatter one.", "invalid_json")
        if isinstance(value, str):
            check_text(value, at)
        elif isinstance(value, float) and not math.isfinite(value):
            refuse(at or "body", "is not a finite number.")
        elif isinstance(value, dict | list):
            count += len(value)
            if count > MAX_VALUES:
                refuse(at or "body", f"brings the body over {MAX_VALUES:,} values. Send less in one request.")
            rest += reversed([(path, item, depth + 1) for path, item in _walk(value, at)])


def _walk(value: dict[str, Any] | list[Any], at: str) -> Iterator[tuple[str, object]]:
    """The members of an object or a list with their paths."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield join(at, index), item
        return
    for key, item in value.items():
        check_text(key, join(at, key))
        yield join(at, key), item


def check_text(text: str, at: str) -> None:
    """Refuse NUL and lone surrogates in a text. Raises BadRequest `invalid_characters`."""
    at = at or "body"
    if "\0" in text:
        refuse(at, "holds a NUL character. Remove it.", "invalid_characters")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            refuse(at, "holds a lone surrogate, which is no character. Send valid Unicode.", "invalid_characters")


def refuse_unknown(
    given: Iterable[str], known: Iterable[str], at: str = "", hints: Mapping[str, str] | None = None
) -> None:
    """Refuse an unknown field and name the nearest known one; `hints` has those that spelling would miss."""
    names = sorted(known)
    for name in given:
        if name not in names:
            hint = (hints or {}).get(name)
            near = [hint] if hint in names else get_close_matches(name[:_SHOWN_CHARS], names, n=1, cutoff=0.5)
            sentence = (
                f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(f'`{known}`' for known in names)}."
            )
            refuse(join(at, name), f"is not a field of this request. {sentence}", "unknown_parameter")


def require(given: Mapping[str, object], name: str, remedy: str, at: str = "") -> object:
    """The value of a field that must be there. Raises BadRequest `missing_required_parameter`."""
    value = given.get(name)
    if value is None:
        refuse(join(at, name), f"is missing. {remedy}", "missing_required_parameter")
    return value


def read_object(value: object, at: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        refuse(at, f"must be an object, not {_kind(value)}.", "invalid_type")
    return value


def read_list(value: object, at: str) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        refuse(at, f"must be a list, not {_kind(value)}.", "invalid_type")
    return value


def read_text(value: object, at: str, *, max_chars: int, allow_empty: bool = False) -> str:
    """A text of at most `max_chars` characters."""
    if not isinstance(value, str):
        refuse(at, f"must be a text, not {_kind(value)}.", "invalid_type")
    if not value and not allow_empty:
        refuse(at, "must not be empty.")
    if len(value) > max_chars:
        refuse(at, f"has {len(value):,} characters; the limit is {max_chars:,}.")
    return value


def read_word(value: object, at: str, words: Iterable[str]) -> str:
    """One of a few words."""
    allowed = list(words)
    if not isinstance(value, str) or value not in allowed:
        shown = f"`{show(value)}`" if isinstance(value, str) else _kind(value)
        refuse(at, f"must be one of {', '.join(allowed)}, not {shown}.")
    return value


def read_flag(value: object, at: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        refuse(at, f"must be true or false, not {_kind(value)}.", "invalid_type")
    return value


def read_int(value: object, at: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`; 512.0 is one, true is not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        refuse(at, f"must be a whole number from {low:,} to {high:,}, not {_kind(value)}.", "invalid_type")
    if not low <= value <= high:
        refuse(at, f"must be from {low:,} to {high:,}.")
    return value


def read_number(value: object, at: str, low: float, high: float, *, above: bool = False) -> float:
    """A finite number from `low` (or, with `above`, over `low`) to `high`."""
    between = f"{'over' if above else 'from'} {low:g} {'and at most' if above else 'to'} {high:g}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        refuse(at, f"must be a number {between}, not {_kind(value)}.", "invalid_type")
    # Compared before it is made a float: a whole number of 400 digits would not fit into one.
    if not low <= value <= high or (above and value == low):
        refuse(at, f"must be {between}.")
    return float(cast("float", value))


def _kind(value: object) -> str:
    """The JSON word for the type of a value."""
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "something else")
