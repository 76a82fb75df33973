"""Schedules and runs at the pages: in words, with their outcomes; run, paused, resumed, deleted, made and changed."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain import ids
from batchinfer.domain.runs import RunState
from batchinfer.services import audit, keys, runs, schedules
from batchinfer.store.audit import Wanted
from tests.night_stage import STATES, make_schedule, put_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flask.testing import FlaskClient

    from batchinfer.services.context import Caller, Context
    from batchinfer.settings import Settings

HOSTILE = "<script>alert(1)</script>\u202egnp"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"source_folders": str(tmp_path)})


@pytest.fixture
def make(context: Context, caller: Caller, tmp_path: Path) -> Callable[..., Any]:
    """Make a schedule."""
    return lambda name="nightly-invoices", **changes: make_schedule(context, caller, tmp_path, name, **changes)


@pytest.fixture
def reader(context: Context, caller: Caller, sign_in: Callable[[str], FlaskClient]) -> FlaskClient:
    """A browser with a key that may only read."""
    return sign_in(keys.create_key(context, "looks on", ["read"])[1])


def show(schedule: Any) -> str:
    return ids.show_id(ids.SCHEDULE, schedule.id)


def plain(page: Any) -> str:
    """The text of a page, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def acts(context: Context, caller: Caller) -> list[str]:
    """Audit rows about schedules, oldest first."""
    found = audit.list_acts(context, caller, Wanted(action="schedule")).data
    return [stored.act.action for stored in found][::-1]


def test_without_a_schedule_the_page_says_the_next_step(client: FlaskClient, reader: FlaskClient) -> None:
    assert "Make the first schedule" in client.get("/admin/schedules").text
    assert "Nothing has run." in client.get("/admin/runs").text
    looked = reader.get("/admin/schedules")
    assert "A key with the scope <code>submit</code> can make one." in looked.text
    assert "/admin/schedules/new" not in looked.text


def test_the_list_says_when_it_fires_and_how_it_went(
    client: FlaskClient, context: Context, caller: Caller, make: Callable[..., Any]
) -> None:
    schedule, paused = make(), make(HOSTILE)
    schedules.pause_schedule(context, caller, paused.id)
    for number, state in enumerate(STATES):
        put_run(context, schedule, state, nights_ago=20 - number)
    page = client.get("/admin/schedules")
    assert "At 02:30 on Monday through Friday (Europe/Berlin)" in page.text
    assert re.findall(r'class="o-(\w+)"', page.text) == list(STATES)
    assert "completed with errors, 1,180 of 1,204 pages well, 24 failed" in page.text
    assert "<script>alert" not in page.text
    assert "\u202e" not in page.text
    assert "never ran" in page.text
    chinese = client.get("/admin/schedules", headers={"Accept-Language": "zh-CN"}).text
    assert "星期一 到 星期五（Europe/Berlin）" in chinese
    assert re.findall(r'<tr id="(\w+)"', client.get("/admin/schedules?state=paused").text) == [show(paused)]
    assert re.findall(r'<tr id="(\w+)"', client.get("/admin/schedules?name=INVOICES").text) == [show(schedule)]
    assert "No schedule is like that." in client.get("/admin/schedules?name=%25").text
    assert client.get("/admin/schedules?state=on").status_code == 400


def test_the_page_of_one_is_found_by_id_and_by_name(
    client: FlaskClient, context: Context, make: Callable[..., Any]
) -> None:
    schedule = make()
    run_id = put_run(context, schedule, RunState.COMPLETED_WITH_ERRORS)
    for named in (show(schedule), schedule.name):
        page = client.get(f"/admin/schedules/{named}")
        assert page.status_code == 200
        text = plain(page)
        for words in ("30 2 * * 1-5", "Window 5 h 00 m, then expire", "Missed instants run once", "02:30 CE",
                      "Say what it says."):  # fmt: skip
            assert words in text, words
        assert ids.show_id(ids.BATCH, run_id) in page.text
    assert client.get("/admin/schedules/nothing").status_code == 404
    poll = client.get(f"/admin/schedules/{show(schedule)}", headers={"HX-Request": "true"})
    assert "<html" not in poll.text


