"""The OpenAPI document as a page, at /docs: for everybody, from our own stylesheet, without a line from elsewhere.

The document comes from whoever mounts the page; here it becomes rows that a template can lay out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, make_response, render_template
from markupsafe import Markup, escape

from batchinfer.admin.guard import set_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

#: How deep members of members are listed; below it stands `object`.
_DEEPEST = 3
_LIMITS = {
    "minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "minLength": "characters from",
    "maxLength": "characters up to", "minItems": "members from", "maxItems": "members up to", "default": "unless set",
}  # fmt: skip


@dataclass(frozen=True)
class Word:
    """A piece of a type: text, and where it is a schema of its own the name of that."""

    text: str
    schema: str | None = None


@dataclass(frozen=True)
class Member:
    """A row: a parameter, or a member of a body. `place` is path, query or header, or empty."""

    name: str
    kind: list[Word]
    needed: bool
    text: str
    limits: str
    place: str = ""


@dataclass(frozen=True)
class Body:
    """What goes in or comes out: the media type, a schema with a name or its members, and examples as JSON."""

    media: str
    kind: list[Word]
    members: list[Member]
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What a status means and what comes with it."""

    status: str
    text: str
    bodies: list[Body]

    @property
    def good(self) -> bool:
        """Whether it is no error."""
        return self.status < "400"


@dataclass(frozen=True)
class Operation:
    """A method of a path."""

    id: str
    method: str
    path: str
    summary: str
    text: str
    keyed: bool
    parameters: list[Member]
    bodies: list[Body]
    answers: list[Answer]


def register_reference(app: Flask, document: Callable[[], dict[str, Any]]) -> None:
    """Serve the page. `document` makes the OpenAPI document; it is asked once."""
    pages = Blueprint("reference", __name__, template_folder="templates")
    made: list[str] = []

    @pages.get("/docs")
    def show_reference() -> Response:
        if not made:
            made.append(render(document()))
        return set_headers(make_response(made[0]))

    pages.add_app_template_filter(mark_code, "code")
    app.register_blueprint(pages)


def mark_code(text: str) -> Markup:
    """Escaped text with what stands between backticks as code."""
    parts = text.split("`")
    return Markup().join(  # the odd ones stood between
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


def render(document: dict[str, Any]) -> str:
    """The page as HTML; within an application."""
    schemas = document["components"]["schemas"]
    return render_template(
        "reference.html",
        info=document["info"],
        groups=read_groups(document),
        schemas=[
            (name, schema.get("description", ""), _tell_schema(schema)) for name, schema in sorted(schemas.items())
        ],
    )


def read_groups(document: dict[str, Any]) -> list[tuple[str, list[Operation]]]:
    """Operations by tag, in the order of the document."""
    groups: dict[str, list[Operation]] = {tag["name"]: [] for tag in document.get("tags", [])}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(_read_operation(method, path, operation))
    return [(name, found) for name, found in groups.items() if found]


def _read_operation(method: str, path: str, operation: dict[str, Any]) -> Operation:
    return Operation(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation.get("summary", ""),
        text=operation.get("description", ""),
        keyed=bool(operation.get("security")),
        parameters=[_read_parameter(one) for one in operation.get("parameters", [])],
        bodies=_read_bodies(operation.get("requestBody", {})),
        answers=[
            Answer(status, answer.get("description", ""), _read_bodies(answer))
            for status, answer in sorted(operation["responses"].items())
        ],
    )


def _read_parameter(one: dict[str, Any]) -> Member:
    schema, text = one.get("schema", {}), one.get("description", "")
    return Member(one["name"], tell_type(schema), bool(one.get("required")), text, _tell_limits(schema), one["in"])


def _read_bodies(owner: dict[str, Any]) -> list[Body]:
    bodies = []
    for media, content in owner.get("content", {}).items():
        schema = content.get("schema", {})
        examples = {name: one["value"] for name, one in content.get("examples", {}).items()}
        if "example" in content:
            examples["example"] = content["example"]
        shown = [
            (name, value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))
            for name, value in examples.items()
        ]
        bodies.append(Body(media, tell_type(schema), [] if "$ref" in schema else list(_walk(schema)), shown))
    return bodies


def _tell_schema(schema: dict[str, Any]) -> tuple[list[Word], list[Member]]:
    return tell_type(schema), list(_walk(schema))


def _walk(schema: dict[str, Any], before: str = "", depth: int = 0) -> Iterator[Member]:
    """The members of an object, and of the objects in it under dotted names."""
    needed = schema.get("required", ())
    for name, member in schema.get("properties", {}).items():
        full = f"{before}{name}"
        text = member.get("description", "")
        yield Member(full, tell_type(member), name in needed, text, _tell_limits(member))
        if depth < _DEEPEST:
            yield from _walk(member, f"{full}.", depth + 1)


def tell_type(schema: dict[str, Any]) -> list[Word]:
    """A schema in words: `integer or null`, `list of JobBody`, `"asc" | "desc"`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return [Word(name, name)]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return _join([tell_type(one) for one in schema[union]], " or ")
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return [Word(" | ".join(json.dumps(value, ensure_ascii=False) for value in values))]
    kinds = schema.get("type", "anything")
    return _join([_tell_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)], " or ")


def _tell_kind(kind: str, schema: dict[str, Any]) -> list[Word]:
    if kind == "array":
        return [Word("list of "), *tell_type(schema.get("items", {}))]
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return [Word("object of "), *tell_type(schema["additionalProperties"])]
    return [Word("text" if kind == "string" else kind)]


def _join(parts: list[list[Word]], between: str) -> list[Word]:
    joined: list[Word] = []
    for part in parts:
        joined += [Word(between), *part] if joined else part
    return joined


def _tell_limits(schema: dict[str, Any]) -> str:
    """Least, most and default, also those of the part of a union that is not null."""
    parts = [schema, *schema.get("anyOf", [])]
    told = [
        f"{words} {_tell_value(value)}"
        for part in parts
        for name, words in _LIMITS.items()
        if (value := part.get(name)) is not None and "const" not in part
    ]
    return ", ".join(told)


def _tell_value(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.15g}"
    return json.dumps(value)
