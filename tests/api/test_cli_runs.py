"""`batchinfer runs`, `schedules` and `templates` against a service on a real socket; no worker is there."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from werkzeug.serving import make_server

from batchinfer.cli import main
from batchinfer.domain.ids import RUN, parse_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Context

pytestmark = pytest.mark.long

NIGHT = """\
name: nightly
timing:
  cron: "30 2 * * 1-5"
  timezone: Europe/Berlin
  window: 5h
source:
  files: [FILE]
pipeline:
  model: org/reader
  prompt: Read page {{ page }}.
"""
RUN_FILE = NIGHT.replace(NIGHT[NIGHT.index("timing") : NIGHT.index("source")], "window: 5h\n")


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(
    app: OpenAPI,
    api_key: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    logged: list[Any],
) -> Iterator[Callable[..., Said]]:
    """Run a command in this process, in an empty folder, against the service, whose log lines go elsewhere."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("BATCHINFER_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("BATCHINFER_API_KEY", api_key)

    def run(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    Path("page.pdf").write_bytes(b"%PDF-1.7")
    file_id = run("files", "upload", "page.pdf", "--purpose", "user_data", "--json").lines[0]["id"]
    Path("night.yaml").write_text(NIGHT.replace("FILE", file_id))
    Path("run.yaml").write_text(RUN_FILE.replace("FILE", file_id))
    yield run
    server.shutdown()
    thread.join(30)
    server.server_close()


def end_run(context: Context, run_id: str, failed: int = 0) -> None:
    """As if all of it had been read: three pages, one of them blank."""
    values = {"id": parse_id(RUN, run_id), "done": 3 - failed, "failed": failed}
    with context.db.transaction() as tx:
        tx.execute(text("DELETE FROM queue WHERE id = :id"), {"id": values["id"]})
        tx.execute(
            text("UPDATE batches SET status = 'completed', completed_at = now(), total = 3, completed = :done, "
                 "failed = :failed WHERE id = :id"), values,
        )  # fmt: skip
        tx.execute(text("UPDATE runs SET finished_at = now(), pages_blank = 1, documents = 2, closed = 2, "
                        "files = '{\"report\": \"report.html\"}' WHERE id = :id"), {"id": values["id"]})  # fmt: skip


def test_a_schedule_from_its_file(run: Callable[..., Said]) -> None:
    made = run("schedules", "apply", "night.yaml")
    assert (made.status, "created  version 1  nightly" in made.out) == (0, True)
    assert "next: " in made.out
    again = run("schedules", "apply", "night.yaml", "--json").lines[0]
    assert (again["applied"], again["name"]) == ("unchanged", "nightly")
    assert "At 02:30 on Monday through Friday (Europe/Berlin)" in run("schedules", "list").out
    coming = run("schedules", "next", "nightly", "-n", 3, "--json").lines
    assert [one["local"][11:16] for one in coming] == ["02:30"] * 3
    assert run("schedules", "next", again["id"]).out.count("\n") == 5
    assert "paused" in run("schedules", "pause", "nightly").out
    assert run("schedules", "resume", "nightly", "--json").lines[0]["status"] == "enabled"
    begun = run("schedules", "run", "nightly", "--json").lines[0]
    assert (begun["status"], begun["schedule_id"]) == ("running", again["id"])
    refused = run("schedules", "run", "nightly")
    assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
    shown = run("schedules", "show", "nightly")
    assert begun["id"] in shown.out
    assert [one["id"] for one in run("runs", "list", "--schedule", "nightly", "--json").lines] == [begun["id"]]
    assert run("schedules", "delete", "nightly").out == f"{again['id']}  deleted\n"
    assert run("schedules", "show", "nightly").status == 1
    assert begun["id"] in run("runs", "list").out


def test_what_is_wrong_with_a_file_is_said_by_line(run: Callable[..., Said]) -> None:
    sound = Path("night.yaml").read_text()
    for change, told in (
        (("30 2 * * 1-5", "0 0 31 2 *"), "night.yaml, line 3: `timing.cron`"),
        (("Europe/Berlin", "Mars/Base"), "night.yaml, line 4: `timing.timezone`"),
        (("org/reader", "gone"), "night.yaml, line 9: No model named 'gone'"),
        (("{{ page }}", "{{ nobody }}"), "night.yaml, line 10: `pipeline.prompt` names 'nobody'"),
        (("  window: 5h\n", "  window: 5h\nwindow: 5h\n"), "night.yaml, line 6: `window`"),
        (("name: nightly", "name: [1"), "night.yaml, line "),
    ):
        Path("night.yaml").write_text(sound.replace(*change))
        said = run("schedules", "apply", "night.yaml")
        assert (said.status, said.out) == (1, "")
        assert told in said.err.replace("\n", " ")
    assert run("schedules", "list").out == ""
    assert run("schedules", "apply", "none.yaml").status == 2


def test_a_run_is_started_watched_and_steered(run: Callable[..., Said], context: Context) -> None:
    begun = run("runs", "start", "run.yaml", "--json").lines[0]
    assert (begun["status"], begun["name"], begun["spec"]["window"]) == ("running", "nightly", "5h")
    run_id = begun["id"]
    assert "paused" in run("runs", "pause", run_id).out
    assert run("runs", "resume", run_id, "--json").lines[0]["status"] == "running"
    assert run("runs", "documents", run_id).out == ""
    timer = threading.Timer(0.5, end_run, (context, run_id))
    timer.start()
    watched = run("runs", "watch", run_id)
    timer.join(30)
    assert watched.status == 0, watched.err
    assert "completed" in watched.out
    assert "2 of 3 pages read, 1 blank" in watched.out
    assert "report     report.html" in watched.out
    assert run("runs", "show", run_id, "--json").lines[0]["counts"]["pages"]["ok"] == 2
    assert run("runs", "cancel", run_id).status == 1
    again = run("runs", "retry", run_id, "--code", "engine_error")
    assert (again.status, "No document of this run failed" in again.err) == (1, True)


def test_a_run_with_failures_ends_with_another_status(run: Callable[..., Said], context: Context) -> None:
    run_id = run("runs", "start", "run.yaml", "--json").lines[0]["id"]
    end_run(context, run_id, failed=1)
    watched = run("runs", "watch", run_id, "--json")
    assert (watched.status, watched.lines[0]["status"]) == (3, "completed_with_errors")
    Path("two.yaml").write_text("---\n".join([Path("run.yaml").read_text()] * 2))
    two = run("runs", "start", "two.yaml")
    assert (two.status, "declares 2 runs" in two.err) == (1, True)


def test_one_act_on_many_jobs_is_asked_for_and_stopped(
    run: Callable[..., Said], app: OpenAPI, api_key: str, model: str
) -> None:
    asked = {"model": model, "messages": [{"role": "user", "content": "Read."}], "metadata": {"shift": "night"}}
    for _ in range(2):
        sent = app.test_client().post("/v1/jobs", json=asked, headers={"Authorization": f"Bearer {api_key}"})
        assert sent.status_code == 202
    assert run("acts", "start", "cancel").status == 2, "neither jobs nor conditions"
    assert run("acts", "start", "cancel", sent.json["id"], "--state", "queued").status == 2
    act = run("acts", "start", "cancel", "--state", "queued", "--class", "normal", "--yes", "--json").lines[0]
    assert (act["total"], act["search"]) == (2, {"status": "queued", "class": "normal"})
    assert "cancel  queued" in run("acts", "list").out
    assert "0 of 2 done" in run("acts", "show", act["id"]).out
    assert run("acts", "stop", act["id"], "--json").lines[0]["status"] == "cancelled"
    assert run("acts", "stop", act["id"]).status == 1
    assert run("acts", "start", "retry", "--all", "--yes").status == 1, "no job allows it"


def test_ctrl_c_leaves_a_run_running_and_says_how_to_go_on(
    run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = run("runs", "start", "run.yaml", "--json").lines[0]["id"]

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("batchinfer.client.runs.wait_for", interrupt)
        stopped = run("runs", "watch", run_id)
    assert stopped.status == 130
    assert f"batchinfer runs watch {run_id}" in stopped.err
    assert run("runs", "show", run_id, "--json").lines[0]["status"] == "running"


def test_templates_from_a_file_and_tried(run: Callable[..., Said], context: Context, monkeypatch: Any) -> None:
    Path("t.yaml").write_text("name: invoice\nprompt: Read page {{ page }}.\nnote: first\n")
    made = run("templates", "apply", "t.yaml")
    assert "created  version 1  invoice" in made.out
    Path("t.yaml").write_text("name: invoice\nprompt: |\n  Read.\n  {{ nobody }}\n")
    wrong = run("templates", "apply", "t.yaml")
    assert (wrong.status, "t.yaml, line 2" in wrong.err) == (1, True)
    Path("t.yaml").write_text("name: invoice\nprompt: Read it.\n")
    assert run("templates", "apply", "t.yaml", "--json").lines[0]["version"] == 2
    assert "version 2" in run("templates", "list").out
    shown = run("templates", "show", "invoice").out
    assert shown.index("Read it.") < shown.index("Read page {{ page }}.")
    Path("a.pdf").write_bytes(b"%PDF-1.7")

    def end_at_once(look: Any, *_: Any, **__: Any) -> Any:
        end_run(context, look(0).id, failed=1)
        return look(0)

    monkeypatch.setattr("batchinfer.client.runs.wait_for", end_at_once)
    tried = run("templates", "try", "invoice", "a.pdf", "--model", "org/reader", "--version", 1)
    assert tried.status == 3
    begun = run("runs", "list", "--json").lines[0]
    assert begun["id"] in tried.err
    declared = run("runs", "show", begun["id"], "--json").lines[0]
    assert declared["spec"]["pipeline"]["template"] == {"name": "invoice", "version": 1}
    assert declared["class"] == "interactive"
    assert run("templates", "delete", "invoice").status == 0
    assert run("templates", "list").out == ""
