"""What the pages say, found in their text. No test here needs a service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(?P<mark>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=mark)[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced example."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Page:
    """A page of Markdown, by its path from the repository's root."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def prose(self) -> str:
        """Without the fenced examples."""
        return _FENCE.sub("", self.text)

    def list_blocks(self) -> list[Block]:
        """The fenced examples, in order."""
        return [Block(self.name, found["language"].strip(), found["text"]) for found in _FENCE.finditer(self.text)]


@pytest.fixture(scope="session")
def pages() -> list[Page]:
    """Every page that a reader may open."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").rglob("*.md")]
    return [Page(path) for path in sorted(found)]


@pytest.fixture(scope="session")
def manual(pages: list[Page]) -> list[Page]:
    """The pages that tell how to use it as it is: not the changelog, not the decisions, not results."""
    return [
        page for page in pages if page.path.parent == ROOT / "docs" or page.name in {"README.md", "CONTRIBUTING.md"}
    ]