def test_run_now_pressed_twice_from_one_page_is_one_run(
    client: FlaskClient, context: Context, caller: Caller, make: Callable[..., Any]
) -> None:
    schedule = make(timing={"cron": "30 2 * * *", "timezone": "UTC", "overlap": "queue"})
    address = f"/admin/schedules/{show(schedule)}"
    newest = re.findall(r'name="newest" value="(\w+)"', client.get(address).text)
    assert newest == ["none"]
    for _ in range(2):
        assert client.post(f"{address}/run", data={"newest": newest[0]}).status_code == 303
    (run,) = runs.list_runs(context, caller, schedule_id=schedule.id).data
    page = client.get(address)
    assert "That run had been started already." in page.text
    assert f'value="{ids.show_id(ids.RUN, run.id)}"' in page.text
    client.post(f"{address}/run", data={"newest": ids.show_id(ids.RUN, run.id)})
    assert len(runs.list_runs(context, caller, schedule_id=schedule.id).data) == 2
    assert acts(context, caller) == ["schedule.create", "schedule.run", "schedule.run"]


def test_a_run_that_works_refuses_another_with_a_way_back(
    client: FlaskClient, context: Context, make: Callable[..., Any]
) -> None:
    schedule = make()
    put_run(context, schedule, RunState.RUNNING)
    address = f"/admin/schedules/{show(schedule)}"
    answer = client.post(f"{address}/run", data={"newest": "x"}, headers={"Referer": f"http://localhost{address}"})
    assert answer.status_code == 409
    assert "still at work" in answer.text
    assert f'href="{address}"' in answer.text


def test_pause_resume_and_delete(
    client: FlaskClient, context: Context, caller: Caller, make: Callable[..., Any]
) -> None:
    schedule = make()
    address = f"/admin/schedules/{show(schedule)}"
    assert client.post(f"{address}/pause").status_code == 303
    page = client.get(address)
    assert "is paused: its instants pass." in page.text
    assert f"{address}/resume" in page.text
    assert f"{address}/pause" not in page.text
    assert client.post(f"{address}/resume").status_code == 303
    question = client.get(f"{address}/delete")
    assert "Delete the schedule nightly-invoices?" in question.text
    assert schedules.get_schedule(context, caller, schedule.id).name == schedule.name
    assert client.post(f"{address}/delete").headers["Location"] == "/admin/schedules"
    assert client.post(f"{address}/delete").status_code == 404  # a stale form
    assert client.get(address).status_code == 404
    assert acts(context, caller) == ["schedule.create", "schedule.pause", "schedule.resume", "schedule.delete"]


def test_a_key_that_only_reads_sees_no_button_and_may_press_none(
    reader: FlaskClient, context: Context, make: Callable[..., Any]
) -> None:
    schedule = make()
    put_run(context, schedule, RunState.COMPLETED)
    address = f"/admin/schedules/{show(schedule)}"
    for path in ("/admin/schedules", address, "/admin/runs"):
        main = reader.get(path).text.split("<main", 1)[1]
        assert 'method="post"' not in main
        assert "data-dialog" not in main
        assert "/edit" not in main
    for path in ("/run", "/pause", "/resume", "/delete", "/edit"):
        assert reader.post(address + path, data=fill(declare_form())).status_code == 403
    assert reader.get(f"{address}/edit").status_code == 403
    assert reader.get("/admin/schedules/new").status_code == 403
    assert reader.post("/admin/schedules/new", data=fill(declare_form())).status_code == 403


