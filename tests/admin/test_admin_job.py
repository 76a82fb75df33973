"""The Job page: what is known of the answer, where the time went, and the acts, each with its audit or event row."""

from __future__ import annotations

import html
import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text as sql

from batchinfer.admin.judging import compare
from batchinfer.domain import ids
from batchinfer.domain.jobs import JobState, Usage
from batchinfer.services import jobs, keys, variants, work
from batchinfer.store.claims import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "number"}, "vendor": {"type": "string"}},
    "required": ["total", "vendor", "date"],
}
FORM = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": SCHEMA}}


def path(job: Any, act: str = "") -> str:
    return f"/admin/jobs/{ids.show_id(ids.JOB, job.id)}{act}"


def flat(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def answer_with(stage: Any, job: Any, text: str, probabilities: list[tuple[str, float]]) -> Any:
    """End a job with an answer whose tokens are known, in less time than a commit takes: some is left for storing."""
    claim = stage.claim(job)
    logprobs = [{"token": token, "logprob": math.log(p)} for token, p in probabilities]
    outcome = Outcome(
        claim.id, claim.attempt, text, "stop", Usage(prompt_tokens=8, completion_tokens=6), job.model, "rev7", "fake",
        {"prefill": 0.0002, "decoding": 0.0003, "rows": 2.0}, logprobs,
    )  # fmt: skip
    assert work.complete_group(stage.context, stage.leases["model"], [outcome]).completed == {job.id}
    return jobs.get_job(stage.context, stage.caller, job.id)


def test_an_answer_is_held_against_its_schema_and_names_the_wrong_fields(client: FlaskClient, stage: Any) -> None:
    wrong = stage.answer(stage.submit(response_format=FORM), '{"total": "12", "vendor": "Zorvex"}')
    page = client.get(path(wrong)).text
    assert "not of its schema" in page
    assert "breaks the rule type" in page
    missing = re.search(r'<tr class="missing">(.*?)</tr>', page, re.DOTALL)
    assert missing is not None
    assert "date" in flat(missing[1])
    right = stage.answer(stage.submit(response_format=FORM), '{"total": 12, "vendor": "Z", "date": "2026-03-01"}')
    page = client.get(path(right)).text
    assert "of its schema" in flat(page)
    assert "breaks the rule" not in page
    assert "schema" not in flat(client.get(path(stage.answer(stage.submit(), "{}"))).text)


def test_each_field_shows_how_sure_the_model_was(client: FlaskClient, stage: Any) -> None:
    tokens = [('{"total": ', 0.99), ("12", 0.4), (', "vendor": "', 0.99), ("Zorvex", 0.98), ('"}', 1.0)]
    job = answer_with(stage, stage.submit(), '{"total": 12, "vendor": "Zorvex"}', tokens)
    page = client.get(path(job)).text
    assert flat(page).count("confidence") >= 2
    assert page.count('class="sure low"') == 1
    assert "Least sure of total: 0.40" in flat(page)
    assert "rev7" in page


def test_the_waterfall_has_stages_with_times_and_rates(client: FlaskClient, stage: Any) -> None:
    job = stage.submit()
    stage.fail(job, "Once more.", transient=True)
    with stage.context.db.transaction() as tx:
        tx.execute(sql("UPDATE queue SET available_at = now()"))
    done = answer_with(stage, job, "Done.", [])
    page = flat(client.get(path(done)).text)
    for word in ("waiting", "prefill", "decoding", "storing", "in all", "Tokens/s"):
        assert word in page
    assert "2 times" in page, "it ran twice"
    live = stage.submit("Later.")
    page = client.get(path(live)).text
    assert 'aria-current="step"' in page
    assert "not reached" in page


def test_acts_are_shown_where_state_and_scope_allow_them(
    client: FlaskClient, stage: Any, sign_in: Callable[[str], FlaskClient]
) -> None:
    waiting, done = stage.submit(), stage.answer(stage.submit(), "Yes.")
    failed = stage.fail(stage.submit(), "No.")
    shown = {
        name: {act for act in ("cancel", "retry", "release", "delete", "change") if f'{act}"' in page}
        for name, page in (
            (name, "".join(re.findall(r'href="[^"]+"', client.get(path(job)).text)))
            for name, job in (("waiting", waiting), ("done", done), ("failed", failed))
        )
    }
    assert shown == {
        "waiting": {"cancel", "change"}, "done": {"delete", "change"}, "failed": {"retry", "delete", "change"},
    }  # fmt: skip
    reader = sign_in(keys.create_key(stage.context, "reader", ["read"])[1])
    assert "job-acts" not in reader.get(path(failed)).text
    for act in ("cancel", "retry", "release", "delete", "change"):
        assert reader.post(path(failed, f"/{act}")).status_code == 403


def test_cancel_retry_and_delete_ask_first_and_then_do_it(client: FlaskClient, stage: Any) -> None:
    job = stage.submit("Read.")
    asked = client.get(path(job, "/cancel"))
    assert "Cancel this job?" in asked.text
    assert jobs.get_job(stage.context, stage.caller, job.id).state is JobState.QUEUED
    assert client.post(path(job, "/cancel")).status_code == 303
    assert jobs.get_job(stage.context, stage.caller, job.id).state is JobState.CANCELLED
    again = client.post(path(job, "/retry"))
    assert again.status_code == 303
    new = client.get(again.location).text
    assert "This is the new job." in new
    assert "Repeats job" in new
    assert "Tried again as" in client.get(path(job)).text
    stale = client.post(path(job, "/retry"))
    assert stale.status_code == 409
    assert client.post(path(job, "/delete")).location == "/admin/jobs"
    assert client.get(path(job)).status_code == 404
    with stage.context.db.transaction() as tx:
        rows = tx.execute(sql("SELECT event, actor FROM events WHERE subject_id = :id"), {"id": job.id}).all()
    assert {"cancelled", "retried", "deleted"} <= {row.event for row in rows}
    assert all(row.actor == stage.caller.actor for row in rows if row.event != "submitted")


def test_a_quarantined_job_is_released_and_audited(client: FlaskClient, stage: Any) -> None:
    job = stage.fail(stage.submit("Read."), "Lost.")
    with stage.context.db.transaction() as tx:
        tx.execute(sql("UPDATE jobs SET final_state = 'quarantined' WHERE id = :id"), {"id": job.id})
    assert "/release" in client.get(path(job)).text
    assert client.post(path(job, "/release")).status_code == 303
    assert jobs.get_job(stage.context, stage.caller, job.id).state is JobState.QUEUED
    assert client.post(path(job, "/release")).status_code == 409, "a stale form"
    with stage.context.db.transaction() as tx:
        subjects = list(tx.execute(sql("SELECT subject FROM audit WHERE action = 'job.release'")).scalars())
    assert subjects == [ids.show_id(ids.JOB, job.id)]


def test_run_again_with_changes_takes_the_same_pictures(client: FlaskClient, stage: Any) -> None:
    job = stage.page_job(7, answer='{"total": 1, "vendor": "A"}')
    form = client.get(path(job, "/change")).text
    assert "Extract." in form
    answer = client.post(
        path(job, "/change"), data={"text": "Only\r\nthe total.", "model": "reader", "max_tokens": "9"}
    )
    assert answer.status_code == 303
    new = jobs.get_job(stage.context, stage.caller, ids.parse_id(ids.JOB, answer.location.rsplit("/", 1)[1]))
    assert new.prompt["max_tokens"] == 9
    assert variants.list_texts(new.prompt) == [("user", "Only\nthe total.")]
    assert new.prompt["images"][0]["sha256"] == job.prompt["images"][0]["normal"]["sha256"]
    assert new.metadata["changed_from"] == ids.show_id(ids.JOB, job.id)
    stage.prepare(new)
    stage.answer(new, '{"total": 2, "vendor": "A"}')
    page = client.get(path(new)).text
    assert "<del>" in page
    assert "<ins>" in page
    assert "What changed" in client.get(f"{path(job)}?against={answer.location.rsplit('/', 1)[1]}").text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("max_tokens", "many", "whole number"), ("max_tokens", "0", "max_tokens"), ("text", "", "ask nothing"),
     ("model", "", "model")],
)  # fmt: skip
def test_a_form_that_cannot_be_keeps_what_was_written(
    client: FlaskClient, stage: Any, field: str, value: str, says: str
) -> None:
    job = stage.submit("Read.")
    data = {"text": "Mine <b>.", "model": "reader", "max_tokens": "9"} | {field: value}
    answer = client.post(path(job, "/change"), data=data)
    assert answer.status_code == 400
    assert says in html.unescape(answer.text)
    if field != "text":
        assert "Mine &lt;b&gt;." in answer.text


