"""docs/errors.md lists every code that the code can answer with, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from batchinfer import errors

ROOT = Path(__file__).resolve().parents[2]
#: Calls whose first argument is a code, and those whose third is one.
FIRST = {"Refused", "ModelError", "EngineFailure"}
THIRD = {"refuse"}


def texts(node: ast.AST | None) -> Iterator[str]:
    """The constant texts that an expression can be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def codes_of(tree: ast.AST) -> Iterator[str]:
    """Codes written in a module: `code=...`, `{"code": ...}`, and arguments of the calls above."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            for keyword in node.keywords:
                if keyword.arg == "code":
                    yield from texts(keyword.value)
            if name in FIRST:
                yield from texts(node.args[0] if node.args else None)
            if name in THIRD and len(node.args) > 2:
                yield from texts(node.args[2])
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if "code" in texts(key):
                    yield from texts(value)


def codes_in_the_code() -> set[str]:
    found = {
        kind.default_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BatchinferError)
    }
    for room in ("batchinfer", "workers"):
        for path in (ROOT / room).rglob("*.py"):
            found |= set(codes_of(ast.parse(path.read_text())))
    return found


def test_the_page_lists_every_code_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \|(.*)\|$", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    listed = [code for code, _ in rows]
    assert len(listed) == len(set(listed)), "a code is listed twice"
    assert set(listed) == codes_in_the_code()
    for code, row in rows:
        assert all(cell.strip() for cell in row.split("|")), f"{code} has an empty cell"


def test_the_page_has_the_status_of_every_kind() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (\d{3}) \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    statuses = {code: int(status) for code, status in rows}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.BatchinferError) and kind.default_code in statuses:
            assert statuses[kind.default_code] == kind.status


def test_the_scan_sees_codes_of_every_kind() -> None:
    """So that the list above cannot become right by finding nothing."""
    found = codes_in_the_code()
    assert {"invalid_value", "too_many_images", "worker_lost", "job_not_cancellable", "not_found"} <= found
