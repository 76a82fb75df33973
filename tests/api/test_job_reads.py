"""What of a job can be read alone: whether it changed, its result, and where its time went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient


def test_a_job_that_has_not_changed_is_304(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any
) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    first = client.get(f"/v1/jobs/{job_id}")
    seen = {"If-None-Match": first.headers["ETag"]}
    again = client.get(f"/v1/jobs/{job_id}", headers=seen)
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert client.get(f"/v1/jobs/{job_id}?wait=0.1", headers=seen).status_code == 304
    assert "no-store" not in first.headers["Cache-Control"]
    worker.answer_all()
    changed = client.get(f"/v1/jobs/{job_id}?wait=1", headers=seen)
    assert (changed.status_code, changed.json["status"]) == (200, "succeeded")
    assert changed.headers["ETag"] != first.headers["ETag"]


def test_a_tag_is_no_way_around_the_key(
    client: FlaskClient, anonymous: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]]
) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    seen = {"If-None-Match": client.get(f"/v1/jobs/{job_id}").headers["ETag"]}
    assert anonymous.get(f"/v1/jobs/{job_id}", headers=seen).status_code == 401
    assert stranger.get(f"/v1/jobs/{job_id}", headers=seen).status_code == 404


@pytest.mark.parametrize(
    ("wanted", "text", "kind"),
    [
        (None, "plain <b>words</b>\n", "text/plain; charset=utf-8"),
        (None, '{"a": 1}', "text/plain; charset=utf-8"),
        ({"type": "json_object"}, '{"a": "ä"}', "application/json"),
        ({"type": "json_object"}, '{"a": "cut of', "text/plain; charset=utf-8"),
        (None, "", "text/plain; charset=utf-8"),
    ],
)
def test_a_result_alone(
    client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any, wanted: Any, text: str, kind: str
) -> None:
    job_id = client.post("/v1/jobs", json=ask(response_format=wanted)).json["id"]
    worker.answer_all(text)
    answer = client.get(f"/v1/jobs/{job_id}/result")
    assert (answer.status_code, answer.data, answer.headers["Content-Type"]) == (200, text.encode(), kind)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    seen = {"If-None-Match": answer.headers["ETag"]}
    assert client.get(f"/v1/jobs/{job_id}/result", headers=seen).status_code == 304


def test_no_result_is_a_conflict(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    waiting = client.get(f"/v1/jobs/{job_id}/result")
    assert (waiting.status_code, waiting.json["error"]["code"]) == (409, "no_result")
    assert "?wait=" in waiting.json["error"]["message"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    ended = client.get(f"/v1/jobs/{job_id}/result").json["error"]
    assert "is cancelled" in ended["message"]
    assert "?wait=" not in ended["message"]


def test_a_timeline_adds_up(client: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    waiting = client.get(f"/v1/jobs/{job_id}/timeline").json
    assert (waiting["object"], waiting["job_id"]) == ("timeline", job_id)
    assert [(span["kind"], span["finished_at"]) for span in waiting["spans"]] == [("waiting", None)]
    worker.answer_all()
    ended = client.get(f"/v1/jobs/{job_id}/timeline").json
    assert sum(ended["stages"].values()) == pytest.approx(ended["total_s"], abs=1e-4)
    last = ended["spans"][-1]
    assert (last["kind"], last["attempt"], last["outcome"], last["worker"]) == ("infer", 1, "succeeded", "w1")
    assert last["stages"]["prefill"] > 0
    assert client.get(f"/v1/jobs/{job_id}/timeline").json == ended, "it has ended and changes no more"
