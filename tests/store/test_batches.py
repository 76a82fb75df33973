"""Batches: read, counted, cancelled, expired and written, whatever is lost in between."""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from batchinfer.api.answers import show_completion, show_response
from batchinfer.domain.batch_answers import _completion, _response
from batchinfer.domain.batches import BatchState, parse_batch
from batchinfer.domain.ids import FILE, JOB, show_id
from batchinfer.domain.jobs import JobState
from batchinfer.domain.userfiles import FileRequest
from batchinfer.errors import BadRequest, NotFound
from batchinfer.services import batches, exporting, jobs, reading, sweeping, upkeep, userfiles, work
from batchinfer.store.claims import EXPORT, READ

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "BJRU5ErkJggg=="
)


def line(name, content="read", **more):
    body = {"model": "reader", "messages": [{"role": "user", "content": content}], **more.pop("body", {})}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body, **more}


def upload(bench, lines):
    raw = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in lines)
    request = FileRequest("in.jsonl", "batch", None)
    return userfiles.upload_file(bench.ctx, bench.caller, request, io.BytesIO(raw))[0]


def create(bench, lines, **more):
    file = upload(bench, lines)
    body = {"input_file_id": show_id(FILE, file.id), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return batches.create_batch(bench.ctx, bench.caller, parse_batch(body | more))[0]


def take(bench, kind, worker="cpu"):
    (claim,) = bench.claim(bench.open(worker), kinds=[kind], model=None)
    (piece,) = work.load_claims(bench.ctx, [claim])
    return piece.claim


def go(action):
    return action()


def read(bench, claim=None, wanted=lambda: True):
    return reading.read_batch(bench.ctx, claim or take(bench, READ), go, wanted)


def export(bench, tmp_path, claim=None):
    return exporting.export_batch(bench.ctx, claim or take(bench, EXPORT), tmp_path, go, lambda: True)


def look(bench, batch):
    return batches.get_batch(bench.ctx, bench.caller, batch.id)


def lines_of(bench, file_id):
    if file_id is None:
        return None
    _, pieces = userfiles.open_file(bench.ctx, bench.caller, file_id)
    return [json.loads(row) for row in b"".join(pieces).splitlines()]


def answer(bench, number, *, bad=0):
    lease = bench.open("gpu")
    claims = bench.claim(lease, number)
    good = claims[: len(claims) - bad]
    endings = [bench.ending(claim) for claim in claims[len(good) :]]
    return work.complete_group(bench.ctx, lease, [bench.outcome(claim) for claim in good], endings)


def test_a_batch_goes_its_whole_way(bench, tmp_path):
    batch = create(bench, [line("a"), b"", line("b"), line("c")], metadata={"k": "v"})
    assert (batch.status, batch.counts.total, batch.metadata) == (BatchState.VALIDATING, 0, {"k": "v"})
    assert read(bench)
    found = look(bench, batch)
    assert (found.status, found.counts.total, found.model) == (BatchState.IN_PROGRESS, 3, "reader")
    rows = sorted(bench.rows("jobs"), key=lambda row: row.line)
    assert [(row.line, row.custom_id, row.batch_id) for row in rows] == [
        (1, "a", batch.id), (3, "b", batch.id), (4, "c", batch.id)
    ]  # fmt: skip
    assert {row.expires_at for row in rows} == {found.expires_at}
    assert {row.kind for row in bench.rows("queue")} == {"infer"}
    answer(bench, 2)
    assert (look(bench, batch).status, look(bench, batch).counts.completed) == (BatchState.IN_PROGRESS, 2)
    assert bench.rows("queue", kind=EXPORT) == []
    answer(bench, 9, bad=1)
    found = look(bench, batch)
    assert (found.status, found.counts.completed, found.counts.failed) == (BatchState.FINALIZING, 2, 1)
    assert export(bench, tmp_path)
    found = look(bench, batch)
    assert found.status is BatchState.COMPLETED
    assert found.usage["input_tokens"] == 20
    assert found.usage["total_tokens"] == 30
    output, errors = lines_of(bench, found.output_file_id), lines_of(bench, found.error_file_id)
    assert [row["custom_id"] for row in output] == ["a", "b"], "in the order of the file"
    assert output[0]["response"]["status_code"] == 200
    assert output[0]["response"]["body"]["choices"][0]["message"]["content"] == "read"
    assert [(row["custom_id"], row["response"]["status_code"], row["error"]) for row in errors] == [("c", 500, None)]
    assert errors[0]["response"]["body"]["error"]["code"] == "went_wrong"
    assert bench.rows("queue") == []
    assert not list(tmp_path.glob("*-output")), "no scratch is left"
    kept = userfiles.get_file(bench.ctx, bench.caller, found.output_file_id)
    assert (kept.purpose, kept.filename) == ("batch_output", f"batch_{batch.id.hex}_output.jsonl")


def test_every_bad_line_is_told_and_no_job_is_made(bench):
    batch = create(
        bench,
        [
            line("a"), line("a"), b"{nope", line("b", method="GET"), line("c", url="/v1/responses"),
            line("d", body={"model": "nobody"}), line("e", body={"stream": True}), line("f", body={"temperature": 9}),
            {"method": "POST"}, line("x" * 257), line("g\n"),
            line("h", [{"type": "image_url", "image_url": {"url": "x"}}]),
            line("i", [{"type": "image_url", "image_url": {"url": "data:text/plain;base64,aGVsbG8="}}]), b"[]",
        ],
    )  # fmt: skip
    assert read(bench)
    found = look(bench, batch)
    assert (found.status, found.counts.total) == (BatchState.FAILED, 0)
    assert [(fault["line"], fault["code"], fault["param"]) for fault in found.errors] == [
        (2, "duplicate_custom_id", "custom_id"), (3, "invalid_json_line", None), (4, "invalid_method", "method"),
        (5, "mismatched_endpoint", "url"), (6, "model_not_found", "body.model"),
        (7, "unsupported_parameter", "body.stream"), (8, "invalid_value", "body.temperature"),
        (9, "missing_required_parameter", "custom_id"), (10, "invalid_value", "custom_id"),
        (11, "invalid_characters", "custom_id"),
        (12, "invalid_image_url", "body.messages.0.content.0.image_url.url"),
        (13, "unsupported_media_type", "body.messages.0.content.0.image_url.url"), (14, "invalid_json_line", None),
    ]  # fmt: skip
    assert all(fault["message"] for fault in found.errors)
    assert bench.rows("jobs") == []
    assert bench.rows("queue") == []


@pytest.mark.parametrize(
    ("lines", "change", "code"),
    [
        ([b"", b"  "], {}, "empty_file"),
        ([line("a"), line("b"), line("c")], {"max_batch_lines": 2}, "too_many_requests_in_file"),
        ([line("a")], {"max_batch_bytes": 10}, "file_too_large"),
        ([line("a", "x" * 3000)], {"max_body_bytes": 1024}, "line_too_large"),
        ([b"x"] * 130, {}, "invalid_json_line"),
    ],
)
def test_a_file_that_cannot_be_a_batch(bench, lines, change, code):
    bench.ctx = replace(bench.ctx, settings=bench.ctx.settings.model_copy(update=change))
    batch = create(bench, lines)
    assert read(bench)
    found = look(bench, batch)
    assert (found.status, found.errors[-1]["code"], found.counts.total) == (BatchState.FAILED, code, 0)
    assert len(found.errors) == (100 if len(lines) > 100 else 1)
    assert bench.rows("jobs") == []


def test_pictures_become_blobs_and_are_prepared(bench):
    create(bench, [line("a", [{"type": "image_url", "image_url": {"url": PNG}}]), line("b")])
    assert read(bench)
    assert {row.kind for row in bench.rows("queue")} == {"infer", "prepare"}
    (job,) = [row for row in bench.rows("jobs") if row.custom_id == "a"]
    assert bench.ctx.blobs.exists(job.tenant_id, job.prompt["images"][0]["sha256"])


def test_reading_goes_on_where_a_lost_worker_stopped(bench, monkeypatch):
    monkeypatch.setattr(reading, "GROUP_LINES", 2)
    batch = create(bench, [line(f"n{number}") for number in range(7)])
    first = take(bench, READ)
    saved = []

    def stop_after_two(action):
        if len(saved) == 3:  # the beginning and two groups
            return False
        saved.append(action())
        return saved[-1]

    assert not reading.read_batch(bench.ctx, first, stop_after_two, lambda: True)
    assert len(bench.rows("jobs")) == 4
    work.end_lease(bench.ctx, first.lease_id, "lost", clean=False)
    bench.make_due()
    second = take(bench, READ, "other")
    assert not reading.read_batch(bench.ctx, first, go, lambda: True), "the zombie is refused"
    assert read(bench, second)
    assert sorted(row.custom_id for row in bench.rows("jobs")) == [f"n{number}" for number in range(7)]
    assert bench.row("batches", id=batch.id).lines_read == 7
    assert bench.rows("queue", kind=READ) == []
    assert bench.count("submitted") == 7


def test_a_write_whose_answer_was_lost_is_made_once(bench):
    create(bench, [line("a"), line("b")])
    claim = take(bench, READ)

    def twice(action):
        action()
        return action()

    reading.read_batch(bench.ctx, claim, twice, lambda: True)
    assert sorted(row.custom_id for row in bench.rows("jobs")) == ["a", "b"]


def test_writing_is_done_anew_after_a_lost_worker_and_nothing_is_twice(bench, tmp_path):
    batch = create(bench, [line("a"), line("b")])
    read(bench)
    answer(bench, 9)
    first = take(bench, EXPORT)
    work.end_lease(bench.ctx, first.lease_id, "lost", clean=False)
    bench.make_due()
    second = take(bench, EXPORT, "other")
    assert not export(bench, tmp_path, first), "the zombie is refused"
    assert export(bench, tmp_path, second)
    found = look(bench, batch)
    assert [row["custom_id"] for row in lines_of(bench, found.output_file_id)] == ["a", "b"]
    assert len(bench.rows("files", purpose="batch_output")) == 1
    assert not export(bench, tmp_path, second), "once"


def test_all_failed_is_completed_without_an_output_file(bench, tmp_path):
    batch = create(bench, [line("a"), line("b")])
    read(bench)
    answer(bench, 9, bad=2)
    export(bench, tmp_path)
    found = look(bench, batch)
    assert (found.status, found.output_file_id, found.counts.failed) == (BatchState.COMPLETED, None, 2)
    assert len(lines_of(bench, found.error_file_id)) == 2


def test_cancelling_keeps_what_is_done(bench, tmp_path):
    batch = create(bench, [line("a"), line("b"), line("c")])
    read(bench)
    answer(bench, 1)
    assert batches.cancel_batch(bench.ctx, bench.caller, batch.id).status is BatchState.CANCELLING
    assert batches.cancel_batch(bench.ctx, bench.caller, batch.id).status is BatchState.CANCELLING, "twice is as once"
    assert len(bench.rows("queue", kind=EXPORT)) == 1
    assert export(bench, tmp_path)
    found = look(bench, batch)
    assert (found.status, found.counts.completed, found.counts.cancelled) == (BatchState.CANCELLED, 1, 2)
    assert [row["custom_id"] for row in lines_of(bench, found.output_file_id)] == ["a"]
    errors = lines_of(bench, found.error_file_id)
    assert [(row["custom_id"], row["response"], row["error"]["code"]) for row in errors] == [
        ("b", None, "batch_cancelled"), ("c", None, "batch_cancelled")
    ]  # fmt: skip
    assert batches.cancel_batch(bench.ctx, bench.caller, batch.id).status is BatchState.CANCELLED


def test_cancelling_while_it_is_read_tells_of_the_lines_that_were_no_jobs(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "GROUP_LINES", 2)
    batch = create(bench, [line(f"n{number}") for number in range(5)])
    claim = take(bench, READ)
    calls = []

    def cancel_after_one(action):
        calls.append(action())
        if len(calls) == 2:
            batches.cancel_batch(bench.ctx, bench.caller, batch.id)
        return calls[-1]

    assert not reading.read_batch(bench.ctx, claim, cancel_after_one, lambda: True)
    assert len(bench.rows("jobs")) == 2
    assert export(bench, tmp_path)
    found = look(bench, batch)
    assert (found.status, found.counts.total, found.counts.cancelled) == (BatchState.CANCELLED, 5, 5)
    assert [row["custom_id"] for row in lines_of(bench, found.error_file_id)] == [f"n{n}" for n in range(5)]


def test_a_batch_that_nobody_read_is_cancelled_at_once_and_an_ended_one_not(bench, tmp_path):
    batch = create(bench, [line("a")])
    found = batches.cancel_batch(bench.ctx, bench.caller, batch.id)
    assert (found.status, set(found.times)) == (BatchState.CANCELLED, {"cancelling_at", "cancelled_at"})
    assert bench.rows("queue") == []
    done = create(bench, [b"bad"])
    read(bench)
    with pytest.raises(BadRequest) as refused:
        batches.cancel_batch(bench.ctx, bench.caller, done.id)
    assert refused.value.code == "batch_not_cancellable"


def test_time_that_passes_expires_what_is_left(bench, tmp_path):
    batch = create(bench, [line("a"), line("b")])
    read(bench)
    answer(bench, 1)
    bench.run("UPDATE queue SET expires_at = now() - interval '1 second'")
    upkeep.tick(bench.ctx)
    assert export(bench, tmp_path)
    found = look(bench, batch)
    assert (found.status, found.counts.completed, found.counts.failed, found.counts.expired) == ("expired", 1, 0, 1)
    assert lines_of(bench, found.error_file_id)[0]["error"]["code"] == "batch_expired"
    unread = create(bench, [line("a")])
    bench.run("UPDATE batches SET expires_at = now() - interval '1 second' WHERE id = :id", id=unread.id)
    upkeep.tick(bench.ctx)
    assert look(bench, unread).status is BatchState.EXPIRED
    assert bench.rows("queue") == []


def test_upkeep_finishes_what_a_crash_left(bench, monkeypatch):
    batch = create(bench, [line("a"), line("b")])
    read(bench)
    answer(bench, 9)
    bench.run("DELETE FROM queue")
    upkeep.tick(bench.ctx)
    assert len(bench.rows("queue", kind=EXPORT)) == 1
    cut = create(bench, [line("a"), line("b"), line("c")])
    read(bench)
    monkeypatch.setattr(batches, "_GROUP", 1)
    monkeypatch.setattr(batches, "_AT_ONCE", 1)
    assert batches.cancel_batch(bench.ctx, bench.caller, cut.id).counts.cancelled == 1
    for _ in range(3):
        upkeep.tick(bench.ctx)
    assert look(bench, cut).counts.cancelled == 3
    assert {row.subject_id for row in bench.rows("queue", kind=EXPORT)} == {batch.id, cut.id}


def test_a_file_that_is_gone_breaks_the_batch(bench):
    batch = create(bench, [line("a")])
    bench.ctx.blobs.path(batch.tenant_id, bench.row("files").blob).unlink()
    claim = take(bench, READ)
    with pytest.raises(Exception, match="no longer in the store") as broken:
        read(bench, claim)
    work.fail(bench.ctx, claim.lease_id, [work.Ending(claim.id, claim.attempt, broken.value.as_dict())])
    found = look(bench, batch)
    assert (found.status, found.errors[0]["code"]) == (BatchState.FAILED, "blob_missing")


def test_counts_of_several_batches_and_a_line_ended_twice(bench):
    one, two = create(bench, [line("a"), line("b")]), create(bench, [line("a"), line("b")])
    for claim in bench.claim(bench.open("cpu"), kinds=[READ], model=None):
        read(bench, claim)
    lease = bench.open("gpu")
    claims = bench.claim(lease)
    bench.complete(lease, claims[:3])
    bench.complete(lease, claims[:3])
    counted = [look(bench, batch).counts for batch in (one, two)]
    assert sum(counts.completed for counts in counted) == 3
    job = jobs.get_job(bench.ctx, bench.caller, claims[3].subject_id)
    jobs.cancel_job(bench.ctx, bench.caller, job.id)
    counted = [look(bench, batch).counts for batch in (one, two)]
    assert (sum(counts.ended for counts in counted), sum(counts.cancelled for counts in counted)) == (4, 1)
    assert {look(bench, batch).status for batch in (one, two)} == {BatchState.FINALIZING}


def test_the_bodies_in_the_files_are_those_of_the_api(bench):
    create(bench, [line("a", body={"logprobs": True})])
    read(bench)
    answer(bench, 1)
    (row,) = bench.rows("jobs")
    job = jobs.get_job(bench.ctx, bench.caller, row.id)
    assert job.state is JobState.SUCCEEDED
    told = replace(job, result={**job.result, "logprobs": [{"token": "é", "logprob": -0.5}]})
    for given in (job, told):
        assert _completion(given) == show_completion(given).model_dump(mode="json"), show_id(JOB, job.id)
    shown = show_response(job).model_dump(mode="json")
    assert {name: shown[name] for name in _response(job)} == _response(job)


def test_blobs_of_files_are_kept_while_the_file_is_there(bench):
    kept, gone, used = (upload(bench, [line(name)]) for name in "abc")
    userfiles.delete_file(bench.ctx, bench.caller, gone.id)
    body = {"input_file_id": show_id(FILE, used.id), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batches.create_batch(bench.ctx, bench.caller, parse_batch(body))
    userfiles.delete_file(bench.ctx, bench.caller, used.id)
    bench.run("UPDATE blobs SET used_at = now() - interval '90 days'")
    for file in (kept, gone, used):
        os.utime(bench.ctx.blobs.path(file.tenant_id, file.blob), (0, 0))
    sweeping.sweep_blobs(bench.ctx)
    there = [bench.ctx.blobs.exists(file.tenant_id, file.blob) for file in (kept, gone, used)]
    assert there == [True, False, True], "a batch still reads the third"
    with pytest.raises(NotFound):
        userfiles.get_file(bench.ctx, bench.caller, used.id)
    assert read(bench)


def test_many_workers_that_end_lines_of_two_batches_count_each_once(bench):
    one, two = (create(bench, [line(f"n{number}") for number in range(40)]) for _ in range(2))
    for claim in bench.claim(bench.open("cpu"), kinds=[READ], model=None):
        read(bench, claim)
    leases = [bench.open(f"gpu-{number}") for number in range(4)]

    def end_some(lease):
        while claims := bench.claim(lease, 7):
            good = [bench.outcome(claim) for claim in claims[::2]]
            work.complete_group(bench.ctx, lease, good, [bench.ending(claim) for claim in claims[1::2]])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end_some, leases))
    for batch in (one, two):
        found = look(bench, batch)
        states = [row.final_state for row in bench.rows("jobs", batch_id=batch.id)]
        assert (found.status, found.counts.ended) == (BatchState.FINALIZING, 40)
        assert (found.counts.completed, found.counts.failed) == (states.count("succeeded"), states.count("failed"))
    assert len(bench.rows("queue", kind=EXPORT)) == 2
