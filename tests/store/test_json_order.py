"""Properties of a schema keep their order through jsonb, which sorts an object's members by length, then by bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from batchinfer.store.clean import ORDER, as_jsonb, clean_json, load_json

if TYPE_CHECKING:
    from batchinfer.services.context import Context

_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=4)
_NAMES = st.lists(_TEXTS | st.just("properties"), unique=True, max_size=5)


def keep_as_jsonb(value: Any) -> Any:
    """As jsonb keeps it."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
        return {name: keep_as_jsonb(value[name]) for name in names}
    return [keep_as_jsonb(one) for one in value] if isinstance(value, list) else value


def list_orders(value: Any) -> list[list[str]]:
    """The names in every `properties`, outermost first."""
    if isinstance(value, list):
        return [order for one in value for order in list_orders(one)]
    if not isinstance(value, dict):
        return []
    own = [list(value["properties"])] if isinstance(value.get("properties"), dict) else []
    return own + [order for name in sorted(value) for order in list_orders(value[name])]


@given(_NAMES, _NAMES)
def test_properties_come_back_in_their_order(outer: list[str], inner: list[str]) -> None:
    deep = {"type": "object", "properties": {name: {"type": "string"} for name in inner}}
    sent = {"properties": dict.fromkeys(outer, deep), "$defs": {"one": deep}}
    found = load_json(json.dumps(keep_as_jsonb(clean_json(sent))))
    assert found == sent
    assert list_orders(found) == list_orders(sent)
    assert ORDER not in json.dumps(found)


def test_what_is_no_schema_is_as_it_was() -> None:
    values: list[Any] = [
        {"properties": ["b", "a"]}, {"properties": 1}, {"bb": 1, "a": {"cc": 2, "b": 3}}, [], "text", None,
    ]  # fmt: skip
    for value in values:
        assert clean_json(value) == value == load_json(json.dumps(value))
    assert load_json(json.dumps({ORDER: ["a"], "properties": {"b": 1}})) == {"properties": {"b": 1}}


def test_a_schema_goes_through_postgres(context: Context) -> None:
    schema: dict[str, Any] = {"properties": {"type": {}, "order": {"properties": {"zz": {}, "a": {}}}, "date": {}}}
    with context.db.transaction() as tx:
        kept, raw = tx.execute(
            text("SELECT CAST(:value AS jsonb), CAST(CAST(:value AS jsonb) -> 'properties' AS text)"),
            {"value": as_jsonb({"response_format": schema} | schema)},
        ).one()
    assert json.loads(raw).keys() == schema["properties"].keys()
    assert list(json.loads(raw)) == ["date", "type", "order"], "the test sees what it is for"
    for found in (kept, kept["response_format"]):
        assert list(found["properties"]) == ["type", "order", "date"]
        assert list(found["properties"]["order"]["properties"]) == ["zz", "a"]