def test_pictures_that_are_gone_are_told_of(client: FlaskClient, stage: Any) -> None:
    job = stage.page_job(7, answer="Seen.")
    for image in job.prompt["images"]:
        for name in {image["sha256"], image["normal"]["sha256"]}:
            stage.context.blobs.path(stage.caller.tenant_id, name).unlink()
    answer = client.post(path(job, "/change"), data={"text": "Read.", "model": "reader", "max_tokens": "9"})
    assert answer.status_code == 409
    assert "no longer kept" in answer.text


def test_hostile_answers_stay_text_in_every_part(client: FlaskClient, stage: Any) -> None:
    evil = "<script>alert(1)</script>\u202e"
    text = json.dumps({evil: evil, "x" * 5000: 1, "total": {"a" * 300: [evil]}})
    first = stage.answer(stage.submit(response_format=FORM), text)
    second = stage.answer(
        stage.submit(response_format=FORM, metadata={"changed_from": ids.show_id(ids.JOB, first.id)}),
        text.replace("alert", "confirm"),
    )
    page = client.get(path(second)).text
    assert "<script>alert" not in page
    assert "<script>confirm" not in page
    assert "\u202e" not in page
    assert client.get(path(second) + "?against=job_x").status_code == 404
    odd = stage.answer(stage.submit(metadata={"changed_from": evil}), "Fine.")
    assert client.get(path(odd)).status_code == 200


def test_answers_are_compared_by_lines_up_to_a_size() -> None:
    lines = compare('{"a": 1, "b": [1, 2]}', '{"a": 2, "b": [1, 2]}')
    assert lines is not None
    assert [line.text for line in lines if line.kind == "old"] == ['  "a": 1,']
    assert [line.text for line in lines if line.kind == "new"] == ['  "a": 2,']
    assert compare("same", "same") == []
    assert compare("x\n" * 5000, "y") is None
    assert compare("--- x", "+++ y") is not None
