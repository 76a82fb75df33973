"""Health for machines: what is alive, what is ready and why not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import redis

from batchinfer.services import work
from batchinfer.web import create_app

if TYPE_CHECKING:
    import pytest
    from flask.testing import FlaskClient

    from batchinfer.services.context import Context


def test_alive_without_a_key_and_without_asking_anybody(
    anonymous: FlaskClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("asked the database")

    monkeypatch.setattr(type(context.db), "transaction", fail)
    answer = anonymous.get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_not_ready_without_a_model_worker(anonymous: FlaskClient) -> None:
    answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (503, "unready")
    assert answer.json["checks"]["database"] == {"ok": True, "reason": None}
    assert "model worker" in answer.json["checks"]["model_worker"]["reason"]


def test_degraded_without_a_cpu_worker_then_ready(anonymous: FlaskClient, context: Context, worker: Any) -> None:
    answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["checks"]["cpu_worker"]["ok"] is False
    lease_id = work.open_lease(context, role="cpu", worker="c1", host="here", pid=2)
    answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (200, "ready")
    work.end_lease(context, lease_id, "the test is over")


def test_degraded_without_redis(context: Context, worker: Any) -> None:
    away = redis.Redis(host="127.0.0.1", port=9, socket_connect_timeout=1, retry=None)
    client = create_app(context=replace(context, redis=away)).test_client()
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert "Nothing is lost" in answer.json["checks"]["redis"]["reason"]


def test_the_root_leads_to_the_pages(anonymous: FlaskClient) -> None:
    answer = anonymous.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")
