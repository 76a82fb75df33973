"""Two tenants see nothing of each other, on any route that takes an id: found in the OpenAPI document."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from batchinfer.api.openapi import make_document
from batchinfer.domain.ids import DEFAULT_TENANT, GOLDEN, JOB, RUN, new_id, parse_id, show_id
from batchinfer.store.reviews import NewGolden, keep_golden
from batchinfer.store.runs import NewRun, insert_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Context

#: Models, what is wanted of them and the hosts are the installation's, not a tenant's.
SHARED = {"model", "revision", "deployment_id", "replica_id", "host"}
NOBODYS = "0192f1c07d6a7b3e8f00c0ffee00c0de"


def same(one: Any, other: Any) -> bool:
    """Whether two errors differ in nothing but the request they answer."""
    assert one.status_code == other.status_code
    return all(one.json[name] == other.json[name] for name in ("error", "type", "title", "status", "detail"))


def make_batch(client: FlaskClient) -> dict[str, str]:
    """The ids of a file, of one that comes in parts, and of a batch that is made of the first."""
    form = {"purpose": "batch", "file": (io.BytesIO(b"{}"), "in.jsonl")}
    file_id = client.post("/v1/files", data=form).json["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    upload = {"filename": "in.jsonl", "bytes": 2, "purpose": "batch"}
    upload_id = client.post("/v1/uploads", json=upload).json["id"]
    return {"file_id": file_id, "upload_id": upload_id, "batch_id": client.post("/v1/batches", json=body).json["id"]}


def make_delivery(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> dict[str, str]:
    """The ids of a webhook endpoint and of a delivery to it."""
    body = {"name": "mine", "url": "https://example.com/hook", "event_types": ["job.cancelled"]}
    endpoint_id = client.post("/v1/webhook_endpoints", json=body).json["id"]
    client.post(f"/v1/jobs/{client.post('/v1/jobs', json=ask()).json['id']}/cancel")
    (delivery,) = client.get(f"/v1/webhook_endpoints/{endpoint_id}/deliveries").json["data"]
    return {"endpoint_id": endpoint_id, "delivery_id": delivery["id"]}


def make_run(client: FlaskClient, model: str) -> dict[str, str]:
    """The ids of a run, a schedule and a prompt template."""
    pipeline = {"model": model, "prompt": "Read."}
    form = {"purpose": "user_data", "file": (io.BytesIO(b"%PDF-1.7"), "a.pdf")}
    body = {"source": {"files": [client.post("/v1/files", data=form).json["id"]]}, "pipeline": pipeline}
    timing = {"cron": "30 2 * * *", "timezone": "UTC"}
    return {
        "run_id": client.post("/v1/runs", json=body).json["id"],
        "schedule_id": client.post("/v1/schedules", json={**body, "name": "n", "timing": timing}).json["id"],
        "template_id": client.post("/v1/templates", json={"name": "t", "prompt": "Read."}).json["id"],
    }


def make_results(context: Context, job_id: str) -> dict[str, str]:
    """The ids of a run, and of a golden prompt that was made of a page."""
    run = NewRun(new_id(), DEFAULT_TENANT, {"source": {"uri": "/in"}, "pipeline": {"model": "m", "prompt": "x"}})
    page = parse_id(JOB, job_id)
    golden = NewGolden(new_id(), DEFAULT_TENANT, page, run.id, "m", {"images": []}, "0" * 64, "x", "somebody")
    with context.db.transaction() as tx:
        insert_run(tx, run)
        keep_golden(tx, golden)
    return {"run_id": show_id(RUN, run.id), "golden_id": show_id(GOLDEN, golden.id)}


def test_ids_of_another_tenant_are_not_there(
    app: OpenAPI,
    client: FlaskClient,
    stranger: FlaskClient,
    ask: Callable[..., dict[str, Any]],
    model: str,
    context: Context,
) -> None:
    job = client.post("/v1/jobs", json=ask()).json
    document = client.post(
        "/v1/jobs", data={"model": model, "prompt": "x", "file": (io.BytesIO(b"%PDF-1.7"), "a.pdf")}
    ).json
    ids = {"job_id": job["id"], "document_id": document["id"], "response_id": job["id"].replace("job_", "resp_")}
    ids |= make_batch(client)
    ids |= make_delivery(client, ask)
    ids |= make_run(client, model)
    ids["key_id"] = client.post("/v1/keys", json={"name": "mine", "scopes": ["read"]}).json["id"]
    ids["act_id"] = client.post("/v1/acts", json={"verb": "cancel", "jobs": [job["id"]]}).json["id"]
    ids |= make_results(context, job["id"])
    seen = 0
    for path, methods in make_document(app)["paths"].items():
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        if not names or set(names) <= SHARED:
            continue
        theirs_at = nobodys_at = path
        for name in names:
            theirs_at = theirs_at.replace(f"{{{name}}}", ids[name])
            nobodys_at = nobodys_at.replace(f"{{{name}}}", ids[name][:-32] + NOBODYS)
        for method in methods:
            theirs = stranger.open(theirs_at, method=method)
            nobodys = stranger.open(nobodys_at, method=method)
            assert theirs.status_code == 404, f"{method} {path}"
            assert same(theirs, nobodys), f"{method} {path}"
            seen += 1
    assert seen >= 5
    assert client.get(f"/v1/jobs/{job['id']}").json["status"] == "queued"
    assert client.get(f"/v1/documents/{document['id']}").json["status"] == "queued"
    assert client.get(f"/v1/keys/{ids['key_id']}").json["status"] == "active"


def test_waiting_for_another_tenants_job_is_answered_at_once(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]]
) -> None:
    job = client.post("/v1/jobs", json=ask()).json
    assert stranger.get(f"/v1/jobs/{job['id']}?wait=20").status_code == 404


def test_lists_and_numbers_hold_only_ones_own(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]], model: str
) -> None:
    job = client.post("/v1/jobs", json=ask()).json
    form = {"model": model, "prompt": "x", "file": (io.BytesIO(b"%PDF-1.7"), "a.pdf")}
    document = client.post("/v1/jobs", data=form).json
    assert stranger.get("/v1/jobs").json["data"] == []
    assert stranger.get(f"/v1/jobs?after=job_{'f' * 32}").json["data"] == []
    assert stranger.get(f"/v1/jobs?document={document['id']}").json["data"] == []
    assert stranger.get("/v1/documents").json["data"] == []
    assert [key["name"] for key in stranger.get("/v1/keys").json["data"]] == ["stranger"]
    assert {act["tenant"] for act in stranger.get("/v1/audit").json["data"]} == {"strangers"}
    numbers = stranger.get("/v1/overview").json
    assert (numbers["queued"], numbers["rendering"], numbers["waiting"]) == (0, 0, [])
    assert client.get("/v1/jobs").json["data"][0]["id"] == job["id"]


def test_an_idempotency_key_is_ones_own(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]]
) -> None:
    headers = {"Idempotency-Key": "same"}
    mine = client.post("/v1/jobs", json=ask(), headers=headers)
    theirs = stranger.post("/v1/jobs", json=ask("something else"), headers=headers)
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json["id"] != theirs.json["id"]
