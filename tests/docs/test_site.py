"""The pages as a site: built without a warning, and whole without the network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(name, reason="the site's generator is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-W",
        "--keep-going",
        "-q",
        "-c",
        "docs/site",
        ".",
        str(folder),
    ]
    run = subprocess.run(
        [*command, "-d", str(tmp_path_factory.mktemp("trees"))], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return folder


def test_every_page_is_there_and_on_the_menu(site: Path) -> None:
    menu = (site / "docs" / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / "docs" / f"{page.stem}.html").is_file()
        assert f'href="{page.stem}.html' in menu or page.stem == "index"
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert (site / "docs" / "decisions" / f"{page.stem}.html").is_file()
    assert 'url=docs/index.html"' in (site / "index.html").read_text()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Links to other places are text to click on; scripts, styles, fonts and pictures are the site's own."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']([^\"']+)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=[\"']([^\"']+)", text)
        assert not [one for one in loaded if re.match(r"(?:[a-z]+:)?//", one)], page
        assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", text), page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import\s+[\"']?(?:url)?|url\(\s*[\"']?(?:https?:)?//", style.read_text()), style


def test_own_links_of_the_site_lead_somewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        for target in set(re.findall(r"href=\"([^\"#:?]+\.html)(?:#[^\"]*)?\"", text)):
            assert (page.parent / target).resolve().is_file(), (page.name, target)
