"""Runs over HTTP: declared, looked at, steered, and their manifest page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import DOCUMENT, RUN, SCHEDULE, new_id, parse_id, show_id
from batchinfer.domain.jobs import JobClass, Usage
from batchinfer.services import work
from batchinfer.store import jobs, queue
from batchinfer.store.claims import INFER, Outcome

if TYPE_CHECKING:
    from uuid import UUID

    from flask.testing import FlaskClient

    from batchinfer.services.context import Caller, Context


def list_documents(context: Context, run: dict[str, Any], number: int) -> list[str]:
    """Put documents into the manifest, as listing would; every third has failed. Answers their ids."""
    run_id, made = parse_id(RUN, run["id"]), [new_id() for _ in range(number)]
    with context.db.transaction() as tx:
        tx.execute(
            text("""
                INSERT INTO documents (id, tenant_id, model, class, filename, media_type, prompt, run_id, number, uri,
                    size_bytes, stage, outcome, schema_version)
                SELECT one.id, r.tenant_id, 'm', 'batch', one.number || '.pdf', '', '{}', r.id, one.number,
                    'file:///in/' || one.number, 10, CASE WHEN one.number % 3 = 0 THEN 'closed' ELSE 'listed' END,
                    CASE WHEN one.number % 3 = 0 THEN 'failed' END, 1
                FROM runs r, unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS one (id, number) WHERE r.id = :run_id
            """),
            {"ids": made, "run_id": run_id},
        )
    return [show_id(DOCUMENT, one) for one in made]


def test_a_run_is_declared_and_shown(client: FlaskClient, context: Context, model: str, declare: Any) -> None:
    answer = client.post("/v1/runs", json=declare(name="night", metadata={"team": "a"}, window="5h"))
    assert answer.status_code == 200
    run = answer.json
    assert (run["object"], run["status"], run["name"], run["model"], run["class"]) == (
        "run", "running", "night", model, "batch",
    )  # fmt: skip
    assert run["batch_id"] == run["id"].replace("run_", "batch_")
    assert run["expires_at"] - run["created_at"] == pytest.approx(5 * 3600, abs=2)
    assert (run["metadata"], run["spec"]["window"], run["cause"]) == ({"team": "a"}, "5h", None)
    assert run["resolved"]["prompt"] == "Read page {{ page }}."
    assert run["counts"] == {
        "documents": {"listed": 0, "skipped": 0, "closed": 0, "failed": 0, "with_errors": 0},
        "pages": {"total": 0, "ok": 0, "fallback": 0, "failed": 0, "blank": 0, "expired": 0, "cancelled": 0},
    }
    assert client.get(f"/v1/runs/{run['id']}").json == run
    (listed,) = client.get("/v1/runs").json["data"]
    assert listed == {**run, "spec": None, "resolved": None}
    assert client.get(f"/v1/batches/{run['batch_id']}").json["endpoint"] == "/v1/documents"
    with context.db.transaction() as tx:
        kind, key_id = tx.execute(text("SELECT q.kind, b.key_id FROM queue q JOIN batches b ON b.id = q.id")).one()
    assert kind == "list"
    assert key_id is not None


def test_the_same_declaration_with_a_key_is_one_run(client: FlaskClient, model: str, declare: Any) -> None:
    headers = {"Idempotency-Key": "night-1"}
    first = client.post("/v1/runs", json=declare(), headers=headers)
    again = client.post("/v1/runs", json=declare(), headers=headers)
    assert (again.json, again.headers["Idempotency-Replayed"]) == (first.json, "true")
    assert client.post("/v1/runs", json=declare(name="x"), headers=headers).status_code == 422
    assert len(client.get("/v1/runs").json["data"]) == 1


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"source": {}}, 400, "missing_required_parameter", "source.uri"),
        ({"pipeline": {"model": "gone", "prompt": "x"}}, 404, "model_not_found", "pipeline.model"),
        ({"pipeline": {"model": "org/reader"}}, 400, "missing_required_parameter", "pipeline.prompt"),
        ({"pipeline": {"model": "org/reader", "prompt": "{{ nobody }}"}}, 400, "unknown_variable", "pipeline.prompt"),
        ({"pipeline": {"model": "org/reader", "prompt": "{% if %}"}}, 400, "invalid_template", "pipeline.prompt"),
        ({"pipeline": {"model": "org/reader", "template": "t"}}, 404, "template_not_found", "pipeline.template"),
        ({"sinks": []}, 400, "invalid_value", "sinks"),
        ({"window": "soon"}, 400, "invalid_value", "window"),
        ({"timing": {}}, 400, "unknown_parameter", "timing"),
        ({"name": "a\0b"}, 400, "invalid_characters", "name"),
    ],
)
def test_what_is_wrong_is_told_at_once(
    client: FlaskClient, model: str, change: dict[str, Any], status: int, code: str, param: str, declare: Any
) -> None:
    for path in ("/v1/runs", "/v1/runs/preview"):
        answer = client.post(path, json=declare() | change)
        error = answer.json["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert client.get("/v1/runs").json["data"] == []
    assert client.post("/v1/runs", json=[1]).json["error"]["code"] == "invalid_type"


def test_a_preview_makes_nothing_and_the_recipe_shapes_answers(client: FlaskClient, model: str, declare: Any) -> None:
    seen = client.post("/v1/runs/preview", json=declare())
    assert (seen.status_code, seen.json["object"], seen.json["documents"]) == (200, "run.preview", 1)
    assert "1 " in seen.json["reason"]
    assert client.get("/v1/runs").json["data"] == []
    other = declare(pipeline={"model": model, "prompt": "Another."})
    recipes = [client.post("/v1/runs", json=body).json["recipe"] for body in (declare(), declare(), other)]
    assert len(set(recipes)) == 2


def test_pause_resume_and_cancel(client: FlaskClient, model: str, declare: Any) -> None:
    run = client.post("/v1/runs", json=declare()).json
    path = f"/v1/runs/{run['id']}"
    for verb, status in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("resume", "running")):
        answer = client.post(f"{path}/{verb}")
        assert (answer.status_code, answer.json["status"]) == (200, status)
        assert (answer.json["paused_at"] is None) is (status == "running")
    assert client.post(f"{path}/cancel").status_code == 200
    assert client.post(f"{path}/cancel").status_code == 200


def test_a_run_that_never_began_is_told_apart(client: FlaskClient, context: Context, model: str, declare: Any) -> None:
    run = client.post("/v1/runs", json=declare()).json
    with context.db.transaction() as tx:
        tx.execute(text("DELETE FROM batches"))
        cause = '{"code": "missed", "message": "Nobody ticked."}'
        tx.execute(text("UPDATE runs SET state = 'missed', finished_at = now(), cause = :cause"), {"cause": cause})
    shown = client.get(f"/v1/runs/{run['id']}").json
    assert (shown["status"], shown["cause"]["code"], shown["batch_id"]) == ("missed", "missed", None)
    assert shown["counts"]["pages"]["total"] == 0
    for verb, code in (("pause", "run_not_pausable"), ("cancel", "run_not_cancellable")):
        answer = client.post(f"/v1/runs/{run['id']}/{verb}")
        assert (answer.status_code, answer.json["error"]["code"]) == (409, code)


def test_the_manifest_comes_in_order_and_each_document_once(
    client: FlaskClient, context: Context, model: str, read_all: Any, declare: Any
) -> None:
    run = client.post("/v1/runs", json=declare()).json
    made = list_documents(context, run, 7)
    path = f"/v1/runs/{run['id']}/documents"
    assert read_all(path, 2) == made
    document = client.get(path).json["data"][2]
    assert {name: document[name] for name in ("number", "filename", "uri", "bytes", "media_type", "outcome")} == {
        "number": 3, "filename": "3.pdf", "uri": "file:///in/3", "bytes": 10, "media_type": None, "outcome": "failed",
    }  # fmt: skip
    assert [one["number"] for one in client.get(f"{path}?outcome=failed").json["data"]] == [3, 6]
    assert [one["number"] for one in client.get(f"{path}?stage=listed").json["data"]] == [1, 2, 4, 5, 7]
    behind = client.get(f"{path}?stage=listed&limit=2&after={made[3]}").json
    assert ([one["number"] for one in behind["data"]], behind["has_more"]) == ([5, 7], False)
    other = client.post("/v1/runs", json=declare()).json
    assert client.get(f"/v1/runs/{other['id']}/documents?after={made[0]}").json["data"] == []
    assert client.get(f"{path}?outcome=good").json["error"]["param"] == "outcome"
    assert client.get(f"{path}?stage=new").json["error"]["param"] == "stage"


def test_runs_of_a_schedule_are_picked_out(
    client: FlaskClient, context: Context, model: str, read_all: Any, declare: Any
) -> None:
    made = [client.post("/v1/runs", json=declare()).json["id"] for _ in range(3)]
    schedule_id = new_id()
    with context.db.transaction() as tx:
        values = {"id": parse_id(RUN, made[1]), "schedule": schedule_id}
        tx.execute(text("UPDATE runs SET schedule_id = :schedule WHERE id = :id"), values)
    found = client.get(f"/v1/runs?schedule_id={show_id(SCHEDULE, schedule_id)}").json["data"]
    assert [run["id"] for run in found] == [made[1]]
    assert read_all("/v1/runs", 2) == made[::-1]
    assert client.get("/v1/runs?schedule_id=nonsense").json["error"]["param"] == "schedule_id"


def put_page(context: Context, caller: Caller, model: str, schedule_id: UUID) -> UUID:
    """A page of a document, as rendering would make it."""
    job = jobs.NewJob(
        id=new_id(), tenant_id=caller.tenant_id, model=model, job_class=JobClass.BATCH,
        prompt={"messages": [], "images": []}, document_id=new_id(), page=1, key_id=caller.key_id,
        schedule_id=schedule_id,
    )  # fmt: skip
    with context.db.transaction() as tx:
        jobs.insert_jobs(tx, [job])
        queue.enqueue(tx, [queue.Entry(job.id, INFER, caller.tenant_id, model, JobClass.BATCH)])
    return job.id


def test_a_page_says_how_it_ended_and_usage_whose_schedule_it_was(
    client: FlaskClient, context: Context, caller: Caller, worker: Any, model: str
) -> None:
    schedule_id, outcomes = new_id(), {"fake": "ok", "blank": "blank", "text_layer": "fallback"}
    for engine, outcome in outcomes.items():
        page = put_page(context, caller, model, schedule_id)
        assert client.get(f"/v1/jobs/job_{page.hex}").json["outcome"] is None
        (claim,) = work.claim(context, lease_id=worker.lease_id, kinds=[INFER], model=model, limit=9)
        done = Outcome(claim.id, claim.attempt, "t", "stop", Usage(prompt_tokens=3), model, "rev1", engine)
        work.complete_group(context, worker.lease_id, [done])
        assert client.get(f"/v1/jobs/job_{page.hex}").json["outcome"] == outcome
    (row,) = client.get("/v1/usage?group_by=schedule").json["data"]
    assert (row["schedule"], row["jobs"], row["prompt_tokens"]) == (show_id(SCHEDULE, schedule_id), 3, 9)