def declare_form(**changes: str) -> dict[str, str]:
    return {
        "name": "nightly", "cron": "0 3 * * *", "timezone": "Asia/Shanghai", "window": "", "jitter_seconds": "60",
        "misfire": "skip", "overlap": "queue", "at_deadline": "expire", "source": "", "sinks": "", "sample": "",
        "metadata": "team: accounts", "pipeline": "model: reader\nprompt: |-\n  Read.\n  Say.", "enabled": "on",
        **changes,
    }  # fmt: skip


def fill(form: dict[str, str], folder: object = "/nowhere") -> dict[str, str]:
    return {**form, "source": form["source"] or f"uri: {folder}"}


def test_a_schedule_is_made_and_changed_by_its_form(
    client: FlaskClient, context: Context, caller: Caller, tmp_path: Path, make: Callable[..., Any]
) -> None:
    make("another")
    assert 'value="30 2 * * 1-5"' in client.get("/admin/schedules/new").text
    answer = client.post("/admin/schedules/new", data=fill(declare_form(), tmp_path))
    assert answer.status_code == 303, plain(answer)
    schedule = schedules.find_schedule(context, caller, "nightly")
    assert schedule.declared == {
        "name": "nightly",
        "timing": {"cron": "0 3 * * *", "timezone": "Asia/Shanghai", "jitter_seconds": 60, "misfire": "skip",
                   "overlap": "queue", "at_deadline": "expire"},
        "source": {"uri": str(tmp_path)},
        "pipeline": {"model": "reader", "prompt": "Read.\nSay."},
        "metadata": {"team": "accounts"},
    }  # fmt: skip
    address = f"/admin/schedules/{show(schedule)}/edit"
    form = read_form(client.get(address).text)
    assert form["pipeline"].replace("\r\n", "\n") == "model: reader\nprompt: |-\n  Read.\n  Say.\n"
    assert client.post(address, data=form).status_code == 303
    assert schedules.get_schedule(context, caller, schedule.id).version == 1  # as it was: nothing changed
    assert client.post(address, data=form | {"metadata": "", "window": "4h"}).status_code == 303
    changed = schedules.get_schedule(context, caller, schedule.id)
    assert (changed.version, changed.declared["timing"]["window"], "metadata" in changed.declared) == (2, "4h", False)
    stale = client.post(address, data=form | {"name": "mine"})
    assert stale.status_code == 409
    assert "was changed meanwhile" in stale.text
    assert 'value="mine"' in stale.text
    assert acts(context, caller)[1:] == ["schedule.create", "schedule.change"]


def read_form(page: str) -> dict[str, str]:
    """What a browser would send of the form as it stands."""
    form = page.split('class="panel form', 1)[1]
    found = {
        name: html.unescape(value)
        for name, value in re.findall(r'<input type="\w+" name="(\w+)" value="([^"]*)"', form)
    }
    found |= {
        name: html.unescape(value)
        for name, value in re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>\n(.*?)</textarea>', form, re.DOTALL)
    }
    for name, options in re.findall(r'<select name="(\w+)"[^>]*>(.*?)</select>', form, re.DOTALL):
        (found[name],) = re.findall(r'value="(\w+)" selected', options)
    return found


#: Field, what was typed into it, the status of the answer, and what it says beside the field.
REFUSED = [
    ("name", "", 400, "`name` is missing"),
    ("cron", "61 2 * * *", 400, "`timing.cron`"),
    ("timezone", "Europe/Atlantis", 400, "not a time zone"),
    ("jitter_seconds", "soon", 400, "`timing.jitter_seconds`"),
    ("window", "5 hours", 400, "`timing.window`"),
    ("pipeline", "model: reader\nprompt: ok\nladder:\n  - {warmth: 3}", 400, "Line 4:"),
    ("pipeline", "model: nobody\nprompt: ok", 404, "nobody"),
    ("pipeline", "model: [", 400, "This cannot be read"),
    ("source", "uri: /etc", 400, "source"),
    ("sinks", "- &a {type: jsonl}\n- *a", 400, "aliases"),
    ("name", "another", 409, "There is a schedule named"),
    ("metadata", "team: " + "x" * 100_001, 400, "longer than 100000"),
    ("name", HOSTILE + "x" * 80, 400, "`name`"),
]


