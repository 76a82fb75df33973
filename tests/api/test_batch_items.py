"""A batch line by line over HTTP: items, causes of failures, retries that merge, and dry runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.jobs import Usage
from batchinfer.errors import BadRequest, Failure
from batchinfer.services import estimating, work
from batchinfer.store.claims import Ending, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

NDJSON = "application/x-ndjson"
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "BJRU5ErkJggg=="
)


def write(rows: list[Any]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def read_file(client: FlaskClient, file_id: str | None) -> list[str]:
    """The custom ids of a file's lines, in its order."""
    if file_id is None:
        return []
    return [json.loads(row)["custom_id"] for row in client.get(f"/v1/files/{file_id}/content").data.splitlines()]


@pytest.fixture
def start(client: FlaskClient, ask: Callable[..., dict[str, Any]], cpu: Any) -> Callable[..., str]:
    """A batch of so many lines named a, b, c ..., all of them jobs."""

    def make(number: int) -> str:
        rows = [{"custom_id": chr(97 + index), **ask(f"line {index}")} for index in range(number)]
        made = client.post("/v1/batches", data=write(rows), content_type=NDJSON)
        assert cpu.work_on(work.READ) == 1
        return str(made.json["id"])

    return make


@pytest.fixture
def end(context: Context, worker: Any, model: str) -> Callable[..., None]:
    """End the ready jobs in the order of their lines: a code of an error for each, or None for an answer."""

    def finish(*codes: str | None) -> None:
        claims = work.claim(context, lease_id=worker.lease_id, kinds=[work.INFER], model=model, limit=len(codes))
        claims = sorted(claims, key=lambda claim: claim.id)
        outcomes, endings = [], []
        for claim, code in zip(claims, codes, strict=True):
            if code is None:
                usage = Usage(prompt_tokens=3, completion_tokens=2)
                outcomes.append(Outcome(claim.id, claim.attempt, "done", "stop", usage, model, "rev1", "fake"))
            else:
                kind = BadRequest if code == "bad_messages" else Failure
                endings.append(Ending(claim.id, claim.attempt, kind(f"It was {code}.", code=code).as_dict()))
        work.complete_group(context, worker.lease_id, outcomes, endings)

    return finish


def finish_batch(client: FlaskClient, cpu: Any, batch_id: str) -> dict[str, Any]:
    assert cpu.work_on(work.EXPORT) == 1
    found: dict[str, Any] = client.get(f"/v1/batches/{batch_id}").json
    return found


