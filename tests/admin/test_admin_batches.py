"""The pages of batches as a browser without JavaScript gets them: list, batch, acts, files, documents, review."""

from __future__ import annotations

import html
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text as sql

from batchinfer.domain import ids
from batchinfer.services import keys
from batchinfer.store.events import list_events
from tests.admin.stage_batches import BatchStage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flask.testing import FlaskClient

    from batchinfer.services.context import Caller, Context

HOSTILE = "<script>alert(1)</script> \u202egnp.exe"
NOWHERE = f"/admin/batches/batch_{'0' * 32}"


@pytest.fixture
def batches(stage: Any, tmp_path: Path) -> BatchStage:
    return BatchStage(stage, tmp_path)


@pytest.fixture
def reader(context: Context, caller: Caller, sign_in: Callable[[str], FlaskClient]) -> FlaskClient:
    """A browser whose key may only look."""
    return sign_in(keys.create_key(context, "reader", ["read"], tenant_id=caller.tenant_id)[1])


def show(batch: Any) -> str:
    return ids.show_id(ids.BATCH, batch.id)


def path(batch: Any, *more: str) -> str:
    return "/".join(["/admin/batches", show(batch), *more])


def rows(page: str) -> list[str]:
    return re.findall(r'<tr id="(batch_[0-9a-f]{32})">', page)


