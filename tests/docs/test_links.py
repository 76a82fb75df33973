"""Links of the pages lead somewhere, and to a heading that is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.docs.conftest import Page

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_ELSEWHERE = ("http://", "https://", "mailto:")


def list_anchors(text: str) -> set[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    anchors: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = anchors.get(slug, 0)
        anchors[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def test_anchors_are_made_as_the_site_makes_them() -> None:
    text = "# A `b.c`, d\n## Same\n## Same\n## [Linked](x.md) title\n## What's *not*\n"
    assert list_anchors(text) == {"a-bc-d", "same", "same-1", "linked-title", "whats-not"}


def test_links_lead_to_files_and_headings_that_are_there(pages: list[Page]) -> None:
    seen = 0
    for page in pages:
        for target in _LINK.findall(page.prose):
            if target.startswith(_ELSEWHERE):
                continue
            seen += 1
            file, _, anchor = target.partition("#")
            place = (page.path.parent / file).resolve() if file else page.path
            assert place.exists(), f"{page.name} links to {target}, which is not there"
            if anchor:
                assert anchor in list_anchors(Path(place).read_text()), (
                    f"{page.name} links to {target}: no such heading"
                )
    assert seen > 100
