"""A new revision takes over under load: no job fails, each result names the revision that made it, and back again."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
#: Some hundredths of a second each on the fake engine.
JOB = "[[steps:20]] page"


class Load:
    """Jobs submitted one after the other until it is told to stop."""

    def __init__(self, up: Any) -> None:
        self.ids: list[str] = []
        self._up, self._stop = up, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._up.client() as client:
            while not self._stop.wait(0.15):
                self.ids.append(self._up.submit(client, f"{JOB} {len(self.ids)}", cache="off")["id"])


@pytest.fixture
def up(tmp_path: Path, start_up: Callable[..., Any]) -> Any:
    return start_up(tmp_path / "home", "--engine", "fake").wait_ready()


@pytest.fixture
def client(up: Any) -> Iterator[httpx.Client]:
    with up.client() as opened:
        yield opened


def fetch_revision(up: Any, client: httpx.Client, patience: Callable[..., None]) -> str:
    """Another folder as a revision of the model, all its files here. Answers its hash."""
    folder = up.home / "models" / "docreader-next"
    shutil.copytree(ROOT / "workers" / "models" / "docreader", folder)
    (folder / "README.md").write_text("The next one.")
    source = {"kind": "folder", "path": str(folder)}
    made = client.post("/v1/models", json={"name": "docreader", "source": source})
    assert made.status_code in (200, 201), made.text
    at = f"/v1/models/docreader/revisions/{made.json()['id']}"
    assert client.post(f"{at}/fetch").status_code in (200, 202)
    patience(lambda: client.get(at).json()["status"] == "fetched")
    revision: str = made.json()["id"]
    return revision


@pytest.mark.long
def test_a_revision_takes_over_under_load_and_goes_back(
    up: Any, client: httpx.Client, patience: Callable[..., None]
) -> None:
    (wanted,) = client.get("/v1/deployments").json()["data"]
    at, old = f"/v1/deployments/{wanted['id']}", wanted["revision"]
    new = fetch_revision(up, client, patience)
    assert new != old

    def read_swap() -> dict[str, Any]:
        found: dict[str, Any] = client.get(at).json()
        return found

    load = Load(up)
    try:
        patience(lambda: len(load.ids) >= 20)
        refused = [{"prompt": "[[steps:3]] Which?", "expect": "what nobody answers"}]
        assert client.post(f"{at}/swap", json={"revision": new, "golden": refused}).status_code == 200
        patience(lambda: read_swap()["swap"]["status"] == "failed")
        failed = read_swap()
        assert failed["swap"]["error"]["code"] == "golden_failed"
        assert failed["revision"] == old

        golden = [{"prompt": "[[steps:3]] Which?", "expect": {"regex": "."}}]
        assert client.post(f"{at}/swap", json={"revision": new, "golden": golden}).status_code == 200
        assert client.post(f"{at}/swap", json={"revision": new}).json()["error"]["code"] == "swap_in_progress"
        patience(lambda: read_swap()["swap"]["status"] == "switched")
        during = len(load.ids)
        patience(lambda: len(load.ids) >= during + 20)

        assert client.post(f"{at}/rollback").status_code == 200
        patience(lambda: read_swap()["swap"]["status"] == "rolled_back")
        during = len(load.ids)
        patience(lambda: len(load.ids) >= during + 20)
    finally:
        load.stop()
    jobs = [up.wait_ended(client, job_id) for job_id in load.ids]
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert all(job["attempts"] == 1 for job in jobs)
    made_by = [job["result"]["revision"] for job in jobs]
    assert set(made_by) == {old, new}
    assert (made_by[0], made_by[-1]) == (old, old)
    patience(lambda: len([one for one in read_swap()["placed"] if one["status"] == "ready"]) == 1)
    assert up.stop() == 0
    assert up.left() == set()
