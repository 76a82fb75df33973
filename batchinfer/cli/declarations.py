"""Declarations in YAML files: one or several in a file, and what is wrong with them told by the line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from batchinfer.domain.declared import Unreadable, find_line, read_documents
from batchinfer.errors import BatchinferError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import yaml


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
    try:
        found = [_check(path, node, value) for node, value in read_documents(path.read_bytes())]
    except Unreadable as error:
        raise _tell(path, error) from None
    if not found:
        raise click.ClickException(f"{path.name}: it is empty. Declare something in it.")
    return found


def _check(path: Path, node: yaml.Node, value: Any) -> Declaration:
    if not isinstance(value, dict):
        mark = node.start_mark
        raise _tell(path, Unreadable("it declares nothing. Begin with `name: ...`", mark.line + 1, mark.column + 1))
    return Declaration(path, node, value)


def _tell(path: Path, error: Unreadable) -> click.ClickException:
    where = f", {error.where}" if error.where else ""
    return click.ClickException(f"{path.name}{where}: {error.sentence}.")
