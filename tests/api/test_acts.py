"""Acts on many jobs over HTTP: counted exactly, asked for once, carried out by a worker, stopped half way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.act_requests import parse_act
from batchinfer.domain.ids import BULK, parse_id
from batchinfer.errors import BadRequest
from batchinfer.services import bulk_work, work

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context


def submit(client: FlaskClient, ask: Callable[..., dict[str, Any]], count: int, **more: Any) -> list[str]:
    return [client.post("/v1/jobs", json=ask(**more)).json["id"] for _ in range(count)]


def carry_out(context: Context) -> None:
    """What a CPU worker does with an act that was asked for."""
    lease = work.open_lease(
        context, role="cpu", worker="cpu@test", host="test", pid=os.getpid(), model=None, device="cpu", slots=1
    )
    (claim,) = work.claim(context, lease_id=lease, kinds=[work.ACT], model=None, limit=1)
    assert bulk_work.carry_out(context, claim, lambda action: action(), lambda: True)


def test_what_matches_is_counted_cancelled_and_told(
    client: FlaskClient, context: Context, ask: Callable[..., dict[str, Any]]
) -> None:
    submit(client, ask, 3, metadata={"shift": "night"})
    (other,) = submit(client, ask, 1)
    wanted = {"verb": "cancel", "search": {"metadata": {"shift": "night"}, "status": "queued"}}
    reach = client.post("/v1/acts/count", json=wanted).json
    assert (reach["number"], reach["others"]) == (3, 0)
    (later,) = submit(client, ask, 1, metadata={"shift": "night"})
    asked = client.post("/v1/acts", json={**wanted, "up_to": reach["up_to"]}, headers={"Idempotency-Key": "a"})
    assert (asked.status_code, asked.json["status"], asked.json["total"]) == (202, "queued", 3)
    assert asked.json["search"] == wanted["search"]
    again = client.post("/v1/acts", json={**wanted, "up_to": reach["up_to"]}, headers={"Idempotency-Key": "a"})
    assert (again.json["id"], again.headers["Idempotency-Replayed"]) == (asked.json["id"], "true")
    carry_out(context)
    ended = client.get(f"/v1/acts/{asked.json['id']}").json
    assert (ended["status"], ended["done"], ended["skipped"], ended["failed"]) == ("completed", 3, 0, 0)
    assert {client.get(f"/v1/jobs/{one}").json["status"] for one in (other, later)} == {"queued"}
    refused = client.post(f"/v1/acts/{asked.json['id']}/cancel")
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "act_ended")
    assert [act["id"] for act in client.get("/v1/acts").json["data"]] == [asked.json["id"]]


def test_named_jobs_are_deleted_unless_it_is_stopped(
    client: FlaskClient, context: Context, ask: Callable[..., dict[str, Any]]
) -> None:
    ids = submit(client, ask, 2)
    for one in ids:
        client.post(f"/v1/jobs/{one}/cancel")
    asked = client.post("/v1/acts", json={"verb": "delete", "jobs": ids}).json
    assert (asked["named"], asked["search"], asked["total"]) == (2, None, 2)
    assert client.post(f"/v1/acts/{asked['id']}/cancel").json["status"] == "cancelled"
    assert client.get(f"/v1/jobs/{ids[0]}").status_code == 200
    client.post("/v1/acts", json={"verb": "delete", "jobs": ids})
    carry_out(context)
    assert [client.get(f"/v1/jobs/{one}").status_code for one in ids] == [404, 404]


def test_an_act_needs_the_scope_of_its_verb_and_is_ones_own(
    client: FlaskClient, make_client: Any, stranger: FlaskClient, context: Context, ask: Callable[..., dict[str, Any]]
) -> None:
    from batchinfer.services.keys import create_key

    ids = submit(client, ask, 1)
    looker = make_client(create_key(context, "looks on", ["read"])[1])
    for path in ("/v1/acts", "/v1/acts/count"):
        assert looker.post(path, json={"verb": "cancel", "jobs": ids}).status_code == 403
        assert stranger.post("/v1/acts/count", json={"verb": "cancel", "jobs": ids}).json["number"] == 0
    act = client.post("/v1/acts", json={"verb": "cancel", "jobs": ids}).json["id"]
    assert looker.get(f"/v1/acts/{act}").status_code == 200
    assert looker.post(f"/v1/acts/{act}/cancel").status_code == 403
    assert stranger.get(f"/v1/acts/{act}").status_code == 404
    assert parse_id(BULK, act)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "verb"),
        ({"verb": "bless", "search": {}}, "verb"),
        ({"verb": "retry"}, "jobs"),
        ({"verb": "retry", "jobs": ["job_" + "0" * 32], "search": {}}, "jobs"),
        ({"verb": "retry", "jobs": []}, "jobs"),
        ({"verb": "retry", "jobs": ["batch_" + "0" * 32]}, "jobs.0"),
        ({"verb": "retry", "search": {"state": "failed"}}, "search.state"),
        ({"verb": "retry", "search": {"status": "lost"}}, "search.status"),
        ({"verb": "retry", "search": {"batch": "7"}}, "search.batch"),
        ({"verb": "retry", "search": {"created_from": 5, "created_before": 5}}, "search.created_before"),
        ({"verb": "retry", "search": {"created_from": "now"}}, "search.created_from"),
        ({"verb": "retry", "search": {}, "up_to": 1}, "up_to"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_act(body)
    assert refused.value.param == param
