"""Quarantined jobs over HTTP: seen, released, run again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from batchinfer.services import work
from batchinfer.services.keys import create_key

if TYPE_CHECKING:
    from uuid import UUID

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Context


def open_lease(context: Context, model: str) -> UUID:
    return work.open_lease(context, role="model", worker="w", host="here", pid=1, model=model, slots=1)


def test_they_are_listed_inspected_and_released(client: FlaskClient, quarantined: str, context: Context) -> None:
    (listed,) = client.get("/v1/jobs?status=quarantined").json["data"]
    assert (listed["id"], listed["error"]["code"], listed["crashes"]) == (quarantined, "worker_lost", 3)
    attempts = client.get(f"/v1/jobs/{quarantined}/attempts").json["data"]
    assert [attempt["outcome"] for attempt in attempts] == ["lost"] * 3
    answer = client.post(f"/v1/jobs/{quarantined}/release")
    assert (answer.status_code, answer.json["status"], answer.json["error"]) == (200, "queued", None)
    assert client.get("/v1/jobs?status=quarantined").json["data"] == []
    with context.db.transaction() as tx:
        actor = tx.execute(text("SELECT actor FROM events WHERE event = 'released'")).scalar_one()
    assert actor.startswith("key ")
    again = client.post(f"/v1/jobs/{quarantined}/release")
    assert (again.status_code, again.json["error"]["code"]) == (409, "job_not_quarantined")


def test_it_needs_the_scope(app: OpenAPI, context: Context, quarantined: str) -> None:
    token = create_key(context, "reader", ["read", "cancel", "submit"])[1]
    answer = app.test_client().post(f"/v1/jobs/{quarantined}/release", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "nonsense"])
def test_one_that_is_not_there(client: FlaskClient, job_id: str) -> None:
    assert client.post(f"/v1/jobs/{job_id}/release").status_code in (400, 404)
