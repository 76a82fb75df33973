"""What the docs list is what the code has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from batchinfer import __version__
from batchinfer.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_listed_with_its_default_and_meaning() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = {
        name: (default, meaning)
        for name, default, meaning in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    }
    expected = {}
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`"
        expected[PREFIX + name.upper()] = (default, field.description)
    assert rows == expected


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_page_tells_anyone_to_install_the_taken_name() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        assert not re.search(r"pip install (?:--?\S+ )*batchinfer(?![-\w])", page.read_text()), page
