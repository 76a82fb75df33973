"""Every act of an administrator leaves one row, in the transaction of the act; the routes come from the document."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.api.openapi import make_document
from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.ids import DEPLOYMENT, REPLICA, new_id, show_id
from batchinfer.errors import Forbidden
from batchinfer.services import audit, deployments, models, scheduling
from batchinfer.services.keys import create_key
from batchinfer.store import fleet, hosts, revisions

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Caller, Context

ADMIN = re.compile(r"lacks the scope '(admin|launch)'")


def find_example(operation: dict[str, Any]) -> dict[str, Any]:
    """How to send the first example of an operation; nothing where it takes no body."""
    examples = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    return {"json": next(iter(examples.values()))["value"]} if examples else {}


def read_rows(context: Context) -> list[Any]:
    with context.db.transaction() as tx:
        return list(tx.execute(text("SELECT * FROM audit ORDER BY id")))


def make_delivery(client: FlaskClient, job: dict[str, Any]) -> dict[str, str]:
    """The ids of a webhook endpoint and of a delivery to it."""
    body = {"name": "mine", "url": "https://example.com/hook", "event_types": ["job.cancelled"]}
    endpoint_id = client.post("/v1/webhook_endpoints", json=body).json["id"]
    client.post(f"/v1/jobs/{client.post('/v1/jobs', json=job).json['id']}/cancel")
    (delivery,) = client.get(f"/v1/webhook_endpoints/{endpoint_id}/deliveries").json["data"]
    return {"endpoint_id": endpoint_id, "delivery_id": delivery["id"]}


def make_deployment(context: Context, caller: Caller, number: int) -> str:
    """The id of a deployment that serves rev1 of docreader on a device of its own, was swapped before, and may be
    swapped to rev2."""
    spec = parse_deployment({"model": "docreader", "device": f"cuda:{number}"})
    standing, _ = deployments.launch(context, caller, spec)
    with context.db.transaction() as tx:
        tx.execute(
            text("UPDATE deployments SET previous_revision = 'rev2' WHERE id = :id"), {"id": standing.deployment.id}
        )
    return show_id(DEPLOYMENT, standing.deployment.id)


def make_replica(context: Context) -> str:
    """The id of a replica that a keeper looks after; its host is there, too."""
    with context.db.transaction() as tx:
        hosts.open_host(tx, "gpu-1", new_id(), [])
        replica_id = fleet.save_replica(tx, worker="w", model="docreader", device="cpu", state="ready")
        tx.execute(text("UPDATE replicas SET host = 'gpu-1'"))
    return show_id(REPLICA, replica_id)


def test_every_route_of_an_administrator_leaves_one_row(
    app: OpenAPI,
    client: FlaskClient,
    make_client: Any,
    context: Context,
    quarantined: str,
    caller: Caller,
    ask: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batchinfer.services.deliveries._SPARE_S", -9.8)  # nobody sends the test event here
    others = make_client(create_key(context, "others", ["fetch"])[1])
    ids = {"job_id": quarantined, "key_id": client.post("/v1/keys", json={"name": "x", "scopes": ["read"]}).json["id"]}
    models.register_model(context, "docreader", "models/docreader", "rev1")
    with context.db.transaction() as tx:
        revisions.save_revision(tx, "docreader", "rev2", source={}, path="models/two", state="fetched")
    ids |= {"replica_id": make_replica(context), "host": "gpu-1"}
    acted: dict[str, str] = {}
    for path, methods in make_document(app)["paths"].items():
        for method, operation in methods.items():
            if method == "get" or not operation.get("security"):
                continue
            filled = re.sub(r"\{(\w+)\}", lambda found: ids.get(found[1], "x"), path)
            sent = find_example(operation)
            denied = others.open(filled, method=method, **sent)
            if denied.status_code != 403 or not ADMIN.search(denied.json["error"]["message"]):
                continue
            if "{endpoint_id}" in path:
                filled = path.format(**make_delivery(client, ask()))
            if "{key_id}" in path:
                fresh = client.post("/v1/keys", json={"name": "x", "scopes": ["read"]})
                filled = path.format(key_id=fresh.json["id"])
            if "{deployment_id}" in path:
                filled = path.format(deployment_id=make_deployment(context, caller, len(acted)))
            before = len(read_rows(context))
            answer = client.open(filled, method=method, **sent)
            worked = answer.status_code < 300 or operation["operationId"] == "test_webhook_endpoint"
            assert worked, f"{method} {path}: this test needs an example that works: {answer.json}"
            rows = read_rows(context)[before:]
            assert len(rows) == 1, f"{method} {path} left {len(rows)} rows"
            assert (rows[0].actor, rows[0].key_id) == ("tests", caller.key_id)
            acted[path] = rows[0].action
    assert acted.items() >= {
        "/v1/keys": "key.create", "/v1/keys/{key_id}/revoke": "key.revoke",
        "/v1/keys/{key_id}/rotate": "key.rotate", "/v1/tenants": "tenant.create",
        "/v1/tenants/retention": "tenant.retention",
        "/v1/queue/pause": "queue.pause", "/v1/queue/resume": "queue.resume", "/v1/queue/reclass": "queue.reclass",
        "/v1/queue/limits": "queue.limits", "/v1/jobs/{job_id}/release": "job.release",
        "/v1/deployments": "deployment.launch", "/v1/deployments/ensure": "deployment.ensure",
        "/v1/deployments/{deployment_id}/swap": "deployment.swap",
        "/v1/deployments/{deployment_id}/rollback": "deployment.rollback",
        "/v1/deployments/{deployment_id}/cancel": "deployment.cancel",
        "/v1/deployments/{deployment_id}/resume": "deployment.resume",
        "/v1/deployments/{deployment_id}/stop": "deployment.stop", "/v1/hosts/{host}/drain": "host.drain",
        "/v1/hosts/{host}/resume": "host.resume", "/v1/replicas/{replica_id}/drain": "replica.drain",
        "/v1/webhook_endpoints": "webhook.create", "/v1/webhook_endpoints/{endpoint_id}/test": "webhook.test",
    }.items()  # fmt: skip


def test_the_log_is_read_in_pages_by_administrators_alone(
    client: FlaskClient, stranger: FlaskClient, make_client: Any, context: Context
) -> None:
    for model in ("a", "b", "c"):
        client.post("/v1/queue/pause", json={"model": model})
    stranger.post("/v1/queue/pause", json={"model": "d"})
    page = client.get("/v1/audit?limit=3&action=queue.pause").json
    assert [act["data"]["model"] for act in page["data"]] == ["d", "c", "b"]
    assert (page["data"][0]["tenant"], page["data"][0]["actor"]) == ("strangers", "stranger")
    assert page["data"][1]["subject"] == "every tenant"
    assert page["data"][1]["key_id"].startswith("key_")
    rest = client.get(f"/v1/audit?limit=3&action=queue.pause&after={page['last_id']}").json
    assert ([act["data"]["model"] for act in rest["data"]], rest["has_more"]) == (["a"], False)
    assert [act["action"] for act in stranger.get("/v1/audit").json["data"]] == ["queue.pause", "key.create"]
    reader = make_client(create_key(context, "reader", ["read"])[1])
    assert reader.get("/v1/audit").status_code == 403


def test_what_an_operator_did_to_a_tenant_is_in_that_tenants_log(client: FlaskClient, stranger: FlaskClient) -> None:
    assert client.post("/v1/queue/limits", json={"tenant": "strangers", "max_jobs": 5}).status_code == 200
    newest = stranger.get("/v1/audit").json["data"][0]
    assert (newest["action"], newest["actor"], newest["data"]) == (
        "queue.limits",
        "tests",
        {"max_jobs": 5, "weight": 1},
    )


def test_an_act_that_cannot_be_noted_is_not_done(context: Context, caller: Caller) -> None:
    with context.db.transaction() as tx:
        tx.execute(text("ALTER TABLE audit ADD CONSTRAINT never CHECK (false) NOT VALID"))
    with pytest.raises(Exception, match="never"):
        scheduling.pause(context, caller, model="m")
    assert scheduling.read_queue(context, caller).pauses == []


def test_rows_say_who_at_the_command_line(context: Context, caller: Caller) -> None:
    (made,) = audit.list_acts(context, caller).data
    assert (made.act.action, made.act.actor, made.act.key_id) == ("key.create", "the command line", None)


def test_a_model_is_added_with_its_row_or_not_at_all(context: Context, caller: Caller) -> None:
    models.add_model(context, caller, "reader", "models/reader", "r1", {})
    newest = audit.list_acts(context, caller).data[0].act
    assert (newest.action, newest.subject, newest.data) == ("model.add", "reader", {"revision": "r1"})
    assert [wanted.model for wanted in models.list_deployments(context)] == ["reader"]
    reader = replace(caller, scopes=frozenset({"read", "submit"}))
    with pytest.raises(Forbidden):
        models.add_model(context, reader, "other", "models/other", "r1", {})
    assert models.find_model(context, "other") is None
