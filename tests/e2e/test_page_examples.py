"""The examples of the pages, run as they stand and in their order against a whole `batchinfer up`.

What a page leaves to its reader (the address, the key, folders, ids that were printed) is filled in; its files are
drawn pages. tests/docs/run_examples.py says which pages these are, and what of them is not run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.client import Client
from batchinfer.samples.documents import write_documents
from batchinfer.samples.pages import draw_page
from tests.docs.run_examples import list_runnable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.long

_ENDED = {"succeeded", "failed", "cancelled", "expired", "quarantined", "completed", "completed_with_errors"}
_BODY = {"model": "docreader", "messages": [{"role": "user", "content": "Read."}]}
_CHAT = {"method": "POST", "url": "/v1/chat/completions", "body": _BODY}


@dataclass
class Desk:
    """Where a reader sits: a folder with the files that the pages name, and a shell that finds the service."""

    folder: Path
    #: What a page writes, by what stands for it here.
    filled: dict[str, str]
    environment: dict[str, str]
    #: What the Python of a page has so far.
    names: dict[str, Any] = field(default_factory=dict)

    def fill(self, text: str) -> str:
        for written, here in self.filled.items():
            text = text.replace(written, here)
        return text

    def run(self, kind: str, text: str) -> None:
        """One example; raises AssertionError, or whatever the example raises, where it does not work."""
        text = self.fill(text)
        if kind == "python":
            exec(compile(text, "example", "exec"), self.names)  # noqa: S102 - the pages' own examples
        elif kind == "yaml":
            (self.folder / "nightly.yaml").write_text(text)
        else:
            self._run_command(text)

    def _run_command(self, command: str) -> None:
        if command.startswith("curl") and shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        done = subprocess.run(
            ["bash", "-c", command], env=self.environment, cwd=self.folder,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if printed := re.search(r'"id": ?"(job_\w[\w-]*)"', done.stdout):
            self.filled["job_..."] = printed[1]


def _write_files(folder: Path) -> None:
    """All that the pages name; lines are chat completions, on the page of the API also the bodies of jobs."""
    draw_page(1).image.save(folder / "page.png")
    write_documents(folder / "scans", 2, count=4)
    chats = [json.dumps({"custom_id": f"page-{number}", **_CHAT}) + "\n" for number in range(3)]
    for name in ("lines.jsonl", "in.jsonl"):
        (folder / name).write_text("".join(chats))


def _write_tools(folder: Path) -> None:
    """`batchinfer` is the one that is tested; `curl` fails where the answer is an error, as it does not by itself."""
    folder.mkdir()
    tools = {"batchinfer": f'"{sys.executable}" -m batchinfer.cli'}
    if found := shutil.which("curl"):
        tools["curl"] = f'"{found}" --fail-with-body --max-time 90'
    for name, command in tools.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)


@pytest.fixture
def desk(page_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A fresh one beside the running service."""
    url, key, base = page_up.facts["url"], page_up.facts["api_key"], page_up.home.parent
    _write_files(tmp_path)
    _write_tools(tmp_path / "bin")
    more = {
        "BATCHINFER_URL": url, "BATCHINFER_API_KEY": key, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key,
        "URL": url, "KEY": key, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    filled = {
        "http://127.0.0.1:8000": url, "bi_...": key,
        "/srv/scans": str(base / "scans"), "/srv/results": str(base / "results"),
    }  # fmt: skip
    made = Desk(tmp_path, filled, {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    yield made
    if "client" in made.names:
        made.names["client"].close()


@pytest.fixture
def all_went_well(patience: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Waits until all that the service was asked for has ended, and holds it to have ended well."""
    with_client: list[Client] = []

    def look() -> None:
        client = Client()
        with_client.append(client)
        for noun in (client.runs, client.batches, client.documents, client.jobs):  # those that make others first
            patience(lambda noun=noun: all(one.status in _ENDED for one in noun.list()))
            assert {one.status for one in noun.list()} <= {"succeeded", "completed"}, noun
        assert all(batch.request_counts.failed == 0 for batch in client.batches.list())

    yield look
    for client in with_client:
        client.close()


def test_the_readme(desk: Desk, all_went_well: Callable[[], None]) -> None:
    desk.names |= {"URL": desk.environment["URL"], "KEY": desk.environment["KEY"]}
    for example in list_runnable("README.md"):
        desk.run(*example)
    all_went_well()
    assert desk.names["client"].batches.retrieve(desk.names["batch"].id).request_counts.completed == 3


def test_the_quickstart(
    page_up: Any, desk: Desk, all_went_well: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_documents(page_up.home.parent / "scans", 3, count=3)
    for example in list_runnable("docs/quickstart.md"):
        desk.run(*example)
    assert capsys.readouterr().out.endswith("succeeded\n")
    all_went_well()
    assert len((desk.folder / "scans.jsonl").read_text().splitlines()) == 4
    assert len(list((desk.folder / "answers").glob("batch_*_output.jsonl"))) == 1
    assert list((page_up.home.parent / "results").rglob("*.jsonl")), "the night wrote nothing"


def test_the_api(desk: Desk, all_went_well: Callable[[], None]) -> None:
    (desk.folder / "lines.jsonl").write_text(json.dumps({"custom_id": "page-1", **_BODY}) + "\n")
    for example in list_runnable("docs/api.md"):
        desk.run(*example)
    all_went_well()
    assert desk.names["batch"].status == "completed"


def test_moving_here_from_xinference(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, text in list_runnable("docs/migrating-from-xinference.md"):
        if kind == "python":
            desk.run(kind, text)
    assert capsys.readouterr().out == "['docreader']\n"


def test_webhooks(desk: Desk, receiver: Any, patience: Callable[..., None]) -> None:
    """What is delivered is what the examples verify; one that was changed on its way they refuse."""
    desk.filled["https://example.com/hook"] = receiver.url
    first, *others = list_runnable("docs/webhooks.md")
    desk.run(*first)
    patience(lambda: receiver.taken)
    (headers, body), secret = receiver.taken[0], desk.names["endpoint"].signing_secret
    desk.filled["whsec_..."] = secret
    request = SimpleNamespace(get_data=lambda: body, headers=headers)
    desk.names |= {"request": request, "headers": headers, "body": body, "secret": secret}
    for example in others:
        desk.run(*example)
    assert desk.names["event"].type == "batch.completed"
    assert (desk.names["genuine"], desk.names["fresh"]) == (True, True)
    desk.names["body"] = body + b" "
    desk.run(*others[-1])
    assert desk.names["genuine"] is False