def test_items_are_listed_in_order_by_pages_and_filtered(
    client: FlaskClient, start: Callable[..., str], end: Callable[..., None]
) -> None:
    path = f"/v1/batches/{start(5)}/items"
    end(None, "bad_messages", "not_a_number")
    whole = client.get(path).json["data"]
    assert [(item["line"], item["custom_id"], item["status"]) for item in whole] == [
        (1, "a", "succeeded"), (2, "b", "failed"), (3, "c", "failed"), (4, "d", "queued"), (5, "e", "queued")
    ]  # fmt: skip
    assert (whole[0]["error"], whole[1]["error"]["code"], whole[1]["error"]["type"]) == (
        None, "bad_messages", "invalid_request_error"
    )  # fmt: skip
    assert client.get(f"/v1/jobs/{whole[0]['job_id']}").json["result"]["text"] == "done"
    assert whole[0]["id"].removeprefix("batch_req_") == whole[0]["job_id"].removeprefix("job_")
    seen, after = [], ""
    while True:
        page = client.get(f"{path}?limit=2{after}").json
        seen += [item["custom_id"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == list("abcde")

    def names(query: str) -> list[str]:
        return [item["custom_id"] for item in client.get(f"{path}?{query}").json["data"]]

    assert names("status=failed") == ["b", "c"]
    assert names("status=queued") == ["d", "e"]
    assert names("code=not_a_number") == ["c"]
    assert names("custom_id=d") == ["d"]
    assert names("status=failed&custom_id=d") == []
    for after in ("batch_req_" + "0" * 32, "job_1", whole[0]["job_id"]):
        assert client.get(f"{path}?after={after}").json["error"]["code"] == "invalid_cursor"


def test_errors_are_grouped_by_their_cause(
    client: FlaskClient, start: Callable[..., str], end: Callable[..., None]
) -> None:
    batch_id = start(7)
    end("bad_messages", None, "generation_failed", "bad_messages", "not_a_number")
    client.post(f"/v1/batches/{batch_id}/cancel")
    causes = client.get(f"/v1/batches/{batch_id}/errors").json["data"]
    assert [(cause["code"], cause["class"], cause["count"], cause["retry_helps"]) for cause in causes] == [
        ("bad_messages", "request", 2, False), ("batch_cancelled", "cancelled", 2, True),
        ("generation_failed", "server", 1, True), ("not_a_number", "model_output", 1, True),
    ]  # fmt: skip
    assert causes[0]["example"] == {"line": 1, "custom_id": "a", "message": "It was bad_messages."}
    found = client.get(f"/v1/batches/{batch_id}/items?code=batch_cancelled").json["data"]
    assert [item["custom_id"] for item in found] == ["f", "g"]


def test_a_bad_file_has_causes_too(client: FlaskClient, ask: Callable[..., dict[str, Any]], cpu: Any) -> None:
    rows = [ask(), b"{nope", {**ask(), "colour": 1}, b"[]"]
    batch_id = client.post("/v1/batches", data=write(rows), content_type=NDJSON).json["id"]
    cpu.work_on(work.READ)
    causes = client.get(f"/v1/batches/{batch_id}/errors").json["data"]
    assert [(cause["code"], cause["count"], cause["example"]["line"]) for cause in causes] == [
        ("invalid_json_line", 2, 2), ("unknown_parameter", 1, 3)
    ]  # fmt: skip
    assert client.post(f"/v1/batches/{batch_id}/retry").json["error"]["code"] == "nothing_to_retry"


def test_only_the_failed_lines_run_again_and_the_output_holds_both(
    client: FlaskClient, start: Callable[..., str], end: Callable[..., None], cpu: Any
) -> None:
    first = start(4)
    end(None, "generation_failed", None, "generation_failed")
    refused = client.post(f"/v1/batches/{first}/retry")
    assert refused.json["error"]["code"] == "batch_not_retryable", "it has not ended"
    finish_batch(client, cpu, first)
    made = client.post(f"/v1/batches/{first}/retry", headers={"Idempotency-Key": "once"})
    assert made.status_code == 200
    again = client.post(f"/v1/batches/{first}/retry", headers={"Idempotency-Key": "once"})
    assert (again.json["id"], again.headers["Idempotency-Replayed"]) == (made.json["id"], "true")
    second = made.json["id"]
    assert made.json["batchinfer"]["parent_id"] == first
    cpu.work_on(work.READ)
    assert [item["line"] for item in client.get(f"/v1/batches/{second}/items").json["data"]] == [2, 4]
    end(None, "bad_messages")
    done = finish_batch(client, cpu, second)
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert (done["status"], done["batchinfer"]["merged"]) == ("completed", 2)
    assert read_file(client, done["output_file_id"]) == ["a", "b", "c"], "in the order of the file"
    assert read_file(client, done["error_file_id"]) == ["d"]
    third = client.post(f"/v1/batches/{second}/retry", json={"only": ["failed"], "metadata": {"try": "3"}}).json
    assert (third["metadata"], third["completion_window"]) == ({"try": "3"}, "24h")
    cpu.work_on(work.READ)
    end(None)
    last = finish_batch(client, cpu, third["id"])
    assert read_file(client, last["output_file_id"]) == ["a", "b", "c", "d"], "of all three"
    assert last["error_file_id"] is None
    assert client.post(f"/v1/batches/{third['id']}/retry").json["error"]["code"] == "nothing_to_retry"


def test_a_retry_may_pick_its_lines_and_leave_the_others(
    client: FlaskClient, start: Callable[..., str], end: Callable[..., None], cpu: Any
) -> None:
    first = start(4)
    end(None, "generation_failed", "generation_failed", "generation_failed")
    finish_batch(client, cpu, first)
    body = {"custom_ids": ["c", "a", "nobody"], "merge": False, "completion_window": "2h"}
    second = client.post(f"/v1/batches/{first}/retry", json=body).json
    assert second["expires_at"] - second["created_at"] == 7200
    cpu.work_on(work.READ)
    end(None)
    done = finish_batch(client, cpu, second["id"])
    assert read_file(client, done["output_file_id"]) == ["c"], "the others are not taken over"
    assert (done["error_file_id"], done["batchinfer"]["merged"]) == (None, 0)
    merged = client.post(f"/v1/batches/{first}/retry", json={"custom_ids": ["c"]}).json
    cpu.work_on(work.READ)
    end(None)
    done = finish_batch(client, cpu, merged["id"])
    assert read_file(client, done["output_file_id"]) == ["a", "c"]
    assert read_file(client, done["error_file_id"]) == ["b", "d"], "each line of both, as it ended last"


def test_a_retry_may_pick_its_lines_by_why_they_failed(
    client: FlaskClient, start: Callable[..., str], end: Callable[..., None], cpu: Any
) -> None:
    first = start(4)
    end(None, "generation_failed", "json_invalid", "generation_failed")
    finish_batch(client, cpu, first)
    assert client.post(f"/v1/batches/{first}/retry", json={"codes": ["nothing"]}).json["error"]["code"] == (
        "nothing_to_retry"
    )
    second = client.post(f"/v1/batches/{first}/retry", json={"codes": ["generation_failed"]}).json
    cpu.work_on(work.READ)
    end(None, None)
    done = finish_batch(client, cpu, second["id"])
    assert (done["request_counts"]["total"], done["request_counts"]["completed"]) == (2, 2)
    assert read_file(client, done["output_file_id"]) == ["a", "b", "d"]
    assert read_file(client, done["error_file_id"]) == ["c"]


def test_lines_that_were_never_read_are_retried_with_the_cancelled(
    client: FlaskClient,
    context: Context,
    ask: Callable[..., dict[str, Any]],
    worker: Any,
    cpu: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from batchinfer.services import reading

    monkeypatch.setattr(reading, "GROUP_LINES", 2)
    rows = [{"custom_id": chr(97 + index), **ask()} for index in range(5)]
    first = client.post("/v1/batches", data=write(rows), content_type=NDJSON).json["id"]
    lease_id = work.open_lease(context, role="cpu", worker="cpu", host="here", pid=1)
    (claim,) = work.claim(context, lease_id=lease_id, kinds=[work.READ], model=None, limit=9)
    calls: list[bool] = []

    def cancel_after_two_lines(action: Callable[[], bool]) -> bool:
        calls.append(action())
        if len(calls) == 2:
            worker.answer_all()
            client.post(f"/v1/batches/{first}/cancel")
        return calls[-1]

    assert not reading.read_batch(context, claim, cancel_after_two_lines, lambda: True)
    done = finish_batch(client, cpu, first)
    assert (read_file(client, done["output_file_id"]), read_file(client, done["error_file_id"])) == (
        ["a", "b"], ["c", "d", "e"]
    )  # fmt: skip
    second = client.post(f"/v1/batches/{first}/retry", json={"only": ["cancelled"]}).json["id"]
    client.post(f"/v1/batches/{second}/cancel")  # before it is read
    unread = client.get(f"/v1/batches/{second}").json
    assert unread["status"] == "cancelled"
    third = client.post(f"/v1/batches/{first}/retry").json["id"]
    cpu.work_on(work.READ)
    assert worker.answer_all() == 3
    done = finish_batch(client, cpu, third)
    assert read_file(client, done["output_file_id"]) == list("abcde")


def test_answers_that_would_be_gone_too_early_are_not_merged(
    client: FlaskClient, context: Context, start: Callable[..., str], end: Callable[..., None], cpu: Any
) -> None:
    first = start(1)
    end("generation_failed")
    finish_batch(client, cpu, first)
    with context.db.transaction() as tx:
        tx.execute(text("UPDATE batches SET created_at = now() - interval '29 days'"))
    refused = client.post(f"/v1/batches/{first}/retry")
    assert refused.json["error"]["code"] == "batch_not_retryable"
    assert "merge" in refused.json["error"]["message"]
    assert client.post(f"/v1/batches/{first}/retry", json={"merge": False}).status_code == 200


def test_a_file_that_was_deleted_and_removed_cannot_be_read_again(
    client: FlaskClient, context: Context, start: Callable[..., str], end: Callable[..., None], cpu: Any
) -> None:
    first = start(1)
    end("generation_failed")
    file_id = finish_batch(client, cpu, first)["input_file_id"]
    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    assert client.post(f"/v1/batches/{first}/retry").status_code == 200, "its bytes are still there"
    with context.db.transaction() as tx:
        (row,) = tx.execute(text("SELECT tenant_id, blob FROM files WHERE deleted_at IS NOT NULL"))
    context.blobs.path(row.tenant_id, row.blob).unlink()
    assert client.post(f"/v1/batches/{first}/retry").json["error"]["code"] == "file_not_found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"only": "failed"}, "only"),
        ({"only": []}, "only"),
        ({"only": ["succeeded"]}, "only.0"),
        ({"custom_ids": []}, "custom_ids"),
        ({"codes": []}, "codes"),
        ({"codes": ["x" * 101]}, "codes.0"),
        ({"custom_ids": [1]}, "custom_ids.0"),
        ({"merge": "yes"}, "merge"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_bad_retry_is_named(client: FlaskClient, body: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/batches/batch_" + "0" * 32 + "/retry", json=body)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)


def test_a_dry_run_tells_every_fault_and_makes_nothing(
    client: FlaskClient, context: Context, ask: Callable[..., dict[str, Any]], model: str
) -> None:
    picture = [{"type": "image_url", "image_url": {"url": PNG}}]
    rows = [ask(max_tokens=10), b"{nope", ask(picture, max_tokens=20), {**ask(), "temperature": 9}]
    answer = client.post("/v1/batches/validate", data=write(rows), content_type=NDJSON)
    assert answer.status_code == 200
    told = answer.json
    assert (told["valid"], told["requests"], told["faults"], told["endpoint"]) == (False, 4, 2, "/v1/jobs")
    assert [(fault["line"], fault["code"]) for fault in told["errors"]["data"]] == [
        (2, "invalid_json_line"), (4, "invalid_value")
    ]  # fmt: skip
    assert told["estimates"] == [
        {
            "model": model, "requests": 2, "files": 1, "max_output_tokens": 30, "basis": "unknown", "basis_jobs": 0,
            "basis_minutes": 0, "input_tokens": None, "output_tokens": None, "seconds": None,
        }
    ]  # fmt: skip
    for path in ("/v1/batches", "/v1/files", "/v1/jobs"):
        assert client.get(path).json["data"] == []
    assert not [file for file in context.settings.blobs_dir.rglob("*") if file.is_file()]


def test_a_dry_run_of_a_file_rests_on_what_was_measured_here(
    client: FlaskClient,
    stranger: FlaskClient,
    context: Context,
    caller: Any,
    model: str,
    ask: Callable[..., dict[str, Any]],
) -> None:
    import io

    jobs = estimating.LEAST_JOBS * 3
    with context.db.transaction() as tx:
        tx.execute(
            text(
                "INSERT INTO minutes (tenant_id, model, minute, succeeded, prompt_tokens, completion_tokens)"
                " SELECT :tenant_id, :model, date_trunc('minute', now()) - m * interval '1 minute', :jobs / 3,"
                " 100 * :jobs / 3, 10 * :jobs / 3 FROM generate_series(1, 3) AS m"
            ),
            {"tenant_id": caller.tenant_id, "model": model, "jobs": jobs},
        )
    chat = "/v1/chat/completions"
    rows = [{"custom_id": str(n), "method": "POST", "url": chat, "body": ask(max_tokens=4)} for n in range(5)]
    form = {"purpose": "batch", "file": (io.BytesIO(write(rows)), "in.jsonl")}
    body = {
        "endpoint": chat,
        "completion_window": "24h",
        "input_file_id": client.post("/v1/files", data=form).json["id"],
    }
    told = client.post("/v1/batches/validate", json=body).json
    assert (told["valid"], told["errors"]) == (True, None)
    (found,) = told["estimates"]
    assert (found["basis"], found["basis_jobs"], found["basis_minutes"]) == ("measured", jobs, 3)
    assert (found["input_tokens"], found["output_tokens"]) == (500, 20), "never more than the lines allow"
    assert found["seconds"] == pytest.approx(5 / (jobs / 180), abs=0.1)
    assert stranger.post("/v1/batches/validate", json=body).json["error"]["code"] == "file_not_found"
    lines = write([ask()])
    theirs = stranger.post("/v1/batches/validate", data=lines, content_type=NDJSON).json["estimates"]
    assert theirs[0]["basis"] == "unknown", "nobody's rest on what another tenant's jobs took"
