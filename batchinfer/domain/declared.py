"""Declarations written as YAML: what JSON could hold, each field once, and what is wrong told by line and column."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import yaml

_PLAIN = (str, int, float, bool, type(None))
#: A text, and `<<`, which takes over another mapping.
_TEXT_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
_MOST_DEPTH = 64


class Unreadable(ValueError):
    """What is wrong with a text that is to be YAML. `line` and `column` from 1, None where they are not known."""

    def __init__(self, sentence: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(sentence)
        self.sentence, self.line, self.column = sentence, line, column

    @property
    def where(self) -> str:
        """`line 3, column 5`, as far as it is known; else nothing."""
        parts = (("line", self.line), ("column", self.column))
        return ", ".join(f"{name} {number}" for name, number in parts if number is not None)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, for which a date is the text that it looks like: what is read becomes JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_documents(raw: bytes | str) -> list[tuple[yaml.Node, Any]]:
    """All documents of a text, parted by `---`: each as its nodes, which know their lines, and as JSON's values.

    Raises Unreadable.
    """
    found, loader = [], None
    try:
        loader = _Loader(raw)
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                _check_keys(node)
                value = loader.construct_document(node)
                _check_values(node, value)
                found.append((node, value))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _make_error(mark, f"it is no YAML: {error.problem or 'it breaks off'}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise Unreadable("it is no YAML, or not UTF-8") from None
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
    return found


def read_text(text: str) -> tuple[yaml.Node | None, Any]:
    """One document that somebody unknown wrote: no anchors, which make much out of little. None where it is empty.

    Raises Unreadable.
    """
    with suppress(yaml.YAMLError):  # told below, with its place
        _check_events(text)
    documents = read_documents(text)
    if len(documents) > 1:
        raise _make_error(documents[1][0].start_mark, "a second document begins here. Write one")
    return documents[0] if documents else (None, None)


def _check_events(text: str) -> None:
    """Stop at an alias, and at a depth from which on reading takes long."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _make_error(event.start_mark, "aliases are not read here. Write it out")
        if isinstance(event, yaml.CollectionStartEvent | yaml.CollectionEndEvent):
            depth += 1 if isinstance(event, yaml.CollectionStartEvent) else -1
        if depth > _MOST_DEPTH:
            raise _make_error(event.start_mark, "it is nested too deeply")


def _check_keys(node: yaml.Node) -> None:
    """Refuse a field that stands twice, of which YAML would take the last, and keys that are no texts."""
    rest, seen = [node], set()
    while rest:
        one = rest.pop()
        if id(one) in seen:  # an alias
            continue
        seen.add(id(one))
        if isinstance(one, yaml.SequenceNode):
            rest += one.value
        if isinstance(one, yaml.MappingNode):
            names = set()
            for key, value in one.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag not in _TEXT_TAGS:
                    raise _make_error(key.start_mark, "a field's name must be a text. Put it in quotes")
                if key.value in names:
                    raise _make_error(key.start_mark, f"`{key.value}` stands here a second time")
                names.add(key.value)
                rest.append(value)


def _check_values(node: yaml.Node, value: Any, at: str = "", depth: int = 0) -> None:
    if isinstance(value, dict | list) and depth < _MOST_DEPTH:
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for name, member in members:
            _check_values(node, member, f"{at}.{name}" if at else str(name), depth + 1)
    elif not isinstance(value, _PLAIN) or (isinstance(value, float) and not math.isfinite(value)):
        raise Unreadable(f"`{at}` is nothing that JSON could hold", find_line(node, at))


def _make_error(mark: Any, sentence: str) -> Unreadable:
    return Unreadable(sentence) if mark is None else Unreadable(sentence, mark.line + 1, mark.column + 1)


def find_line(node: yaml.Node, param: str) -> int:
    """The line, from 1, of the field at a dotted path, or of the innermost part of the path that is there."""
    line = int(node.start_mark.line)
    for part in param.split("."):
        if isinstance(node, yaml.MappingNode):
            named = next(((key, value) for key, value in node.value if key.value == part), None)
            if named is None:
                break
            line, node = int(named[0].start_mark.line), named[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = int(node.start_mark.line)
        else:
            break
    return line + 1


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as they are written."""


def _show_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _show_text)


def write_text(value: Any) -> str:
    """A value of JSON as YAML, in the order of its fields; nothing for None."""
    if value is None:
        return ""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
