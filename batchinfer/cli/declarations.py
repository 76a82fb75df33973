"""Declarations in YAML files: one or several in a file, and what is wrong with them told by the line."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import yaml

from batchinfer.errors import BatchinferError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PLAIN = (str, int, float, bool, type(None))


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, for which a date is the text that it looks like: what is read becomes JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Declaration:
    """What a document of a YAML file declares, and where in the file it stands."""

    def __init__(self, path: Path, node: yaml.Node, value: dict[str, Any]) -> None:
        self._path, self._node, self.value = path, node, value

    @contextmanager
    def naming_lines(self) -> Iterator[None]:
        """Within it, an error about a field says in which line of the file that stands."""
        try:
            yield
        except BatchinferError as error:
            if error.param is not None:
                where = find_line(self._node, error.param)
                error.message = f"{self._path.name}, line {where}: {error.message}"
            raise


def read_declarations(path: Path) -> list[Declaration]:
    """All documents of a YAML file, parted by `---`. Raises click.ClickException with the line of what is wrong."""
    found, loader = [], None
    try:
        loader = _Loader(path.read_bytes())
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                _check_keys(path, node)
                found.append(_read(path, loader, node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _make_error(path, mark, f"it is no YAML: {error.problem or 'it breaks off'}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise click.ClickException(f"{path.name}: it is no YAML, or not UTF-8.") from None
    except RecursionError:
        raise click.ClickException(f"{path.name}: it is nested too deeply.") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not found:
        raise click.ClickException(f"{path.name}: it is empty. Declare something in it.")
    return found


def _read(path: Path, loader: _Loader, node: yaml.Node) -> Declaration:
    value = loader.construct_document(node)
    if not isinstance(value, dict):
        raise _make_error(path, node.start_mark, "it declares nothing. Begin with `name: ...`")
    _check_values(path, node, value)
    return Declaration(path, node, value)


def _check_keys(path: Path, node: yaml.Node) -> None:
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
                    raise _make_error(path, key.start_mark, "a field's name must be a text. Put it in quotes")
                if key.value in names:
                    raise _make_error(path, key.start_mark, f"`{key.value}` stands here a second time")
                names.add(key.value)
                rest.append(value)


#: A text, and `<<`, which takes over another mapping.
_TEXT_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def _check_values(path: Path, node: yaml.Node, value: Any, at: str = "", depth: int = 0) -> None:
    if isinstance(value, dict | list) and depth < _MOST_DEPTH:
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for name, member in members:
            _check_values(path, node, member, f"{at}.{name}" if at else str(name), depth + 1)
    elif not isinstance(value, _PLAIN) or (isinstance(value, float) and not math.isfinite(value)):
        where = find_line(node, at)
        raise click.ClickException(f"{path.name}, line {where}: `{at}` is nothing that JSON could hold.")


_MOST_DEPTH = 64


def _make_error(path: Path, mark: Any, sentence: str) -> click.ClickException:
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return click.ClickException(f"{path.name}{where}: {sentence}.")


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
