"""The command line on a whole service: answers on stdout, all else on stderr, and a status that says how it went."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from batchinfer.cli import main
from batchinfer.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def desk(service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, address and key in the environment."""
    monkeypatch.setenv("BATCHINFER_URL", service.url)
    monkeypatch.setenv("BATCHINFER_API_KEY", service.key)
    monkeypatch.setenv("BATCHINFER_HOME", str(tmp_path / "home"))
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


@pytest.fixture
def run(desk: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run a command in this process."""

    def run(*words: object) -> Run:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return Run(int(end.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run a command as a process of its own, as from a shell; killed with the test."""
    with ExitStack() as stack:
        # What a shell starts in the background ignores Ctrl-C, and so would what it starts in turn.
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))

        def start(*words: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "batchinfer.cli", *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def paused(service: Any, model: str) -> Iterator[Callable[[], None]]:
    """Nothing is answered until it is called."""
    http = httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {service.key}"}, trust_env=False)
    assert http.post("/v1/queue/pause", json={"model": model}).status_code == 200

    def resume() -> None:
        assert http.post("/v1/queue/resume", json={"model": model}).status_code == 200

    yield resume
    resume()
    http.close()


def draw(desk: Path, number: int) -> Path:
    folder = desk / "scans"
    folder.mkdir()
    for name in range(number):
        Image.new("RGB", (16, 16), (name, 1, 2)).save(folder / f"{name:02}.png")
    return folder


def write_lines(desk: Path, model: str, *prompts: str, **more: Any) -> Path:
    path = desk / "lines.jsonl"
    with path.open("w") as file:
        for number, prompt in enumerate(prompts):
            body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 50}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps({**line, **more}) + "\n")
    return path


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_prompt_alone(run: Callable[..., Run]) -> None:
    answered = run("submit", "--prompt", "Say which request this is.", "--wait", "--set", "seed=7", "--json")
    assert (answered.status, answered.lines[0]["status"]) == (0, "succeeded")
    plain = run("submit", "--prompt", "Say which request this is.", "--wait")
    assert plain.out.strip() == answered.lines[0]["result"]["text"].strip()


def test_files_are_submitted_shown_waited_for_and_cancelled(desk: Path, run: Callable[..., Run]) -> None:
    folder = draw(desk, 2)
    (desk / "notes.txt").write_text("no picture")
    made = run("submit", folder, desk / "notes.txt", "--prompt", "Read.", "--metadata", "a=b=c", "--json")
    assert made.status == 3
    assert [line["id"] is not None for line in made.lines] == [True, True, False]
    assert made.lines[0]["metadata"] == {"a": "b=c"}
    assert "notes.txt: " in made.err
    ids = [line["id"] for line in made.lines[:2]]
    waited = run("jobs", "wait", *ids, "--json")
    assert (waited.status, [line["id"] for line in waited.lines]) == (0, ids)
    assert "succeeded" in run("jobs", "show", ids[0]).out
    attempts = run("jobs", "attempts", ids[0], "--json").lines
    assert [line["outcome"] for line in attempts] == ["succeeded"] * 2  # prepared, answered
    listed = run("jobs", "list", "--limit", 1, "--state", "succeeded", "--json")
    assert len(listed.lines) == 1
    assert ids[0] in run("jobs", "list").out
    refused = run("jobs", "cancel", ids[0])
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.count("\n") == 1


def test_a_quarantined_job_is_what_can_be_released(run: Callable[..., Run]) -> None:
    job = run("submit", "--prompt", "Hello.", "--json").lines[0]
    assert run("jobs", "wait", job["id"]).status == 0
    refused = run("jobs", "release", job["id"])
    assert refused.status == 1
    assert "quarantined" in refused.err


