"""The findings of the doctor in docs/troubleshooting.md: `python -m batchinfer.doctor.remedies`, or `make pages`.

Read from the source of the checks, so that the page says what they say: every warning and error with its remedy. What a
message takes from the machine is written as an ellipsis.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.doctor.everything import HOST, SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchinfer.doctor.findings import Check

OPEN, CLOSE = "<!-- findings: python -m batchinfer.doctor.remedies -->", "<!-- end of findings -->"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
_LEVELS = {"fail": "error", "warn": "warning"}


def list_said(check: Check) -> Iterator[tuple[str, str, str]]:
    """(level, message, remedy) of each warning and error that a check can give, in the order of its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(check.look)))
    known = dict(vars(sys.modules[check.look.__module__]))
    # A check may hand over to functions of its module.
    handed = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    own = [found for name in sorted(handed) if inspect.isfunction(found := known.get(name))]
    near = [found for found in own if found.__module__ == check.look.__module__]
    tree.body += [part for found in near for part in ast.parse(textwrap.dedent(inspect.getsource(found))).body]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if isinstance(node.value, (ast.Constant, ast.JoinedStr)):
                known[node.targets[0].id] = _write(node.value, known)
            else:
                known.pop(node.targets[0].id, None)
    calls = [
        node
        for part in tree.body
        for node in sorted(ast.walk(part), key=lambda node: getattr(node, "lineno", 0))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _LEVELS
    ]
    for call in calls:
        message, remedy = (_write(argument, known) for argument in call.args)
        yield _LEVELS[call.func.id], message, remedy  # type: ignore[attr-defined]


def render_findings() -> str:
    """Every check by its group: why it is made, and what each of its findings asks for."""
    lines: list[str] = []
    group = ""
    for check in (*SERVICE, *HOST):
        if check.group != group:
            group = check.group
            lines += [f"## The doctor: {group}", ""]
        lines += [f"### {check.name}", "", check.why, ""]
        rows = [f"| {level} | {message} | {remedy} |" for level, message, remedy in list_said(check)]
        lines += ["| | it says | what to do |", "| --- | --- | --- |", *rows, ""] if rows else ["It only tells.", ""]
    return "\n".join(lines).strip()


def put_findings(page: str) -> str:
    """The page with the findings between its two marks. Raises ValueError where a mark is missing."""
    before, _, rest = page.partition(OPEN)
    _, mark, after = rest.partition(CLOSE)
    if not mark:
        raise ValueError(f"The page needs the lines {OPEN!r} and {CLOSE!r}.")
    return f"{before}{OPEN}\n\n{render_findings()}\n\n{CLOSE}{after}"


def _write(node: ast.expr, known: Mapping[str, Any]) -> str:
    """The text of an expression; what only a run can know is an ellipsis."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_write(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _write(node.value, known)
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Constant):
        found, place = known.get(node.value.id), node.slice.value
        return str(found[place]) if isinstance(found, tuple) and isinstance(place, int) else "…"
    if isinstance(node, ast.Name) and isinstance(known.get(node.id), (str, int, float)):
        return str(known[node.id])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "strip":
        return _write(node.func.value, known)
    return "…"


if __name__ == "__main__":
    PAGE.write_text(put_findings(PAGE.read_text()))
