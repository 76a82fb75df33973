"""What ARCHITECTURE.md and the import contracts say is held against the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchinfer.domain.jobs import TRANSITIONS, JobState

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
SOURCES = [*(ROOT / "batchinfer").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]


def _rooms() -> set[str]:
    return set(re.findall(r"^\| `([a-z/_.]+)` \|", TEXT, re.MULTILINE))


def test_every_room_of_the_page_exists_and_is_no_empty_shell() -> None:
    rooms = _rooms()
    assert len(rooms) > 15
    for room in rooms:
        path = ROOT / room
        assert path.exists(), f"ARCHITECTURE.md names {room}, which is not there"
        if path.is_dir() and room.startswith(("batchinfer", "workers")):
            assert [p for p in path.rglob("*.py") if p.name != "__init__.py" or p.stat().st_size > 600], (
                f"{room} is empty"
            )


def test_every_room_of_the_tree_is_on_the_page() -> None:
    rooms = _rooms()
    for top in ("batchinfer", "workers"):
        for path in (ROOT / top).iterdir():
            if path.is_dir() and not path.name.startswith("__"):
                assert f"{top}/{path.name}/" in rooms, f"ARCHITECTURE.md has no line for {top}/{path.name}/"


def test_the_files_named_in_the_life_of_a_job_exist() -> None:
    life = TEXT.split("## The life of one job")[1].split("## The states")[0]
    names = re.findall(r"`((?:batchinfer|workers)/[a-z/_.]+)`", life)
    assert len(names) >= 8
    for name in names:
        assert (ROOT / name).exists(), f"the life of one job names {name}, which is not there"


def test_the_drawing_of_the_states_is_the_table_in_the_code() -> None:
    drawn = set()
    for source, target, verbs in re.findall(r"^    (\w+) --> (\w+): (.+)$", TEXT, re.MULTILINE):
        drawn |= {(verb.strip(), JobState(source), JobState(target)) for verb in verbs.split(",")}
    coded = {(verb, source, target) for verb, (sources, target) in TRANSITIONS.items() for source in sources}
    assert drawn == coded


def test_import_contracts() -> None:
    run = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "0 broken" in run.stdout


def test_the_web_server_starts_without_torch() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import batchinfer.web"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "flask" in run.stderr
    assert not re.search(r"\|\s+(torch|transformers|numpy|workers)\b", run.stderr)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    """No module over 500 lines, no function over 60."""
    text = path.read_text()
    assert text.count("\n") <= 500, f"{path} is long: split it by noun"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{path}:{node.lineno} {node.name} is long"


def test_nothing_of_one_machine_is_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(
        r"(?:^|[^a-z.])/(?:tmp|work|root|farm)/|" + r"p[y]pi\.org|python[h]osted|npm[j]s\.", re.MULTILINE
    )
    found = []
    for name in listed.stdout.split():
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".toml", ".yaml", ".html", ".css", ".json", ".txt", ".jinja"}
            and path.exists()
        ):
            found += [f"{name}: {line}" for line in path.read_text().splitlines() if pattern.search(line)]
    assert found == []
