"""Schedules over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient


@pytest.fixture
def declare(declare: Any) -> Callable[..., dict[str, Any]]:
    """The declaration of a schedule that fires on the nights of workdays."""
    timing = {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin"}
    return lambda **more: declare(**{"name": "nightly", "timing": timing, **more})


def test_a_schedule_from_its_declaration_to_its_end(client: FlaskClient, model: str, declare: Any) -> None:
    made = client.post("/v1/schedules", json=declare())
    assert made.status_code == 200
    schedule = made.json
    path = f"/v1/schedules/{schedule['id']}"
    assert (schedule["object"], schedule["status"], schedule["version"], schedule["error"]) == (
        "schedule", "enabled", 1, None,
    )  # fmt: skip
    assert schedule["fires"] == "At 02:30 on Monday through Friday (Europe/Berlin)"
    assert schedule["declared"] == declare()
    assert client.get(path).json == schedule
    coming = client.get(f"{path}/next?n=7").json["data"]
    assert [one["at"] for one in coming] == sorted({one["at"] for one in coming})
    assert len(coming) == 7
    assert coming[0]["at"] == schedule["next_at"]
    for one in coming:
        local = datetime.fromisoformat(one["local"])
        assert (local.strftime("%H:%M"), local.weekday() < 5) == ("02:30", True)
    run = client.post(f"{path}/run").json
    assert (run["status"], run["schedule_id"], run["schedule_version"], run["name"]) == (
        "running", schedule["id"], 1, "nightly",
    )  # fmt: skip
    assert [one["id"] for one in client.get(f"{path}/runs").json["data"]] == [run["id"]]
    busy = client.post(f"{path}/run")
    assert (busy.status_code, busy.json["error"]["code"]) == (409, "schedule_busy")
    paused = client.post(f"{path}/pause").json
    assert (paused["status"], paused["next_at"]) == ("paused", None)
    assert client.post(f"{path}/resume").json["next_at"] == schedule["next_at"]
    gone = client.delete(path)
    assert (gone.status_code, gone.json) == (
        200, {"id": schedule["id"], "object": "schedule.deleted", "deleted": True},
    )  # fmt: skip
    for answer in (client.get(path), client.post(f"{path}/pause"), client.delete(path), client.get(f"{path}/next")):
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "schedule_not_found")
    assert client.get("/v1/schedules").json["data"] == []
    assert client.get(f"/v1/runs/{run['id']}").json["status"] == "running"


def test_a_change_replaces_what_it_names(client: FlaskClient, model: str, declare: Any) -> None:
    made = client.post("/v1/schedules", json=declare(metadata={"a": "b"})).json
    path = f"/v1/schedules/{made['id']}"
    timing = {"cron": "0 3 * * *", "timezone": "UTC"}
    changed = client.patch(path, json={"timing": timing, "metadata": None}).json
    assert (changed["version"], changed["declared"]["timing"], "metadata" in changed["declared"]) == (2, timing, False)
    assert changed["declared"]["pipeline"] == made["declared"]["pipeline"]
    assert changed["next_at"] != made["next_at"]
    assert client.patch(path, json={"timing": timing}).json["version"] == 2, "nothing changed"
    off = client.patch(path, json={"enabled": False}).json
    assert (off["status"], off["version"]) == ("paused", 2)
    other = client.post("/v1/schedules", json=declare(name="other")).json
    taken = client.patch(f"/v1/schedules/{other['id']}", json={"name": "nightly"})
    assert (taken.status_code, taken.json["error"]["code"]) == (409, "schedule_exists")
    bad = client.patch(path, json={"timing": {**timing, "cron": "0 0 30 2 *"}})
    assert (bad.status_code, bad.json["error"]["param"]) == (400, "timing.cron")
    assert client.get(path).json["declared"]["timing"] == timing


def test_names_are_ones_own_and_keys_are_kept(
    client: FlaskClient, stranger: FlaskClient, model: str, declare: Any
) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post("/v1/schedules", json=declare(), headers=headers)
    again = client.post("/v1/schedules", json=declare(), headers=headers)
    assert (again.json, again.headers["Idempotency-Replayed"]) == (first.json, "true")
    taken = client.post("/v1/schedules", json=declare())
    assert (taken.status_code, taken.json["error"]["param"]) == (409, "name")
    assert stranger.post("/v1/schedules", json=declare(by=stranger)).status_code == 200
    assert stranger.get("/v1/schedules").json["data"][0]["id"] != first.json["id"]
    run_path = f"/v1/schedules/{first.json['id']}/run"
    runs = [client.post(run_path, headers={"Idempotency-Key": "once"}).json["id"] for _ in range(2)]
    assert runs[0] == runs[1]


def test_applying_a_file_twice(client: FlaskClient, model: str, declare: Any) -> None:
    done = [client.post("/v1/schedules/apply", json=declare()).json for _ in range(2)]
    assert [one.pop("applied") for one in done] == ["created", "unchanged"]
    assert done[0] == done[1]
    later = client.post("/v1/schedules/apply", json=declare(sample={"size": 10})).json
    assert (later["applied"], later["id"], later["version"]) == ("changed", done[0]["id"], 2)


def test_schedules_come_in_pages(client: FlaskClient, model: str, read_all: Any, declare: Any) -> None:
    made = [client.post("/v1/schedules", json=declare(name=str(n))).json["id"] for n in range(3)]
    assert read_all("/v1/schedules", 2) == made[::-1]


@pytest.mark.parametrize("n", [0, 101, "x"])
def test_a_number_of_instants_that_is_none(client: FlaskClient, model: str, n: Any, declare: Any) -> None:
    made = client.post("/v1/schedules", json=declare()).json["id"]
    assert client.get(f"/v1/schedules/{made}/next?n={n}").json["error"]["param"] == "n"