def test_what_is_refused_stays_as_it_was_typed_with_the_error_beside_it(
    client: FlaskClient, tmp_path: Path, make: Callable[..., Any]
) -> None:
    make("another")
    for field, typed, status, told in REFUSED:
        form = fill(declare_form(), tmp_path) | {field: typed}
        answer = client.post("/admin/schedules/new", data=form)
        assert answer.status_code == status, typed[:80]
        (beside,) = re.findall(r'<span class="wrong" id="wrong-(\w+)">', answer.text)
        assert beside == field
        assert told in plain(answer)
        assert "<script>alert" not in answer.text
        shown = read_form(answer.text)
        assert {name: shown[name].replace("\r\n", "\n").rstrip("\n") for name in form if name != "enabled"} == {
            name: value for name, value in form.items() if name != "enabled"
        }


def test_it_says_what_it_would_do_and_keeps_nothing(
    client: FlaskClient, context: Context, caller: Caller, tmp_path: Path, make: Callable[..., Any]
) -> None:
    make("another")
    (tmp_path / "one.pdf").write_bytes(b"%PDF-1.7")
    form = fill(declare_form(), tmp_path) | {"act": "preview", "source": f"uri: {tmp_path}\ninclude: ['*.pdf']"}
    answer = client.post("/admin/schedules/new", data=form)
    assert answer.status_code == 200
    assert "Documents 1" in plain(answer)
    assert "19:00:00 UTC" in plain(answer)  # 03:00 in Shanghai
    assert [one.name for one in schedules.list_schedules(context, caller).data] == ["another"]


def test_runs_are_filtered_by_the_address_and_paged_by_key(
    client: FlaskClient, context: Context, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchinfer.admin.runs.ROWS", 2)
    schedule, other = make(), make("other")
    put = [
        ids.show_id(ids.RUN, put_run(context, schedule, RunState.COMPLETED, nights_ago=9 - night)) for night in range(3)
    ]
    missed = ids.show_id(ids.RUN, put_run(context, other, RunState.MISSED))
    first = client.get("/admin/runs").text
    assert re.findall(r'<tr id="(\w+)"', first) == [missed, put[2]]
    (older,) = re.findall(r'rel="next" href="([^"]+)"', first)
    assert re.findall(r'<tr id="(\w+)"', client.get(html.unescape(older)).text) == [put[1], put[0]]
    for query, expected in (
        (f"schedule={show(other)}", [missed]), ("state=missed", [missed]), ("state=failed", []),
        ("from=2999-01-01", []), ("to=2001-01-01T10:00", []), ("from=2001-01-01&to=2999-01-01", [missed, put[2]]),
    ):  # fmt: skip
        assert re.findall(r'<tr id="(\w+)"', client.get(f"/admin/runs?{query}").text) == expected, query
    for query in ("state=over", "schedule=x", "from=yesterday", "to=2026-13-01", "after=run_1"):
        answer = client.get(f"/admin/runs?{query}")
        assert answer.status_code == 400, query
        assert query.split("=", maxsplit=1)[0] in answer.text


def test_the_report_of_a_run_is_a_page_in_a_sandbox(
    client: FlaskClient, context: Context, make: Callable[..., Any]
) -> None:
    run_id = put_run(context, make(HOSTILE), RunState.COMPLETED)
    answer = client.get(f"/admin/batches/{ids.show_id(ids.BATCH, run_id)}/report")
    assert answer.status_code == 200
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "<script>alert" not in answer.text
    assert client.get(f"/admin/batches/{ids.show_id(ids.BATCH, ids.new_id())}/report").status_code == 404
