"""The form of a launch or a change: texts of a form into the body that the domain reads, and back into its fields."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchinfer.domain.deployments import DEFAULTS
from batchinfer.domain.fields import decode_json, read_object, refuse
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.domain.launches import LaunchSpec
    from batchinfer.store.deployments import Deployment

#: Of a launch, in the order of the form. `context_tokens` is one of the engine's options, with a field of its own.
FIELDS = (
    "model", "revision", "device", "replicas", "engine", "slots", "context_tokens", "dtype", "quantisation",
    "memory_mib", "class", "idle_s", "priority", "pinned", "labels", "options",
)  # fmt: skip
_NUMBERS = frozenset({"replicas", "slots", "memory_mib", "priority", "context_tokens"})
_CONTEXT = "context_tokens"


def read_values(given: Mapping[str, str]) -> dict[str, str]:
    """What the form's fields hold, spaces at their ends aside; those that are not sent are empty."""
    return {name: given.get(name, "").strip() for name in FIELDS}


def make_body(values: Mapping[str, str]) -> dict[str, Any]:
    """The body that says the same, for `domain.deployments.parse_deployment`. Raises BadRequest about one field."""
    body: dict[str, Any] = {name: _read(name, text) for name, text in values.items() if text and name != _CONTEXT}
    if values.get(_CONTEXT):
        tokens = _read(_CONTEXT, values[_CONTEXT])
        if not isinstance(tokens, int) or tokens < 1:
            refuse(_CONTEXT, "must be a whole number of tokens.")
        body["options"] = {**body.get("options", {}), _CONTEXT: tokens}
    return body


def _read(name: str, text: str) -> Any:
    if name == "pinned":
        return True
    if name in _NUMBERS or name == "idle_s":
        return read_number(text)
    if name == "labels":
        return _read_labels(text)
    if name == "options":
        try:
            return read_object(decode_json(text.encode()), name)
        except BadRequest as error:
            raise BadRequest(f"`options`: {error.message}", code=error.code, param=name) from None
    return text


def read_number(text: str) -> int | str:
    """A whole number; what is none stays a text, so that the domain's reader says what the field takes."""
    digits = text.replace(",", "").replace(" ", "")
    return int(digits) if digits.removeprefix("-").isdecimal() and len(digits) < 20 else text


def _read_labels(text: str) -> dict[str, str]:
    labels = {}
    for entry in text.replace(",", "\n").splitlines():
        name, sign, value = entry.strip().partition("=")
        if not name and not sign:
            continue
        if not sign or not name:
            refuse("labels", "must be NAME=TEXT, one a line.")
        labels[name.strip()] = value.strip()
    return labels


def show_values(deployment: Deployment, columns: Mapping[str, Any]) -> dict[str, str]:
    """The fields of the form as a deployment has them; what it has by default is empty where that reads better."""
    options = dict(columns["options"])
    context = options.pop(_CONTEXT, None)
    shown = {name: "" if value is None else str(value) for name, value in columns.items()}
    return {
        **shown,
        "model": deployment.model,
        "device": deployment.device,
        "pinned": "on" if columns["pinned"] else "",
        "labels": "\n".join(f"{name}={text}" for name, text in columns["labels"].items()),
        "options": json.dumps(options, ensure_ascii=False) if options else "",
        _CONTEXT: "" if context is None else str(context),
    }


def whole_body(values: Mapping[str, str]) -> dict[str, Any]:
    """The body of a change: every field but the revision, where an empty one means the default again."""
    return {**{name: None for name in DEFAULTS if name != "revision"}, **make_body(values)}


def show_change(values: Mapping[str, str], before: LaunchSpec, after: LaunchSpec) -> dict[str, str]:
    """The form's fields for another launch than the one that was asked for: an advice, ready to be planned."""
    names = ("slots", "context_tokens", "dtype", "quantisation", "memory_mib")
    changed = {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}
    return {**values, **{name: "" if value is None else str(value) for name, value in changed.items()}}
