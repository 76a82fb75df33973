"""A model's answer that is JSON, as a tree to fold; anything else stays text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["object", "list", "string", "number", "bool", "null", "more"]

#: Longer answers are shown as text: a tree of them would be no easier to read.
MOST_CHARS = 200_000
MOST_NODES = 2_000
MOST_DEPTH = 16


@dataclass
class Node:
    """A value of the answer. `text` for scalars; `children` (name, value) for objects and lists; `path` is dotted."""

    kind: Kind
    text: str = ""
    path: str = ""
    children: list[tuple[str, Node]] = field(default_factory=list)


def read_tree(text: str) -> Node | None:
    """The tree of an answer that is a JSON object or list; None for everything else."""
    stripped = text.strip()
    if len(stripped) > MOST_CHARS or not stripped.startswith(("{", "[")):
        return None
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    return _Grower().grow(value, 0)


class _Grower:
    """Makes nodes until the budget is used up; what is left out is one node that says so."""

    def __init__(self) -> None:
        self._left = MOST_NODES

    def grow(self, value: Any, depth: int, path: str = "") -> Node:
        self._left -= 1
        if isinstance(value, dict):
            return self._grow_children("object", [(str(name), item) for name, item in value.items()], depth, path)
        if isinstance(value, list):
            return self._grow_children("list", [(str(place), item) for place, item in enumerate(value)], depth, path)
        leaf = _leaf(value)
        leaf.path = path
        return leaf

    def _grow_children(self, kind: Kind, items: list[tuple[str, Any]], depth: int, path: str) -> Node:
        node = Node(kind, _count(len(items), "field" if kind == "object" else "item"), path)
        if depth >= MOST_DEPTH:
            return Node("more", node.text)
        for place, (name, item) in enumerate(items):
            if self._left <= 0:
                node.children.append(("", Node("more", f"{len(items) - place} more")))
                break
            node.children.append((name, self.grow(item, depth + 1, f"{path}.{name}" if path else name)))
        return node


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _leaf(value: Any) -> Node:
    if value is None:
        return Node("null", "null")
    if isinstance(value, bool):
        return Node("bool", "true" if value else "false")
    if isinstance(value, int | float):
        return Node("number", json.dumps(value))
    return Node("string", str(value))