def test_a_document_is_shown_by_its_pages(desk: Path, run: Callable[..., Run]) -> None:
    pages = [Image.new("RGB", (32, 32), (number, 0, 0)) for number in range(2)]
    pages[0].save(desk / "two.pdf", save_all=True, append_images=pages[1:])
    answered = run("submit", desk / "two.pdf", "--prompt", "Read.", "--wait", "--json")
    assert (answered.status, len(answered.lines[0]["pages"])) == (0, 2)
    shown = run("jobs", "show", answered.lines[0]["id"], "--json").lines[0]
    assert (shown["object"], shown["status"]) == ("document", "completed")
    assert len(run("jobs", "list", "--document", shown["id"], "--json").lines) == 2
    assert "two.pdf page 2" in run("submit", desk / "two.pdf", "--prompt", "Read.", "--wait").out


def test_files_go_up_and_come_back(desk: Path, run: Callable[..., Run]) -> None:
    (desk / "a.txt").write_text("hello")
    made = run("files", "upload", desk / "a.txt", "--purpose", "user_data", "--days", 1, "--json").lines[0]
    assert (made["filename"], made["bytes"], made["expires_at"] - made["created_at"]) == ("a.txt", 5, 86400)
    assert run("files", "show", made["id"], "--json").lines == [made]
    assert made["id"] in run("files", "list", "--purpose", "user_data").out
    (desk / "back").mkdir()
    fetched = run("files", "download", made["id"], desk / "back", "--json").lines[0]
    assert fetched == {"id": made["id"], "path": str(desk / "back" / "a.txt"), "bytes": 5}
    assert (desk / "back" / "a.txt").read_text() == "hello"
    assert run("files", "delete", made["id"]).out == f"{made['id']}  deleted\n"
    assert run("files", "show", made["id"]).status == 1


