"""docs/index.md is the menu of the site, and has every page once."""

from __future__ import annotations

import re

from tests.docs.conftest import ROOT

INDEX = ROOT / "docs" / "index.md"


def list_links() -> list[str]:
    return re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", INDEX.read_text(), re.MULTILINE)


def test_every_page_is_on_the_menu_once() -> None:
    links = list_links()
    assert len(links) == len(set(links)), "a page is on the menu twice"
    there = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    listed = {link for link in links if "/" not in link}
    missing = sorted(there - listed)
    assert not missing, (
        f"docs/index.md lacks a line `- [Title](page.md): what it is`, in the group it belongs to, for {missing}"
    )
    assert not listed - there, f"docs/index.md names pages that are not there: {sorted(listed - there)}"


def test_what_the_menu_names_beside_is_there() -> None:
    for link in list_links():
        assert (INDEX.parent / link).is_file(), link


def test_every_decision_is_on_the_page_of_decisions() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\| \[\d+\]\(([^)]+)\)", (folder / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in folder.glob("0*.md"))
