"""An answer held against a JSON schema that a user sent (Draft 2020-12).

Both come from outside, and the check must end: nothing is fetched, references are followed so often and no more, and
expressions are not run, as one of them can keep a process for hours: `pattern`, `patternProperties` and what hangs on
them hold where an answer is made to fit while it is decoded, and are passed over here.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

from batchinfer.domain.fields import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Rule = Callable[[Any, Any, Any, Any], Iterator[ValidationError]]

#: References that one check follows.
MAX_STEPS = 10_000
_MAX_SCHEMAS = 256
#: What a schema may refer to beside itself.
_NOTHING: Registry[Any] = Registry()
_MAX_WHERE_CHARS = 200
#: References that the check under way may still follow.
_left: ContextVar[list[int]] = ContextVar("left")


class _TooLongError(Exception):
    """The check follows more references than it may."""


@dataclass(frozen=True)
class WrongField:
    """A field of an answer that breaks a rule of its schema. `path` is dotted, `` for all of it; one that is missing is
    named itself."""

    path: str
    rule: str


def find_violation(schema: dict[str, Any], text: str) -> str | None:
    """Why a text is not JSON of that schema, as the end of a sentence; None where it is.

    A schema that is none itself, or that names another document, holds nobody to anything.
    """
    try:
        fault = best_match(_iterate_faults(schema, text))
    except ValueError:
        return "it is not JSON."
    except (SchemaError, Unresolvable):
        return None
    except (_TooLongError, RecursionError, ArithmeticError):
        return "it cannot be held against the schema, which goes too deep for it."
    if fault is None:
        return None
    where = ""
    for step in fault.absolute_path:
        where = join(where, step)
    at = f"`{where[:_MAX_WHERE_CHARS]}`" if where else "the whole of it"
    return f"{at} breaks the rule `{fault.validator}` of the schema."


def list_wrong_fields(schema: dict[str, Any], text: str, *, most: int = 20) -> list[WrongField]:
    """The first fields of a text that break the schema; none where `find_violation` finds none or it is no JSON."""
    found: list[WrongField] = []
    try:
        for fault in _iterate_faults(schema, text):
            found += _name_fields(fault)
            if len(found) >= most:
                break
    except (ValueError, SchemaError, Unresolvable, _TooLongError, RecursionError, ArithmeticError):
        return found
    return found[:most]


def _name_fields(fault: ValidationError) -> list[WrongField]:
    path, rule = [str(step) for step in fault.absolute_path], str(fault.validator)
    if rule == "required" and isinstance(fault.instance, dict) and isinstance(fault.validator_value, list):
        # One fault comes for each field that is missing, and names it in its message alone.
        missing = [name for name in fault.validator_value if name not in fault.instance]
        return [WrongField(".".join([*path, str(name)]), rule) for name in missing if repr(name) in fault.message[:400]]
    return [WrongField(".".join(path), rule)]


def _iterate_faults(schema: dict[str, Any], text: str) -> Iterator[ValidationError]:
    """Raises ValueError where the text is no JSON, and what a schema may bring about."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError from error
    _left.set([MAX_STEPS])
    return _compile(json.dumps(schema, sort_keys=True)).iter_errors(value)  # type: ignore[no-any-return]


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


@lru_cache(_MAX_SCHEMAS)
def _compile(schema: str) -> Any:
    """A validator of a schema, given as JSON. Raises SchemaError, RecursionError."""
    decoded = json.loads(schema)
    Draft202012Validator.check_schema(decoded)
    # What is left over is found by the expressions of other parts of the schema.
    more = {"unevaluatedProperties": _pass_over} if '"patternProperties"' in schema else {}
    kind = validators.extend(Draft202012Validator, _RULES | more)  # type: ignore[no-untyped-call]
    return kind(decoded, registry=_NOTHING)


def _pass_over(_validator: Any, _value: Any, _instance: Any, _schema: Any) -> Iterator[ValidationError]:
    return iter(())


def _limit(rule: Rule) -> Rule:
    """The same rule, counted."""

    def follow(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise _TooLongError
        yield from rule(validator, value, instance, schema)

    return follow


def _check_more(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """`additionalProperties`, where no expression says which those are."""
    if "patternProperties" not in schema:
        yield from _ALL["additionalProperties"](validator, value, instance, schema)


def _check_unique(validator: Any, value: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """`uniqueItems`, without holding each item against each."""
    if value and validator.is_type(instance, "array"):
        known = {json.dumps(item, sort_keys=True) for item in instance}
        if len(known) < len(instance):
            yield ValidationError("has an item twice")


_ALL: dict[str, Rule] = dict(Draft202012Validator.VALIDATORS)
_RULES: dict[str, Rule] = {
    "$ref": _limit(_ALL["$ref"]), "$dynamicRef": _limit(_ALL["$dynamicRef"]),
    "pattern": _pass_over, "patternProperties": _pass_over, "additionalProperties": _check_more,
    "uniqueItems": _check_unique,
}  # fmt: skip