def test_a_batch_is_run_to_its_files(desk: Path, model: str, run: Callable[..., Run]) -> None:
    path = write_lines(desk, model, "One.", "Two. [[fail:bad_text]]", "Three.")
    ran = run("batches", "run", path, "--metadata", "night=1", "--priority", "high", "--json")
    assert ran.status == 3, ran.err
    told = ran.lines[0]
    assert (told["batch"]["status"], told["batch"]["metadata"]) == ("completed", {"night": "1"})
    assert told["batch"]["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    answers = [json.loads(line) for line in Path(told["output_file"]).read_text().splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["r0", "r2"]
    assert [json.loads(line)["custom_id"] for line in Path(told["error_file"]).read_text().splitlines()] == ["r1"]
    assert told["batch"]["id"] in ran.err
    # Watched once more, elsewhere, for people.
    again = run("batches", "watch", told["batch"]["id"], "--out", desk / "again")
    assert again.status == 3
    assert "2 of 3 answered, 1 failed" in again.out
    assert len(list((desk / "again").iterdir())) == 2
    assert told["batch"]["id"] in run("batches", "list", "--limit", 1).out
    assert run("batches", "show", told["batch"]["id"], "--json").lines == [told["batch"]]
    assert run("batches", "cancel", told["batch"]["id"]).status == 1


def test_what_is_wrong_with_a_file_is_said_by_line(desk: Path, model: str, run: Callable[..., Run]) -> None:
    path = write_lines(desk, model, "One.", "Two.", custom_id="same")
    ran = run("batches", "run", path)
    assert ran.status == 3
    assert "line 2: duplicate_custom_id: " in ran.err
    made = run("batches", "create", path, "--window", "7x")
    assert made.status == 1
    assert "completion_window" in made.err


def test_what_was_used_is_told_by_day_and_model(model: str, run: Callable[..., Run]) -> None:
    assert run("submit", "--prompt", "Count me.", "--wait").status == 0
    report = run("usage", "--by", "model", "--by", "day", "--json").lines[0]
    assert [(row["model"], row["key"]) for row in report["data"]] == [(model, None)]
    assert report["total"]["jobs"] == report["data"][0]["jobs"] >= 1
    assert report["total"]["completion_tokens"] > 0
    shown = run("usage", "--by", "model", "--from", report["from"], "--to", report["to"]).out.splitlines()
    assert shown[0].split()[:2] == ["model", "jobs"]
    assert shown[1].split()[:2] == [model, f"{report['total']['jobs']:,}"]
    assert run("usage", "--from", report["to"], "--to", "2020-01-01").status == 1
    assert run("usage", "--from", "yesterday").status == 2


def test_ctrl_c_leaves_a_batch_running_and_says_how_to_go_on(
    desk: Path, model: str, service: Any, run: Callable[..., Run], start: Any, paused: Callable[[], None]
) -> None:
    path = write_lines(desk, model, *(f"Request {number}." for number in range(5)))
    process = start("batches", "run", str(path), "--out", str(desk))
    assert process.stderr is not None
    batch_id = process.stderr.readline().split()[0]
    with Client(service.url, service.key) as client:
        wait_until(lambda: client.batches.get(batch_id).request_counts.total == 5)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (130, ""), err
        assert "Traceback" not in err
        assert client.batches.get(batch_id).status == "in_progress"
        paused()
    hint = next(line for line in err.splitlines() if "batches watch" in line)
    words = shlex.split(hint)
    assert words[:4] == ["batchinfer", "batches", "watch", batch_id]
    watched = run(*words[1:])
    assert watched.status == 0, watched.err
    assert "5 of 5 answered" in watched.out
    assert len((desk / f"{batch_id}_output.jsonl").read_text().splitlines()) == 5


def test_an_interrupted_folder_goes_on_where_it_was(
    desk: Path, service: Any, run: Callable[..., Run], start: Any, paused: Callable[[], None]
) -> None:
    folder = draw(desk, 12)
    words = ["submit", str(folder), "--prompt", f"Read {time.time()}.", "--out", str(desk / "out.jsonl")]
    with Client(service.url, service.key) as client:
        before = sum(1 for _ in client.jobs.list())
        process = start(*words)
        wait_until(lambda: sum(1 for _ in client.jobs.list()) - before == 12)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (130, ""), err
        assert "The same command again" in err
        assert "Traceback" not in err
        paused()
        again = run(*words)
        assert (again.status, again.out) == (0, f"{desk / 'out.jsonl'}  12 files, 0 without an answer\n"), again.err
        lines = [json.loads(line) for line in (desk / "out.jsonl").read_text().splitlines()]
        assert sorted(line["file"] for line in lines) == sorted(str(path) for path in folder.iterdir())
        assert run(*words, "--json").lines == [
            {"out": str(desk / "out.jsonl"), "files": 12, "told": 0, "unanswered": 0}
        ]
        assert sum(1 for _ in client.jobs.list()) - before == 12


def test_how_a_command_ends_when_it_cannot(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = run("jobs", "show", "job_" + "0" * 32)
    assert (unknown.status, unknown.out, unknown.err.count("\n")) == (1, "", 1)
    assert run("submit", "--prompt", "x", "--set", "seed=seven").status == 2
    assert run("submit", "nowhere", "--prompt", "x").status == 2
    assert run("batches", "watch", "batch_" + "0" * 32, "--out", "new").status == 1
    assert run("batches", "run", __file__, "--out", "no/where").status == 1
    assert not Path("new").exists()
    assert run("batches", "run", __file__, "--out", __file__).status == 2
    monkeypatch.setenv("BATCHINFER_API_KEY", "bi_00000000_" + "x" * 43)
    assert run("jobs", "list").status == 1
    monkeypatch.delenv("BATCHINFER_URL")
    nobody = run("jobs", "list")
    assert nobody.status == 2
    assert re.search("BATCHINFER_URL.*batchinfer up", nobody.err, re.DOTALL)
    assert os.environ["BATCHINFER_HOME"] not in nobody.err


def test_the_up_of_the_home_is_found_and_its_key_goes_nowhere_else(
    desk: Path, service: Any, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BATCHINFER_URL")
    monkeypatch.delenv("BATCHINFER_API_KEY")
    home = desk / "home"
    home.mkdir()
    (home / "servers.json").write_text(json.dumps({"url": service.url}))
    (home / "api-key").write_text(service.key + "\n")
    assert run("jobs", "list", "--home", home).status == 0
    assert run("jobs", "list", "--home", home, "--url", f"{service.url}/v1/").status == 0
    elsewhere = run("jobs", "list", "--home", home, "--url", "http://127.0.0.1:9")
    assert (elsewhere.status, "BATCHINFER_API_KEY" in elsewhere.err) == (2, True)
