"""Files: what is vendored is what was vendored, nothing asks another server, templates hold no script or style."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask import Flask

import batchinfer.admin
from batchinfer.admin import vendoring
from batchinfer.admin.assets import asset_url

ROOT = Path(batchinfer.admin.__file__).parent
TEMPLATES = sorted((ROOT / "templates").glob("*.html"))
FILES = [*TEMPLATES, *sorted((ROOT / "static").glob("*.*"))]


def test_the_vendored_files_are_the_listed_ones() -> None:
    assert (vendoring.FOLDER / vendoring.LIST).read_text() == vendoring.describe(vendoring.FOLDER)
    listed = {name for package in vendoring.PACKAGES for _, name in package.files}
    assert {path.name for path in vendoring.FOLDER.iterdir()} == listed | {vendoring.LIST}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_asks_another_server(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    # `url(#name)` is a part of the same page: the hatching of a bar.
    assert not re.search(r"https?://|url\((?!#)|@import|//[a-z]+\.", text)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_script_no_style_and_trust_nothing(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son[a-z]+=|javascript:|hx-on|js:", text)
    assert not re.search(r"\|\s*safe\b|autoescape", text)
    assert not re.search(r"hx-trigger=\"[^\"]*\[", text)


def test_the_stylesheet_and_scripts_stay_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "static").glob("*.*")}
    assert sizes["admin.css"] <= 60_000
    assert sum(size for name, size in sizes.items() if name.endswith(".js")) <= 30_000


def test_a_file_asked_for_by_its_mark_is_kept(app: Flask) -> None:
    with app.test_request_context():
        url = asset_url("admin.css")
    client = app.test_client()
    assert "immutable" in client.get(url).headers["Cache-Control"]
    assert client.get("/admin/static/admin.css?v=other").headers["Cache-Control"] == "no-cache"
    assert client.get("/admin/static/../vendoring.py").status_code in {303, 404}
