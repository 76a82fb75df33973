"""Each sentence of docs/guarantees.md and docs/security.md that promises something names a test that holds it, and that
test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Page, the heading of what it promises, and how many tests and rows it has at least.
PAGES = [("guarantees.md", "## What is promised", 40, 25), ("security.md", "## What is guarded", 60, 35)]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def read(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize(("page", "_heading", "tests", "_rows"), PAGES)
def test_every_test_that_the_page_names_exists(page: str, _heading: str, tests: int, _rows: int) -> None:
    named = _NAMED.findall(read(page))
    assert len(named) > tests
    for path, name in named:
        source = ROOT / path
        assert source.is_file(), f"{path} is not there"
        assert re.search(rf"^def {name}\(", source.read_text(), re.MULTILINE), f"{path} has no {name}"


@pytest.mark.parametrize(("page", "heading", "_tests", "least"), PAGES)
def test_every_promise_names_a_test(page: str, heading: str, _tests: int, least: int) -> None:
    promises = read(page).split(heading)[1].split("\n## ")[0]
    heads = ("| promise", "| rule", "|--")
    rows = [line for line in promises.splitlines() if line.startswith("| ") and not line.startswith(heads)]
    assert len(rows) > least
    for row in rows:
        assert _NAMED.search(row), f"no test holds: {row[:90]}"


def test_a_name_that_does_not_exist_would_be_seen() -> None:
    assert _NAMED.findall("`tests/store/test_x.py::test_y`") == [("tests/store/test_x.py", "test_y")]
    assert not re.search(r"^def test_y\(", (ROOT / "tests/store/test_leases.py").read_text(), re.MULTILINE)
