"""Answers that serve again: a hit ends the job at once, exactly, for the same tenant and the same question alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from batchinfer.domain.batches import BatchState, parse_bulk
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobState
from batchinfer.domain.prompts import Limits, Upload, parse_form, parse_job
from batchinfer.domain.reuse import make_key
from batchinfer.services import batches, changes, documents, jobs, models, reading, repeats, sweeping, usage, work
from batchinfer.store.claims import INFER, PREPARE, READ, RENDER
from batchinfer.store.partitions import first_id

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "BJRU5ErkJggg=="
)
VERSIONS = {"batchinfer": "1", "engine": "transformers", "torch": "2.9"}
PICTURE = {"type": "image_url", "image_url": {"url": PNG}}


def body(content="hello", cache="reuse", **more):
    return {"model": "reader", "messages": [{"role": "user", "content": content}], "cache": cache, **more}


def submit(bench, content="hello", cache="reuse", **more):
    asked = parse_job(body(content, cache, **more), Limits.of(bench.ctx.settings))
    return jobs.submit(bench.ctx, bench.caller, asked)[0]


def answer(bench, told="read"):
    """Answer all that is ready; how many."""
    lease = bench.open("gpu")
    work.beat(bench.ctx, lease, {"versions": VERSIONS})
    claims = bench.claim(lease)
    work.complete_group(bench.ctx, lease, [bench.outcome(claim, told) for claim in claims])
    return len(claims)


def prepare(bench, sha256):
    """What a CPU worker does with the one job that has a picture: this is what the model sees."""
    lease = bench.open("cpu")
    (claim,) = bench.claim(lease, kinds=[PREPARE], model=None)
    (piece,) = work.load_claims(bench.ctx, [claim])
    normal = {"sha256": sha256, "media_type": "image/png", "width": 1, "height": 1}
    images = [{**image, "normal": normal} for image in piece.prompt["images"]]
    return lease, claim, images, work.mark_prepared(bench.ctx, lease, claim, images)


def check_ledger(bench):
    """Successes have one result each, counters say what the rows say, nothing waits."""
    with bench.ctx.db.transaction() as tx:
        succeeded, results, tokens = tx.execute(
            text(
                "SELECT (SELECT count(*) FROM jobs WHERE final_state = 'succeeded'), count(*),"
                " coalesce(sum(CAST(usage ->> 'completion_tokens' AS int)), 0) FROM results"
            )
        ).one()
    assert succeeded == results == bench.count("succeeded")
    assert tokens == bench.count("completion_tokens")
    assert bench.rows("queue", kind=INFER) == bench.rows("queue", kind=PREPARE) == []
    waiting = sum(row.jobs for row in bench.rows("backlog", tenant_id=bench.caller.tenant_id))
    assert waiting == 0


def test_the_same_question_again_is_answered_at_once_and_costs_nothing(bench):
    first = submit(bench)
    answer(bench, "the answer")
    bench.run("DELETE FROM leases")  # what a result says of its maker stays
    second = submit(bench, metadata={"mine": "1"})
    assert second.result["versions"] == VERSIONS
    assert (second.state, second.cached, second.attempts) == (JobState.SUCCEEDED, True, 0)
    assert second.result == bench.job(first.id).result
    assert (second.usage["total_tokens"], second.metadata) == (0, {"mine": "1"})
    assert not bench.job(first.id).cached
    assert bench.row("results", job_id=second.id).reused_from == first.id
    assert (bench.count("succeeded"), bench.count("reused"), bench.count("submitted")) == (2, 1, 2)
    assert bench.attempts(second.id) == []
    check_ledger(bench)


@pytest.mark.parametrize(
    "change",
    [
        {"content": "another"}, {"max_tokens": 7}, {"seed": 3}, {"stop": ["x"]}, {"logprobs": True},
        {"response_format": {"type": "json_object"}}, {"repetition_penalty": 1.1}, {"cache": "off"},
        {"cache": "refresh"}, {"cache": None},
    ],
)  # fmt: skip
def test_whatever_would_change_the_answer_or_asks_for_a_new_one_is_asked_anew(bench, change):
    submit(bench)
    answer(bench)
    assert submit(bench, **change).state is JobState.QUEUED


def test_answers_are_kept_only_where_it_was_asked_for(bench):
    submit(bench, cache="off")
    answer(bench)
    assert bench.rows("answers") == []
    assert submit(bench).state is JobState.QUEUED


def test_refresh_puts_a_new_answer_in_the_place_of_the_old(bench):
    submit(bench)
    answer(bench, "old")
    submit(bench, cache="refresh")
    answer(bench, "new")
    assert submit(bench).result["text"] == "new"
    assert len(bench.rows("answers")) == 1


def test_what_is_drawn_anew_each_time_is_reused_only_on_demand(bench):
    for _ in range(2):
        assert submit(bench, temperature=0.7).state is JobState.QUEUED
        answer(bench)
    assert bench.rows("answers") == []
    assert submit(bench, temperature=0.7, seed=5).state is JobState.QUEUED
    answer(bench)
    assert submit(bench, temperature=0.7, seed=5).cached, "with a seed it is always the same"
    submit(bench, cache="reuse_any", temperature=0.7)
    answer(bench)
    assert submit(bench, cache="reuse_any", temperature=0.7).cached
    assert submit(bench, temperature=0.7).state is JobState.QUEUED


def test_another_tenant_gets_nothing_of_it(bench):
    submit(bench)
    answer(bench)
    tenant_id = new_id()
    bench.run("INSERT INTO tenants (id, name) VALUES (:id, 'others')", id=tenant_id)
    mine, bench.caller = bench.caller, replace(bench.caller, tenant_id=tenant_id)
    assert submit(bench).state is JobState.QUEUED
    answer(bench, "theirs")
    assert submit(bench).result["text"] == "theirs"
    bench.caller = mine
    assert submit(bench).result["text"] == "read"


def test_another_revision_is_another_model(bench):
    submit(bench)
    answer(bench)
    models.register_model(bench.ctx, "reader", "/nowhere", "r2", {})
    assert submit(bench).state is JobState.QUEUED
    models.register_model(bench.ctx, "reader", "/nowhere", "r1", {})
    assert submit(bench).cached


def test_pictures_are_known_by_what_the_model_sees(bench):
    first = submit(bench, [PICTURE])
    lease, claim, images, ready = prepare(bench, "a" * 64)
    assert ready
    answer(bench, "seen")
    again = submit(bench, [PICTURE])
    assert again.state is JobState.PREPARING, "until its pixels are known"
    lease, claim, images, ended = prepare(bench, "a" * 64)
    assert ended
    found = bench.job(again.id)
    assert (found.state, found.cached, found.result["text"], found.attempts) == (JobState.SUCCEEDED, True, "seen", 0)
    assert found.result["versions"] == VERSIONS
    assert bench.attempts(again.id) == [(1, "succeeded")], "its preparing was tried, no model"
    assert not work.mark_prepared(bench.ctx, lease, claim, images), "the same call again is refused"
    other = submit(bench, [PICTURE])
    prepare(bench, "b" * 64)
    assert bench.job(other.id).state is JobState.QUEUED
    answer(bench)
    assert not bench.job(first.id).cached
    check_ledger(bench)


def test_who_lost_its_hold_ends_nothing(bench):
    submit(bench, [PICTURE])
    prepare(bench, "a" * 64)
    answer(bench)
    job = submit(bench, [PICTURE])
    lease = bench.open("cpu")
    (claim,) = bench.claim(lease, kinds=[PREPARE], model=None)
    (piece,) = work.load_claims(bench.ctx, [claim])
    images = [{**image, "normal": {"sha256": "a" * 64}} for image in piece.prompt["images"]]
    jobs.cancel_job(bench.ctx, bench.caller, job.id)
    assert not work.mark_prepared(bench.ctx, lease, claim, images)
    assert bench.job(job.id).state is JobState.CANCELLED
    check_ledger(bench)


def test_lines_of_a_batch_with_an_answer_end_as_they_are_read(bench):
    import json

    for content in ("a", "b"):
        submit(bench, content)
    answer(bench)
    rows = [body(content, None) for content in ("a", "b", "c")] + [body("a", "off")]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    request = parse_bulk({"batchinfer": {"cache": "reuse"}})
    batch, _ = batches.create_from_lines(bench.ctx, bench.caller, request, [lines])
    (claim,) = bench.claim(bench.open("cpu"), kinds=[READ], model=None)
    assert reading.read_batch(bench.ctx, claim, lambda action: action(), lambda: True)
    found = batches.get_batch(bench.ctx, bench.caller, batch.id)
    assert (found.counts.completed, found.cache_hits, found.counts.total) == (2, 2, 4)
    assert answer(bench) == 2
    found = batches.get_batch(bench.ctx, bench.caller, batch.id)
    assert (found.status, found.counts.completed, found.cache_hits) == (BatchState.FINALIZING, 4, 2)
    assert found.usage["input_tokens"] == 20, "of those that a model answered"
    check_ledger(bench)


def test_a_batch_of_nothing_but_known_answers_ends_with_its_reading(bench):
    import json

    submit(bench, "a")
    answer(bench)
    batch, _ = batches.create_from_lines(bench.ctx, bench.caller, parse_bulk({}), [json.dumps(body("a")).encode()])
    (claim,) = bench.claim(bench.open("cpu"), kinds=[READ], model=None)
    assert reading.read_batch(bench.ctx, claim, lambda action: action(), lambda: True)
    assert batches.get_batch(bench.ctx, bench.caller, batch.id).status is BatchState.FINALIZING
    assert [row.kind for row in bench.rows("queue")] == ["export"]


def test_pages_of_a_document_that_were_read_before_are_not_read_again(bench):
    def render(shas):
        form = {"model": "reader", "prompt": "read", "cache": "reuse"}
        asked = parse_form(
            form, [Upload(b"%PDF-1.7 " + str(shas).encode(), "a.pdf", "file")], Limits.of(bench.ctx.settings)
        )
        document, _ = jobs.submit(bench.ctx, bench.caller, asked)
        lease = bench.open("cpu")
        (claim,) = bench.claim(lease, kinds=[RENDER], model=None)
        pages = [work.PagePicture(number, sha * 64, "image/png", 1, 1) for number, sha in enumerate(shas, 1)]
        assert work.save_pages(bench.ctx, lease, claim, pages=pages, total=len(pages))
        assert work.finish_render(bench.ctx, lease, claim)
        return document.id

    render("ab")
    assert answer(bench) == 2
    second = render("acb")
    assert answer(bench) == 1, "the new page alone"
    found = documents.get_document(bench.ctx, bench.caller, second)
    assert (found.state, found.counts) == ("completed", {JobState.SUCCEEDED: 3})
    assert render("ab") != second
    assert answer(bench) == 0
    check_ledger(bench)


def test_the_same_question_many_times_in_one_group_is_kept_once(bench):
    for _ in range(5):
        submit(bench)
    lease = bench.open("gpu")
    claims = bench.claim(lease)
    halves = [claims[:3], claims[3:]]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda half: bench.complete(lease, half), halves))
    assert len(bench.rows("answers")) == 1
    assert submit(bench).cached
    check_ledger(bench)


def test_an_answer_that_was_dropped_serves_no_more(bench):
    first = submit(bench)
    answer(bench)
    bench.run("DELETE FROM results WHERE job_id = :id", id=first.id)
    assert submit(bench).state is JobState.QUEUED
    old = first_id((datetime.now(UTC) - timedelta(days=60)).date())
    bench.run("UPDATE answers SET job_id = :old", old=old)
    sweeping.drop_expired(bench.ctx)
    assert bench.rows("answers") == []


def test_the_key_is_of_what_decides_the_answer_and_of_nothing_else(bench):
    job = submit(bench, [PICTURE])
    prompt = bench.row("jobs", id=job.id).prompt
    assert make_key("reader", prompt) is None, "a picture is not normalised"

    def key(sha256="a" * 64, model="reader", **more):
        image = {**prompt["images"][0], "param": more.pop("param", "x"), "normal": {"sha256": sha256}}
        return make_key(model, {**prompt, "images": [image], **more})

    assert key() == key(param="y") == key(channel="z") == key(cache="off")
    assert len({key(), key("b" * 64), key(model="other"), key(max_tokens=9), key(messages=[])}) == 5


def test_a_deleted_answer_serves_nobody_and_one_that_served_is_usage_and_told(bench):
    first = submit(bench)
    answer(bench, "the answer")
    second = submit(bench)
    assert second.cached
    told = [(c.subject_id, c.state) for c in changes.list_changes(bench.ctx, bench.caller, None).data]
    assert told == [(first.id, "queued"), (first.id, "succeeded"), (second.id, "succeeded")]
    total = usage.read_usage(bench.ctx, bench.caller).total
    assert (total.jobs, total.completion_tokens) == (2, 5)
    repeats.delete_job(bench.ctx, bench.caller, first.id)
    assert bench.job(second.id).result["text"] == "the answer", "a copy is its own job's"
    third = submit(bench)
    assert third.state is JobState.QUEUED
    bench.run("INSERT INTO answers SELECT tenant_id, reuse_key, 'r1', id FROM jobs WHERE id = :id", id=first.id)
    assert submit(bench).state is JobState.QUEUED, "not even one that was found just before it was deleted"


def test_a_retry_takes_an_answer_that_came_meanwhile(bench):
    first = submit(bench)
    jobs.cancel_job(bench.ctx, bench.caller, first.id)
    submit(bench)
    answer(bench, "the answer")
    again, _ = repeats.retry_job(bench.ctx, bench.caller, first.id)
    assert (again.state, again.cached, again.origin_id) == (JobState.SUCCEEDED, True, first.id)
    check_ledger(bench)