def read(page: Any) -> str:
    """What a page says, on one line."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.text)))


def test_an_empty_list_teaches_the_first_step(client: FlaskClient, reader: FlaskClient) -> None:
    page = client.get("/admin/batches")
    assert "No batch was made yet." in page.text
    assert "/admin/batches/new" in page.text
    assert "Once a model is ready" in page.text, "none is: there is nothing that could read the sample"
    assert "/admin/batches/new" not in reader.get("/admin/batches").text


def test_the_list_says_how_far_each_is(client: FlaskClient, batches: BatchStage) -> None:
    first, waiting = batches.start(6), batches.make(2, metadata={"team": "a"})
    batches.end(None, None, "engine_error")
    batches.end("out_of_memory", transient=True)
    page = client.get("/admin/batches")
    assert rows(page.text) == [show(waiting), show(first)]
    flat = read(page)
    assert "2 of 6 done, 1 failed , 1 retrying" in flat
    assert "the input is being checked" in flat
    assert 'aria-label="2 done, 1 failed, 1 retrying, 2 to do"' in page.text
    assert "lines in a request" in flat


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", [3, 2, 1, 0]), ("state=in_progress", [3, 0]), ("state=paused", [1]), ("state=failed", [2]),
     ("kind=lines", [2, 1, 0]), ("kind=run", [3]), ("kind=schedule", []), ("model=reader", [3, 1, 0]),
     ("model=other", []), ("model=%00", []), ("from=2020-01-01&to=2099-01-01", [3, 2, 1, 0]), ("to=2020-01-01", []),
     ("from=9999-12-31&to=9999-12-31", [])],
)  # fmt: skip
def test_filters_are_in_the_address(client: FlaskClient, batches: BatchStage, query: str, expected: list[int]) -> None:
    made = [batches.start(2), batches.start(2), batches.start(lines=[b"no json\n"])]
    client.post(path(made[1], "pause"))
    made.append(batches.run([1]))
    assert rows(client.get(f"/admin/batches?{query}").text) == [show(made[place]) for place in expected]


@pytest.mark.parametrize("query", ["state=done", "kind=x", "from=today", "to=2026-02-31", "before=x", "after=batch_"])
def test_a_filter_that_cannot_be_says_so(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/admin/batches?{query}")
    assert answer.status_code == 400
    assert query.split("=", maxsplit=1)[0] in answer.text


def test_pages_of_the_list_follow_keys_both_ways(
    client: FlaskClient, batches: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchinfer.admin.batches.ROWS", 2)
    made = [show(batches.make(1)) for _ in range(5)][::-1]
    first = client.get("/admin/batches?state=validating").text
    assert rows(first) == made[:2]
    second = client.get(link(first, "next")).text
    assert rows(second) == made[2:4]
    last = client.get(link(second, "next")).text
    assert rows(last) == made[4:]
    assert 'rel="next"' not in last
    assert rows(client.get(link(last, "prev")).text) == made[2:4]


def link(page: str, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"]+)"', page)
    assert found is not None
    return html.unescape(found[1])


def test_a_batch_says_why_its_lines_failed(client: FlaskClient, batches: BatchStage) -> None:
    made = batches.start(6)
    batches.end("json_invalid", "engine_error", "json_invalid", None)
    page = client.get(path(made))
    causes = re.findall(r'<li id="cause-\d">.*?</li>', page.text, re.DOTALL)
    assert [re.findall(r"<code>(\w+)</code>", cause) for cause in causes] == [["json_invalid"], ["engine_error"]]
    assert "It ended with json_invalid." in causes[0]
    assert "<b>2</b>" in causes[0]
    assert "page-1" in causes[0], "the first line of them, as its owner named it"
    assert re.search(r'href="/admin/jobs/job_[0-9a-f]{32}"', causes[0])
    assert "once the batch has ended" in causes[0]
    assert f"/admin/jobs?batch={show(made)}&amp;state=failed" in page.text
    chart = re.search(
        r'<tbody>\s*<tr>\s*<th scope="row">[^<]+</th>\s*<td class="num">(\d+)</td>\s*<td class="num">(\d+)', page.text
    )
    assert chart is not None
    assert chart.groups() == ("1", "3"), "what ended in this minute"


def test_a_batch_that_writes_its_files_says_so(client: FlaskClient, batches: BatchStage) -> None:
    made = batches.start(2)
    batches.end(None, "engine_error")
    page = client.get(path(made))
    assert "Every line has ended." in page.text
    assert re.search(r'<li class="current" aria-current="step">.*?Write the files', page.text, re.DOTALL)
    assert "data-final" not in page.text
    batches.finish()
    over = client.get(path(made))
    assert "data-final" in over.text
    for name, start in (("output", b'{"id":"batch_req_'), ("errors", b'{"id":"batch_req_'), ("input", b'{"custom_id"')):
        assert path(made, "files", name) in over.text
        answer = client.get(path(made, "files", name))
        assert answer.data.startswith(start)
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{show(made)}_{name}.jsonl"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get(path(made, "files", "report.html")).status_code == 404


def test_a_bad_input_is_told_line_by_line(client: FlaskClient, batches: BatchStage) -> None:
    good = json.dumps({"model": "reader", "messages": [{"role": "user", "content": "x"}]}).encode() + b"\n"
    made = batches.start(lines=[good, b"<b>no json\n", good.replace(b"reader", b"nobody<i>")])
    flat = read(client.get(path(made)))
    assert "Faults of the input" in flat
    assert re.search(r"\b2 The line is not valid JSON", flat) or " 2 " in flat
    assert "No model named 'nobody<i>'" in flat
    assert "<i>" not in client.get(path(made)).text.split("Faults of the input")[1].split("</section>")[0]


def test_failed_lines_are_tried_again_all_or_by_cause(client: FlaskClient, batches: BatchStage) -> None:
    made = batches.start(4)
    batches.end("json_invalid", "engine_error", "json_invalid", None)
    batches.finish()
    question = client.get(path(made, "retry") + "?code=json_invalid")
    assert "Try 2 lines again" in question.text
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', question.text))
    answer = client.post(path(made, "retry") + "?code=json_invalid", data=form)
    assert answer.status_code == 303
    assert client.post(path(made, "retry"), data=form).location == answer.location, "pressed twice, it acts once"
    batches.work("read")
    again = client.get(answer.location)
    assert "retry of a batch" in again.text
    assert f"/admin/batches/{show(made)}" in again.text
    assert batches.look(ids.parse_id(ids.BATCH, answer.location.rsplit("/", 1)[1])).counts.total == 2
    assert "Try 3 lines again" in client.get(path(made, "retry")).text


def test_a_batch_is_paused_resumed_and_gets_another_class(
    client: FlaskClient, batches: BatchStage, context: Context
) -> None:
    made = batches.start(3)
    assert client.post(path(made, "pause")).status_code == 303
    page = read(client.get(path(made)))
    assert "It is paused." in page
    assert "By the key" in page
    assert "Nothing is said of its end while it stands still." in page
    assert client.post(path(made, "resume")).status_code == 303
    assert "It is paused." not in client.get(path(made)).text.replace("It is paused: what", "")
    client.post(path(made, "class"), data={"class": "interactive"})
    assert batches.look(made.id).job_class == "interactive"
    assert client.post(path(made, "class"), data={"class": "<b>"}).status_code == 400
    with context.db.transaction() as tx:
        assert [event.event for event in list_events(tx, made.tenant_id, made.id)] == ["paused", "resumed", "reclassed"]


def test_a_batch_is_cancelled_after_a_question_and_only_once(client: FlaskClient, batches: BatchStage) -> None:
    made = batches.start(3)
    batches.end(None)
    question = read(client.get(path(made, "cancel")))
    assert "2 lines have not ended and are cancelled. 1 are kept" in question
    assert client.post(path(made, "cancel")).status_code == 303
    batches.finish()
    assert batches.look(made.id).status == "cancelled"
    other = batches.start(1)
    batches.end(None)
    batches.finish()
    stale = client.post(path(other, "cancel"))
    assert stale.status_code == 400
    assert "has already ended as completed" in html.unescape(stale.text)
    for act in ("pause", "resume"):
        assert client.post(path(other, act)).status_code == 400
    assert client.post(path(other, "again")).status_code == 400, "it is no run"
    assert client.post(path(other, "sample"), data={"size": "3"}).status_code == 400


def test_a_key_that_may_only_read_sees_no_button_and_cannot_act(
    reader: FlaskClient, client: FlaskClient, batches: BatchStage
) -> None:
    made, run = batches.start(2), batches.run([3], sample=1)
    batches.end(None, "engine_error", None)
    batches.finish()
    batches.finish_run()
    job = reader.get(path(run, "review")).location
    for address in ("/admin/batches", path(made), path(run), path(run, "documents"), job):
        page = reader.get(address)
        assert page.status_code == 200
        assert re.findall(r'<form[^>]*method="post"[^>]*action="([^"]+)"', page.text) == ["/admin/sign-out"]
        assert "data-dialog" not in page.text
    acts = [path(made, act) for act in ("pause", "resume", "cancel", "retry")] + [
        path(run, "again"), path(run, "seal"), job, f"{job}/golden", "/admin/batches/sample",
        "/admin/batches/new/lines", "/admin/batches/new/documents", "/admin/batches/new/discard",
    ]  # fmt: skip
    for act in acts:
        body = {"file": f"file-{'0' * 32}", "answer": "x", "verdict": "right"}
        assert reader.post(act, data=body).status_code == 403, act
    assert reader.post(path(made, "class"), data={"class": "batch"}).status_code == 403
    assert reader.post(path(run, "sample"), data={"size": "2"}).status_code == 403
    assert reader.get("/admin/batches/new").status_code == 403
    assert reader.get(path(made, "cancel")).status_code == 403


def test_nobody_sees_another_ones_batch(client: FlaskClient) -> None:
    for address in ("", "/retry", "/cancel", "/files/output", "/documents", "/review", "/report"):
        assert client.get(NOWHERE + address).status_code == 404
    assert client.post(NOWHERE + "/pause").status_code == 404
    assert client.get("/admin/batches/batch_x").status_code == 404


def test_hostile_words_stay_text(client: FlaskClient, batches: BatchStage, context: Context) -> None:
    lines = [json.dumps({"custom_id": HOSTILE, "model": "reader", "messages": [{"role": "user", "content": "x"}]})]
    made = batches.start(lines=[line.encode() + b"\n" for line in lines], metadata={HOSTILE: HOSTILE * 9})
    batches.end("engine_error")
    with context.db.transaction() as tx:
        tx.execute(sql("UPDATE jobs SET error = jsonb_set(error, '{message}', to_jsonb(CAST(:text AS text)))"),
                   {"text": HOSTILE + "y" * 100_000})  # fmt: skip
    run = batches.run([1], names=[HOSTILE + ".png"], name=HOSTILE[:60])
    for address in ("/admin/batches", path(made), path(run), path(run, "documents")):
        page = client.get(address)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "\u202e" not in page.text
        assert len(page.text) < 80_000


def test_a_run_shows_its_documents_report_and_causes(client: FlaskClient, batches: BatchStage) -> None:
    run = batches.run([3, 4, 5], sample=2, name="nightly")
    batches.end(None, "json_invalid", None, answer='{"total": "12.50"}')
    batches.finish_run()
    page = client.get(path(run))
    flat = read(page)
    assert "nightly" in flat
    assert "run over documents" in flat
    assert "completed_with_errors" in flat
    assert re.search(r"page 1 of\s+scan-004.png", flat)
    assert re.search(r'<li id="cause-1">\s*<a class="thumb"', page.text), "a picture of the example"
    assert "Review the sample" in flat
    documents = client.get(path(run, "documents"))
    assert re.findall(r"scan-00\d\.png", read(documents)) == ["scan-003.png", "scan-004.png", "scan-005.png"]
    failed = read(client.get(path(run, "documents") + "?outcome=failed"))
    assert re.findall(r"scan-00\d\.png", failed) == ["scan-004.png"]
    assert client.get(path(run, "documents") + "?outcome=x").status_code == 400
    report = client.get(path(run, "report"))
    assert "sandbox" in report.headers["Content-Security-Policy"]
    assert "default-src 'none'" in report.headers["Content-Security-Policy"]
    assert json.loads(client.get(path(run, "files", "report.json")).data)["object"] == "run.report"
    question = client.get(path(run, "again"))
    mark = re.search(r'name="once" value="([^"]+)"', question.text)
    assert mark is not None
    again = client.post(path(run, "again"), data={"once": mark[1]})
    assert again.status_code == 303
    assert again.location != path(run)
    assert client.post(path(run, "retry")).status_code == 303, "what failed of it is read again"


def test_a_run_that_stopped_itself_says_why(client: FlaskClient, batches: BatchStage) -> None:
    run = batches.run([1, 2, 3, 4], pipeline={"stop_after": {"share": 0.5, "pages": 2}})
    batches.end("json_invalid", "json_invalid")
    flat = read(client.get(path(run)))
    assert "It stopped itself." in flat
    assert "of the last 2 pages failed" in flat
    assert client.post(path(run, "resume")).status_code == 303
    assert "It stopped itself." not in client.get(path(run)).text


def test_a_sample_is_reviewed_page_by_page(client: FlaskClient, batches: BatchStage, context: Context) -> None:
    run = batches.run([3, 4, 5], sample=3)
    batches.end(None, None, None, answer='{"total": "12.50"}')
    batches.finish_run()
    first = client.get(path(run, "review"))
    assert first.status_code == 303
    page = client.get(first.location)
    flat = read(page)
    assert "Page 1 of 3 of the sample" in flat
    assert "None of the 3 pages of the sample is judged yet" in flat
    assert 'data-key="y"' in page.text
    assert 'data-key="n"' in page.text
    assert f"{first.location.replace('/admin/batches/' + show(run) + '/review', '/admin/jobs')}/images/0" in page.text
    second = client.post(first.location, data={"verdict": "right"}).location
    assert second != first.location
    flat = read(client.get(second))
    assert "100.0 % right" in flat
    assert "1 of 1 judged pages are right" in flat
    third = client.post(second, data={"verdict": "wrong", "note": HOSTILE}).location
    assert client.post(second, data={"verdict": ""}).location == second, "taken back, and there to be judged again"
    assert "1 of 1 judged" in read(client.get(third))
    assert client.post(second, data={"verdict": "wrong", "note": HOSTILE}).location == third
    assert client.post(third, data={"verdict": "right"}).location == path(run, "review")
    over = client.get(path(run, "review"))
    assert "Every page of the sample is judged" in over.text
    assert "2 of 3 judged pages are right" in read(over)
    assert "<script>alert" not in over.text
    kept = client.post(f"{third}/golden", data={"answer": '{"total": "12.51"}'})
    assert kept.status_code == 303
    with context.db.transaction() as tx:
        assert tx.execute(sql("SELECT answer FROM goldens")).scalar_one() == '{"total": "12.51"}'
    assert client.post(third, data={"verdict": "perhaps"}).status_code == 400
    assert client.get(path(run, "review", f"job_{'0' * 32}")).status_code == 404


def test_a_sample_is_drawn_from_the_page(client: FlaskClient, batches: BatchStage) -> None:
    run = batches.run([3, 4])
    assert client.post(path(run, "sample"), data={"size": "2"}).status_code == 409, "it has not ended"
    batches.end(None, None)
    batches.finish_run()
    assert "There is no sample yet" in client.get(path(run, "review")).text
    assert client.post(path(run, "sample"), data={"size": "many"}).status_code == 400
    drawn = client.post(path(run, "sample"), data={"size": "1"})
    assert "Page 1 of 1" in read(client.get(client.get(drawn.location).location))


def test_a_file_of_lines_is_checked_before_it_begins(client: FlaskClient, batches: BatchStage) -> None:
    line = json.dumps({"model": "reader", "messages": [{"role": "user", "content": "x"}]}).encode() + b"\n"
    said = {"endpoint": "/v1/jobs", "completion_window": "6h", "priority": "normal"}
    bad = client.post("/admin/batches/new/lines", data=said | {"lines": (io.BytesIO(line + b"{\n"), "in.jsonl")})
    assert "Faults 1" in read(bad)
    assert "/admin/batches/new/lines/start" not in bad.text
    found = client.post("/admin/batches/new/lines", data=said | {"lines": (io.BytesIO(line * 3), HOSTILE)})
    assert "Requests 3" in read(found)
    assert "not known: fewer than 20 jobs" in read(found)
    assert rows(client.get("/admin/batches").text) == [], "nothing has begun"
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', found.text))
    begun = client.post("/admin/batches/new/lines/start", data=form)
    assert begun.status_code == 303
    assert client.post("/admin/batches/new/lines/start", data=form).location == begun.location, "pressed twice"
    batches.work("read")
    made = batches.look(ids.parse_id(ids.BATCH, begun.location.rsplit("/", 1)[1]))
    assert (made.counts.total, made.completion_window, made.job_class) == (3, "6h", "normal")
    assert client.post("/admin/batches/new/lines", data=said).status_code == 400, "no file"


def test_documents_are_checked_before_they_begin(client: FlaskClient, batches: BatchStage) -> None:
    picture = b"\x89PNG\r\n\x1a\n"
    said = {"model": "reader", "prompt": "Extract.", "class": "normal", "name": "from the page"}

    def upload(**changes: str) -> Any:
        given = [(io.BytesIO(picture + b"1"), "a.png"), (io.BytesIO(picture + b"2"), "b.png")]
        return client.post("/admin/batches/new/documents", data=said | changes | {"documents": given})

    assert upload(model="").status_code == 400
    assert upload(prompt="{{ nothing }}").status_code == 400
    found = upload()
    assert "Files 2" in read(found)
    form: dict[str, Any] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', found.text.split("Throw")[0]):
        form.setdefault(name, []).append(html.unescape(value))
    form["file"] = form["file"][:2]
    begun = client.post("/admin/batches/new/documents/start", data=form)
    assert begun.status_code == 303
    batches.work("list")
    assert "from the page" in client.get(begun.location).text
    kept = re.findall(r'name="file" value="(file-[0-9a-f]{32})"', upload().text)[:2]
    assert client.post("/admin/batches/new/discard", data={"file": kept}).status_code == 303
    assert client.post("/admin/batches/new/discard", data={"file": kept}).status_code == 404


def test_documents_of_a_run_are_read_again_by_cause(client: FlaskClient, batches: BatchStage) -> None:
    run = batches.run([3, 4, 5, 6], name="nightly")
    batches.end(None, "engine_error", "worker_lost", "engine_error")
    question = path(run, "retry") + "?code=engine_error"
    assert client.get(question).status_code == 400, "it has not ended"
    batches.finish_run()
    assert question in client.get(path(run)).text
    asked = client.get(question)
    assert "Read 2 documents again" in asked.text
    (mark,) = re.findall(r'name="once" value="([^"]+)"', asked.text)
    form = {"once": mark, "code": "engine_error"}
    begun = client.post(path(run, "retry"), data=form)
    assert client.post(path(run, "retry"), data=form).location == begun.location, "pressed twice, it acts once"
    new = batches.look_run(ids.parse_id(ids.BATCH, begun.location.rsplit("/", 1)[1]))
    assert new.spec["source"]["files"] == [run.spec["source"]["files"][at] for at in (1, 3)]
    assert (new.name, new.spec["pipeline"]) == (run.name, run.spec["pipeline"])
    assert batches.work("list") == 1
    assert batches.look_run(new.id).counts.documents == 2
    answer = client.post(path(run, "retry"), data={"code": "out_of_memory"})
    assert (answer.status_code, "no_document_failed" in answer.text) == (400, True)


def test_a_sample_batch_begins_with_one_press(client: FlaskClient, batches: BatchStage, context: Context) -> None:
    assert client.post("/admin/batches/sample").status_code == 409, "no model is ready"
    make_ready(context, batches)
    for address in ("/admin/batches", "/admin/", "/admin/jobs"):
        assert "/admin/batches/sample" in client.get(address).text
    (newest,) = re.findall(r'name="newest" value="(\w*)"', client.get("/admin/batches").text)
    begun = client.post("/admin/batches/sample", data={"newest": newest})
    assert begun.status_code == 303
    assert client.post("/admin/batches/sample", data={"newest": newest}).location == begun.location, "pressed twice"
    assert batches.work("list") == 1
    run = batches.look_run(ids.parse_id(ids.BATCH, begun.location.rsplit("/", 1)[1]))
    assert run.counts.documents == 12
    assert run.spec["sample"] == {"size": 12}
    assert "sample batch" in client.get(begun.location).text


def make_ready(context: Context, batches: BatchStage) -> None:
    """A replica of the stage's model that serves."""
    from batchinfer.domain.ids import DEFAULT_TENANT, new_id

    with context.db.transaction() as tx:
        tx.execute(
            sql("""INSERT INTO replicas (id, tenant_id, worker, model, revision, engine, device, state, lease_id)
                   VALUES (:id, :tenant, 'model@stage', 'reader', '0', 'fake', 'cpu', 'ready', :lease)"""),
            {"id": new_id(), "tenant": DEFAULT_TENANT, "lease": batches.stage.leases["model"]},
        )
