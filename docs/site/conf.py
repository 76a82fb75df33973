"""How Sphinx makes the site of the pages: `make docs`. The repository is the source, so that links between pages hold.

docs/index.md is the menu: each of its second-level headings is a group, each link under it a page. tests/docs holds
that every page is on it.

Sphinx with MyST and Furo: when this was chosen (November 2026), MkDocs had had no release for two years, the theme
that made it popular was in maintenance, and what its makers write instead was at 0.1.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pygments.lexers.special import TextLexer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from diagrams import BLOCK, FOLDER, name_diagram  # noqa: E402 - of this folder, which Sphinx does not look into

project = "batchinfer"
author = "the batchinfer authors"
project_copyright = "the batchinfer authors, Apache-2.0"
version = release = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md", "docs/decisions/*.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md",
    "bench/peers.md", "bench/results/*.md",
]  # fmt: skip
exclude_patterns = ["bench/results/*-notes.md", ".venv*", "artifacts", "dist", "build"]
#: GitHub's own anchors, so that a link with one holds there and here.
myst_heading_anchors = 4
#: Headings of an ordinary page may skip a level, as in a changelog.
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = f"batchinfer {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_permalinks_icon = "#"
pygments_style = "friendly"
pygments_dark_style = "monokai"
#: Pages whose own links are also their part of the menu: their targets stand below them.
_HUBS = {"docs/index", "docs/decisions/README", "docs/performance"}
_LINK = re.compile(r"^(?:- |\| )\[([^\]]+)\]\(([^)#]+)\.md\)|\[All of it\]\(([^)]+)\.md\)", re.MULTILINE)
#: A link whose text is a file's name: on the site it is called by the title of what it leads to.
_FILE_LINK = re.compile(r"(?<!!)\[[\w./-]+\.md\]\((?![a-z]+:)")


def list_groups(text: str) -> list[tuple[str, list[str]]]:
    """(heading, entries) of each part of a page, in order, without parts that link to none; numbers are no titles."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    groups = []
    for name, part in [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]:
        found = _LINK.findall(part)
        entries = [
            f"{title} <{page}>" if title and not title.isdigit() else page or result for title, page, result in found
        ]
        if entries:
            groups.append((name, list(dict.fromkeys(entries))))
    return groups


def prepare(_app: object, docname: str, source: list[str]) -> None:
    """Call links by titles, and give a hub a hidden table of contents for each of its groups."""
    text = source[0]
    source[0] = BLOCK.sub(show_diagram, _FILE_LINK.sub("[](", text))
    if docname not in _HUBS:
        return
    for name, entries in list_groups(text):
        caption = f":caption: {name}\n" if docname == "docs/index" and name else ""
        pages = "\n".join(entries)
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n{caption}\n{pages}\n```\n"


def show_diagram(block: re.Match[str]) -> str:
    """The drawing of a diagram where there is one, else its text as it stands."""
    name = name_diagram(block[1])
    headings = re.findall(r"^#+ (.+)$", block.string[: block.start()], re.MULTILINE)
    return f"![Diagram: {headings[-1]}](/docs/site/diagrams/{name})" if (FOLDER / name).exists() else block[0]


def write_front_door(app: object, error: Exception | None) -> None:
    """The site's own first page leads to the pages' first one."""
    if error is None and app.builder.format == "html":
        door = '<!doctype html><meta charset="utf-8"><title>batchinfer</title>'
        door += '<meta http-equiv="refresh" content="0; url=docs/index.html"><a href="docs/index.html">batchinfer</a>\n'
        (Path(app.outdir) / "index.html").write_text(door)


def setup(app: object) -> None:
    app.add_lexer("mermaid", TextLexer)
    app.connect("source-read", prepare)
    app.connect("build-finished", write_front_door)
