"""Nights from a folder to their files, on a whole service: the example of the docs, and files that others made."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from batchinfer.samples.documents import write_documents

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.long

DOCS = Path(__file__).resolve().parents[2] / "docs/nightly-documents.md"
ENDED = {"completed", "completed_with_errors", "failed", "cancelled", "expired"}
#: Where packages of Debian and of Python keep PDFs.
FOREIGN = ("/usr/share/doc", "/usr/share", "/usr/lib/python3", sys.prefix)
#: How a document that is broken, locked or not a document may end.
KNOWN_FAULTS = {
    "document_parse_error", "document_encrypted", "too_many_pages", "page_too_large", "sandbox_timeout",
    "sandbox_killed", "sandbox_failed", "too_many_failed_pages",
}  # fmt: skip


def find_example(name: str) -> str:
    """A block of the docs by its name."""
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None, f"{DOCS.name} has no example {name}"
    return found[1]


def wait_ended(client: httpx.Client, run_id: str, patience: Callable[..., None]) -> dict[str, Any]:
    """The run once it has ended."""
    run: dict[str, Any] = {}

    def ended() -> bool:
        nonlocal run
        run = client.get(f"/v1/runs/{run_id}").json()
        return run["status"] in ENDED

    patience(ended, 240.0)
    return run


def run_cli(up: Any, *arguments: str) -> Any:
    """A command of the service's own; what it said on stdout, as JSON lines."""
    done = subprocess.run(
        [sys.executable, "-m", "batchinfer.cli", *arguments, "--home", str(up.home), "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """All pages that the shards below a folder hold."""
    return [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text().splitlines()]


def test_the_example_of_the_docs_runs_and_a_second_time_reads_nothing(
    night_up: Any, tmp_path: Path, patience: Callable[..., None]
) -> None:
    base = night_up.home.parent
    written = write_documents(base / "scans" / "example", 5, count=8)
    pages = sum(len(one.pages) for one in written)
    declared = find_example("nightly.yaml")
    declared = declared.replace("/srv/scans", str(base / "scans" / "example")).replace(
        "/srv/results", str(base / "results")
    )
    file = tmp_path / "nightly.yaml"
    file.write_text(declared)
    name = yaml.safe_load(declared)["name"]
    run_cli(night_up, "schedules", "apply", str(file))
    with night_up.client() as client:
        schedule = next(one for one in client.get("/v1/schedules").json()["data"] if one["name"] == name)
        assert schedule["next_at"] is not None
        first = wait_ended(client, start(client, schedule), patience)
        assert first["status"] == "completed", first
        assert first["counts"]["documents"]["listed"] == len(written)
        assert first["counts"]["pages"]["total"] == pages
        run_cli(night_up, "schedules", "apply", str(file))
        assert client.get(f"/v1/schedules/{schedule['id']}").json()["version"] == schedule["version"]
        second = wait_ended(client, start(client, schedule), patience)
    assert second["counts"]["documents"]["skipped"] == len(written)
    assert second["counts"]["pages"]["total"] == 0
    for run in (first, second):
        lines = read_lines(next((base / "results").rglob(f"*{run['id'].removeprefix('run_')}*")))
        assert len(lines) == pages
        assert len({(line["document"]["uri"], line["page"]) for line in lines}) == pages


def start(client: httpx.Client, schedule: dict[str, Any]) -> str:
    """Run a schedule now."""
    answer = client.post(f"/v1/schedules/{schedule['id']}/run")
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def find_foreign() -> list[Path]:
    """PDFs of packages that are installed here, each once."""
    found = {path.resolve() for folder in FOREIGN for path in Path(folder).rglob("*.pdf") if path.is_file()}
    return sorted(path for path in found if path.stat().st_size < 20_000_000)[:40]


@pytest.mark.long
def test_files_that_others_made_end_well_or_with_a_reason(night_up: Any, patience: Callable[..., None]) -> None:
    foreign = find_foreign()
    if not foreign:
        pytest.skip("no package that is installed here ships a PDF")
    folder = night_up.home.parent / "scans" / "foreign"
    folder.mkdir()
    for number, path in enumerate(foreign):
        (folder / f"{number:03d}-{path.name}").write_bytes(path.read_bytes())
    body = {
        "source": {"uri": str(folder), "include": ["**/*.pdf"]},
        "pipeline": {"model": "docreader", "prompt": "Read page {{ page }}.", "render": {"pages": "1-12"}},
    }
    with night_up.client() as client:
        run = client.post("/v1/runs", json=body).json()
        ended = wait_ended(client, run["id"], patience)
        documents = client.get(f"/v1/runs/{run['id']}/documents", params={"limit": 100}).json()["data"]
    assert ended["status"] in {"completed", "completed_with_errors"}
    assert len(documents) == len(foreign)
    faults = {one["error"]["code"] for one in documents if one.get("error")}
    assert faults <= KNOWN_FAULTS
    assert any(one["outcome"] == "completed" for one in documents)
