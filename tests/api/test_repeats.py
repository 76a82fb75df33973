"""Retry and delete as a client asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient


def test_a_failed_job_is_tried_again(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any
) -> None:
    job_id = client.post("/v1/jobs", json=ask(metadata={"a": "b"})).json["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert stranger.post(f"/v1/jobs/{job_id}/retry").status_code == 404
    key = {"Idempotency-Key": "again"}
    first = client.post(f"/v1/jobs/{job_id}/retry", headers=key)
    assert (first.status_code, first.json["status"], first.json["metadata"]) == (202, "queued", {"a": "b"})
    assert (first.json["retry_of"], first.json["retried_as"]) == (job_id, None)
    assert first.headers["Location"].endswith(first.json["id"])
    again = client.post(f"/v1/jobs/{job_id}/retry", headers=key)
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])
    assert again.headers["Idempotency-Replayed"] == "true"
    refused = client.post(f"/v1/jobs/{job_id}/retry")
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "job_retried")
    assert first.json["id"] in refused.json["error"]["message"]
    other = client.post("/v1/jobs", json=ask()).json["id"]
    assert client.post(f"/v1/jobs/{other}/retry", headers=key).status_code == 422
    worker.answer_all()
    assert client.get(f"/v1/jobs/{first.json['id']}").json["status"] == "succeeded"
    assert client.get(f"/v1/jobs/{job_id}").json["retried_as"] == first.json["id"]
    done = client.post(f"/v1/jobs/{first.json['id']}/retry")
    assert (done.status_code, done.json["error"]["code"]) == (409, "job_not_repeatable")


def test_a_deleted_job_is_nowhere(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any
) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    assert client.delete(f"/v1/jobs/{job_id}").json["error"]["code"] == "job_not_ended"
    worker.answer_all()
    assert stranger.delete(f"/v1/jobs/{job_id}").status_code == 404
    usage = client.get("/v1/usage").json["total"]
    deleted = client.delete(f"/v1/jobs/{job_id}")
    assert (deleted.status_code, deleted.json) == (200, {"id": job_id, "object": "job", "deleted": True})
    response_id = job_id.replace("job_", "resp_")
    for path in (f"jobs/{job_id}", f"jobs/{job_id}?wait=1", f"jobs/{job_id}/result", f"jobs/{job_id}/timeline",
                 f"jobs/{job_id}/attempts", f"responses/{response_id}"):  # fmt: skip
        assert client.get(f"/v1/{path}").status_code == 404, path
    for verb in ("cancel", "retry", "release"):
        assert client.post(f"/v1/jobs/{job_id}/{verb}").status_code == 404, verb
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert client.get("/v1/jobs").json["data"] == client.get("/v1/jobs?status=succeeded").json["data"] == []
    assert client.get("/v1/usage").json["total"] == usage
    assert usage["jobs"] == 1
