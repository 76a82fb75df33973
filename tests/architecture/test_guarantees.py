"""Each sentence of docs/guarantees.md that promises something names a test that holds it, and that test exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def list_named() -> list[tuple[str, str]]:
    return _NAMED.findall(PAGE.read_text())


def test_every_test_that_the_page_names_exists() -> None:
    named = list_named()
    assert len(named) > 40
    for path, name in named:
        source = ROOT / path
        assert source.is_file(), f"{path} is not there"
        assert re.search(rf"^def {name}\(", source.read_text(), re.MULTILINE), f"{path} has no {name}"


def test_every_promise_names_a_test() -> None:
    promises = PAGE.read_text().split("## What is promised")[1].split("\n## ")[0]
    rows = [
        line for line in promises.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "|--"))
    ]
    assert len(rows) > 25
    for row in rows:
        assert _NAMED.search(row), f"no test holds: {row[:90]}"


def test_a_name_that_does_not_exist_would_be_seen() -> None:
    assert _NAMED.findall("`tests/store/test_x.py::test_y`") == [("tests/store/test_x.py", "test_y")]
    assert not re.search(r"^def test_y\(", (ROOT / "tests/store/test_leases.py").read_text(), re.MULTILINE)
