"""The list of jobs: what its address asks for, rows that are ticked, acts on many jobs, and files."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain import ids
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.services import bulk_acts, bulk_work, jobs, keys, work

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

HOSTILE = "=cmd|' /C calc'!A0 <script>alert(1)</script> \u202egnp"


def show(job: Any) -> str:
    return ids.show_id(ids.JOB, job.id)


def rows(page: str) -> list[str]:
    return re.findall(r'<tr id="(job_[0-9a-f]{32})"', page)


def link(page: str, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"]+)"', page)
    assert found is not None
    return html.unescape(found[1])


def fail(stage: Any, number: int) -> list[Any]:
    return [stage.fail(stage.submit(f"Read {place}."), "No.") for place in range(number)]


def carry_out(stage: Any) -> None:
    """What a CPU worker does."""
    lease = stage.leases["cpu"]
    for claim in work.claim(stage.context, lease_id=lease, kinds=[work.ACT], model=None, limit=1):
        assert bulk_work.carry_out(stage.context, claim, lambda action: action(), lambda: True)


def confirm(client: FlaskClient, address: str) -> Any:
    """Press the button of a question; answers the redirect."""
    question = client.get(address)
    assert question.status_code == 200, question.text
    fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', question.text))
    return client.post(address, data=fields)


@pytest.fixture
def reader(context: Any, sign_in: Callable[[str], FlaskClient], api_key: str) -> FlaskClient:
    """A browser whose key may only look."""
    assert api_key
    return sign_in(keys.create_key(context, "looks", ["read"])[1])


@pytest.mark.parametrize(
    ("query", "expected"),
    [("class=batch", [1]), ("metadata=shift%3Dnight", [1, 2]), ("metadata=shift%3Dnight&metadata=line%3D2", [2]),
     ("q=wOrd%20two", [2]), ("q=an+Answer", [0]), ("q=%22quoted%22", [3]), ("q=100%25", [3]), ("q=_rd", []),
     ("q=word&state=queued", [2, 1]), ("class=batch&metadata=line%3D2", []), ("custom_id=none", [])],
)  # fmt: skip
def test_each_filter_is_in_the_address(client: FlaskClient, stage: Any, query: str, expected: list[int]) -> None:
    made = [
        stage.answer(stage.submit("First."), "Here is an ANSWER."),
        stage.submit("Word one.", job_class=JobClass.BATCH, metadata={"shift": "night"}),
        stage.submit("Word two.", metadata={"shift": "night", "line": "2"}),
        stage.submit('A "quoted" line of 100%.\nAnd one more.'),
    ]
    order = sorted(expected, reverse=True)
    assert rows(client.get(f"/admin/jobs?{query}").text) == [show(made[place]) for place in order]


def test_times_are_those_of_the_pages_zone(client: FlaskClient, stage: Any) -> None:
    job = stage.submit("Now.")
    at = job.created_at
    client.set_cookie("batchinfer_zone", "Asia/Shanghai", path="/admin")
    local = at + timedelta(hours=8)

    def ask(**around: int) -> list[str]:
        given = {name: (local + timedelta(minutes=value)).strftime("%Y-%m-%dT%H:%M") for name, value in around.items()}
        return rows(client.get("/admin/jobs", query_string=given).text)

    assert ask(**{"from": -2, "to": 2}) == [show(job)]
    assert ask(**{"from": 2}) == []
    assert ask(to=-2) == []
    page = client.get("/admin/jobs", query_string={"from": local.strftime("%Y-%m-%dT%H:%M")}).text
    assert f'value="{local:%Y-%m-%dT%H:%M}"' in page
    assert "Asia/Shanghai" in page


def test_a_batch_shows_its_lines_and_their_names(client: FlaskClient, stage: Any) -> None:
    batch = ids.new_id()
    job, other = stage.submit("Line one."), stage.submit("Elsewhere.")
    with stage.context.db.transaction() as tx:
        tx.exec_driver_sql(
            "UPDATE jobs SET batch_id = %s, line = 1, custom_id = 'page-1' WHERE id = %s", (batch, job.id)
        )
    address = f"/admin/jobs?batch={ids.show_id(ids.BATCH, batch)}"
    with stage.context.db.transaction() as tx:  # its jobs are made after a batch
        tx.exec_driver_sql("UPDATE jobs SET batch_id = %s WHERE id = %s", (ids.new_id(), other.id))
    assert rows(client.get(address).text) == [show(job)]
    assert rows(client.get(address + "&custom_id=page-1").text) == [show(job)]
    assert rows(client.get(address + "&custom_id=page-2").text) == []
    assert rows(client.get("/admin/jobs?custom_id=page-1").text) == [show(job)]


@pytest.mark.parametrize(
    "query",
    ["class=fast", "batch=x", "from=yesterday", "to=9999-99-99T00:00", "metadata=none",
     "from=2026-02-01T00:00&to=2026-01-01T00:00", "q=" + "x" * 201, "from=0001-01-01T00:00%2B23:59"],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/admin/jobs?{query}")
    assert answer.status_code == 400
    assert 'href="/admin/' in answer.text


def test_an_id_in_the_search_leads_to_its_job(client: FlaskClient, stage: Any) -> None:
    job = stage.submit()
    answer = client.get(f"/admin/jobs?q=+{show(job)}+")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/admin/jobs/{show(job)}")


def test_looking_stops_after_so_many_and_goes_on_from_there(
    client: FlaskClient, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [stage.submit("A needle."), *(stage.submit("Hay.") for _ in range(5)), stage.submit("A needle.")]
    monkeypatch.setattr("batchinfer.store.job_search.LOOKS_AT_TEXTS", 3)
    monkeypatch.setattr("batchinfer.admin.jobs.LOOKS_AT_TEXTS", 3)
    page = client.get("/admin/jobs?q=needle").text
    assert rows(page) == [show(wanted[-1])]
    assert "Looked at 3 jobs" in page
    second = client.get(link(page, "next")).text
    assert rows(second) == []
    assert "Look further" in second
    assert "No job is like that" not in second
    last = client.get(link(second, "next")).text
    assert rows(last) == [show(wanted[0])]
    assert 'rel="next"' not in last
    back = client.get(link(last, "prev")).text
    assert "Looked at 3 jobs" in back


def test_deleted_jobs_are_in_no_list_and_no_count(client: FlaskClient, stage: Any) -> None:
    kept, gone = fail(stage, 2)
    bulk_work.repeats.delete_job(stage.context, stage.caller, gone.id)
    page = client.get("/admin/jobs?state=failed").text
    assert rows(page) == [show(kept)]
    assert re.search(r"failed <span class=\"count\">1</span>", page)
    assert client.get("/admin/jobs.jsonl").text.count("\n") == 1


def test_rows_that_are_ticked_are_tried_again(client: FlaskClient, stage: Any) -> None:
    failed = fail(stage, 3)
    page = client.get("/admin/jobs?state=failed").text
    assert page.count('name="job" value="job_') == 3
    address = f"/admin/acts/new?reach=selected&verb=retry&job={show(failed[0])}&job={show(failed[2])}"
    assert "Try 2 jobs again?" in client.get(address).text
    done = confirm(client, address)
    assert done.status_code == 303
    where = done.headers["Location"]
    assert "It waits for a CPU worker" in client.get(where).text
    carry_out(stage)
    text = client.get(where).text
    assert "data-final" in text
    assert "2 of 2" in text
    assert jobs.get_job(stage.context, stage.caller, failed[0].id).retry_id is not None
    assert jobs.get_job(stage.context, stage.caller, failed[1].id).retry_id is None
    assert audited(stage) == [("jobs.retry", 2)]


def audited(stage: Any) -> list[tuple[str, int | None]]:
    with stage.context.db.transaction() as tx:
        found = tx.exec_driver_sql("SELECT action, data FROM audit WHERE action LIKE 'jobs.%%' ORDER BY id").all()
    return [(row.action, row.data.get("total")) for row in found]


def test_all_that_match_when_asked_are_cancelled_and_no_later_one(client: FlaskClient, stage: Any) -> None:
    waiting = [stage.submit(f"Wait {number}.", job_class=JobClass.BATCH) for number in range(4)]
    fail(stage, 2)
    address = "/admin/acts/new?reach=all&verb=cancel&class=batch"
    question = client.get(address).text
    assert "Cancel 4 jobs?" in question
    fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', question))
    later = stage.submit("Later.", job_class=JobClass.BATCH)
    done = client.post(address, data=fields)
    carry_out(stage)
    states = {job.id: jobs.get_job(stage.context, stage.caller, job.id).state for job in [*waiting, later]}
    assert [states[job.id] for job in waiting] == [JobState.CANCELLED] * 4
    assert states[later.id] == JobState.QUEUED
    page = client.get(done.headers["Location"]).text
    assert "4 of 4" in page
    assert "class=batch" in page
    assert done.headers["Location"].rsplit("/", 1)[-1] in client.get("/admin/acts").text


def test_what_matches_and_does_not_allow_it_is_told_apart(client: FlaskClient, stage: Any) -> None:
    fail(stage, 1)
    stage.submit("Wait.")
    question = client.get("/admin/acts/new?reach=all&verb=delete").text
    assert "Delete 1 job?" in question
    assert "1 more job matches" in question


def test_an_act_is_stopped_half_way(client: FlaskClient, stage: Any) -> None:
    fail(stage, 2)
    where = confirm(client, "/admin/acts/new?reach=all&verb=delete").headers["Location"]
    assert f'href="{where}/cancel"' in client.get(where).text
    assert confirm(client, f"{where}/cancel").status_code == 303
    page = client.get(where).text
    assert "s-cancelled" in page
    assert f"{where}/cancel" not in page
    assert client.post(f"{where}/cancel").status_code == 409
    assert audited(stage) == [("jobs.delete", 2), ("jobs.act.cancel", None)]


def test_a_key_that_may_only_look_sees_no_boxes_and_can_do_nothing(reader: FlaskClient, stage: Any) -> None:
    (failed,) = fail(stage, 1)
    page = reader.get("/admin/jobs").text
    assert rows(page) == [show(failed)]
    assert "checkbox" not in page
    assert 'id="bulk"' not in page
    address = f"/admin/acts/new?verb=retry&job={show(failed)}"
    assert reader.get(address).status_code == 403
    assert reader.post(address).status_code == 403
    act, _ = bulk_acts.ask_for(stage.context, stage.caller, bulk_acts.BulkVerb.RETRY, ids=[failed.id])
    where = f"/admin/acts/{ids.show_id(ids.BULK, act.id)}"
    assert f"{where}/cancel" not in reader.get(where).text
    assert reader.post(f"{where}/cancel").status_code == 403


def test_only_what_the_state_allows_is_offered(client: FlaskClient, stage: Any) -> None:
    fail(stage, 1)
    stage.submit("Wait.")

    def offered(query: str) -> list[str]:
        return re.findall(r'name="verb" value="(\w+)"', client.get(f"/admin/jobs{query}").text)

    assert offered("") == ["retry", "cancel", "delete"]
    assert offered("?state=failed") == ["retry", "delete"]
    assert offered("?state=queued") == ["cancel"]


@pytest.mark.parametrize(
    ("query", "status"),
    [("verb=retry", 400), ("verb=eat&reach=all", 400), ("verb=retry&job=x", 400),
     ("verb=retry&reach=all&state=queued", 400), ("verb=delete&reach=all&model=none", 400)],
)  # fmt: skip
def test_a_stale_or_wrong_form_is_answered_with_a_way_back(
    client: FlaskClient, stage: Any, query: str, status: int
) -> None:
    fail(stage, 1)
    for answer in (client.get(f"/admin/acts/new?{query}"), client.post(f"/admin/acts/new?{query}")):
        assert answer.status_code == status
        assert 'href="/admin/' in answer.text
    assert audited(stage) == []


def test_acts_that_are_not_there(client: FlaskClient) -> None:
    for path in ("x", ids.show_id(ids.BULK, ids.new_id())):
        assert client.get(f"/admin/acts/{path}").status_code == 404
        assert client.post(f"/admin/acts/{path}/cancel").status_code == 404
    assert "Nothing was done to many jobs at once yet." in client.get("/admin/acts").text


def test_hostile_texts_stay_text(client: FlaskClient, stage: Any) -> None:
    stage.answer(stage.submit(HOSTILE, metadata={"a": "b"}), HOSTILE)
    query = {"q": "<script>alert(1)</script>", "metadata": "<b>=\u202e", "custom_id": "<i>"}
    for path in ("/admin/jobs", "/admin/acts/new"):
        page = client.get(path, query_string={**query, "verb": "delete", "reach": "all"}).text
        assert "<script>alert" not in page
        assert "<b>=" not in page
    act = confirm(client, "/admin/acts/new?verb=delete&reach=all&q=%3Cscript%3E").headers["Location"]
    for path in (act, "/admin/acts"):
        page = client.get(path).text
        assert "&lt;script&gt;" in page
        assert "<script>a" not in page


def test_what_matches_comes_as_a_file(client: FlaskClient, stage: Any) -> None:
    job = stage.answer(stage.submit(HOSTILE, metadata={"k": "v"}), 'line one\nline two, "quoted"')
    fail(stage, 2)
    answer = client.get("/admin/jobs.jsonl?state=succeeded")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="jobs.jsonl"'
    (line,) = [json.loads(text) for text in answer.text.splitlines()]
    assert (line["id"], line["state"], line["prompt"]) == (show(job), "succeeded", HOSTILE)
    assert line["answer"] == 'line one\nline two, "quoted"'
    assert line["metadata"] == {"k": "v"}
    table = list(csv.DictReader(io.StringIO(client.get("/admin/jobs.csv").text)))
    assert [row["state"] for row in table] == ["failed", "failed", "succeeded"]
    assert table[2]["prompt"] == "'" + HOSTILE, "a spreadsheet takes it for no formula"
    assert table[0]["error_message"] == "No."
    assert client.get("/admin/jobs.xml").status_code == 404
    assert client.get("/admin/jobs.csv?state=x").status_code == 400


def test_a_file_has_every_page_and_ends_at_its_limit(
    client: FlaskClient, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [show(job) for job in fail(stage, 5)][::-1]
    monkeypatch.setattr("batchinfer.services.job_files._PAGE", 2)
    listed = [json.loads(text)["id"] for text in client.get("/admin/jobs.jsonl").text.splitlines()]
    assert listed == made
    monkeypatch.setattr("batchinfer.services.job_files.MOST_ROWS", 3)
    assert client.get("/admin/jobs.jsonl").text.count("\n") == 3
    assert "up to 3 jobs" in client.get("/admin/jobs").text


def test_tenants_see_their_own_alone(client: FlaskClient, stage: Any, context: Any, sign_in: Any) -> None:
    from batchinfer.store.keys import ensure_tenant

    other = ids.new_id()
    with context.db.transaction() as tx:
        ensure_tenant(tx, other, "others")
    _, token = keys.create_key(context, "theirs", ["read", "submit", "cancel"], tenant_id=other)
    stranger = sign_in(token)
    (failed,) = fail(stage, 1)
    where = confirm(client, "/admin/acts/new?verb=retry&reach=all").headers["Location"]
    assert rows(stranger.get("/admin/jobs?q=read").text) == []
    assert stranger.get("/admin/jobs.jsonl").text == ""
    assert stranger.get(where).status_code == 404
    assert stranger.post(f"{where}/cancel").status_code == 404
    assert stranger.get(f"/admin/acts/new?verb=retry&job={show(failed)}").status_code == 400
