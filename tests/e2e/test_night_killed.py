"""A night whose processes are killed three times ends with the same results as one that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.samples import FIELDS
from batchinfer.samples.documents import write_documents

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

DOCUMENTS = 20
#: What is killed, and after how many pages have ended.
KILLS = (("cpu", 3), ("model", 12), ("web", 20))
ENDED = {"completed", "completed_with_errors", "failed", "cancelled", "expired"}
#: Of the bundled model on pages of which a third is noisy; its card says 90 to 91 %.
LEAST_RIGHT = 0.8


def declare(client: httpx.Client, folder: Path, results: Path) -> str:
    """A run that takes over nothing from any other."""
    answer = client.post("/v1/runs", json={
        "source": {"uri": str(folder), "include": ["**/*"], "incremental": "off"},
        "pipeline": {
            "model": "docreader", "prompt": "Extract.", "generation": {"max_tokens": 160}, "cache": "off",
            "max_failed_share": 1.0,
        },
        "sinks": [{"type": "jsonl", "uri": str(results), "documents_per_shard": 5}],
    })  # fmt: skip
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def wait_ended(up: Any, run_id: str, patience: Callable[..., None], *, kills: bool = False) -> dict[str, Any]:
    """The run once it has ended; processes are killed on the way where that is asked."""
    left = list(KILLS) if kills else []
    run: dict[str, Any] = {}

    def ended() -> bool:
        nonlocal run
        with up.client() as client:
            try:
                answer = client.get(f"/v1/runs/{run_id}")
            except OSError:
                return False  # the web server is just the one that was killed
            except Exception as error:
                if type(error).__module__.startswith("httpx"):
                    return False
                raise
        if not answer.is_success:
            return False
        run = answer.json()
        pages = run["counts"]["pages"]
        done = pages["ok"] + pages["failed"] + pages["blank"] + pages["fallback"]
        if left and done >= left[0][1] and run["status"] not in ENDED and up.pids(left[0][0]):
            role, _ = left.pop(0)
            os.kill(up.pids(role)[0], signal.SIGKILL)
        return run["status"] in ENDED

    patience(ended, 280.0)
    assert not left, f"the run ended before these were killed: {left}"
    return run


def read_results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Every page of a run's shards by document and page, each once."""
    lines = [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text().splitlines()]
    found = {(line["document"]["name"], line["page"]): line for line in lines}
    assert len(found) == len(lines), "a page is there twice"
    return found


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_night_that_was_killed_three_times_ends_like_one_that_was_not(
    start_up: Any, tmp_path: Path, patience: Callable[..., None]
) -> None:
    scans, results = tmp_path / "scans", tmp_path / "results"
    for name in ("calm", "killed"):
        (results / name).mkdir(parents=True)
    written = write_documents(scans, 11, count=DOCUMENTS)
    truth = {(one.path.name, n): page.fields for one in written for n, page in enumerate(one.pages, 1)}
    up = start_up(
        tmp_path / "home", BATCHINFER_SOURCE_FOLDERS=str(scans), BATCHINFER_SINK_FOLDERS=str(results)
    ).wait_ready()  # fmt: skip
    with up.client() as client:
        calm = declare(client, scans, results / "calm")
    wait_ended(up, calm, patience)
    with up.client() as client:
        killed = declare(client, scans, results / "killed")
    run = wait_ended(up, killed, patience, kills=True)
    assert run["status"] == "completed", json.dumps(run, indent=1)
    one, other = read_results(results / "calm"), read_results(results / "killed")
    assert one.keys() == other.keys() == truth.keys()
    assert {key: line["text"] for key, line in one.items()} == {key: line["text"] for key, line in other.items()}
    assert sum(line["attempts"] for line in other.values()) >= len(other)
    right = sum(read_fields(other[key]).get(name) == fields[name] for key, fields in truth.items() for name in FIELDS)
    share = right / (len(truth) * len(FIELDS))
    print(f"{len(truth)} pages, {share:.1%} of fields right")
    assert share > LEAST_RIGHT


def read_fields(line: dict[str, Any]) -> dict[str, Any]:
    """The fields of an answer; none where it is no object."""
    try:
        found = json.loads(line["text"])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
