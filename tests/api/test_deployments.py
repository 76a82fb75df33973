"""Deployments, hosts and the fleet's events over HTTP, and the commands that speak with them on a real socket."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from werkzeug.serving import make_server

from batchinfer.cli import main
from batchinfer.domain.ids import DEPLOYMENT, new_id, parse_id
from batchinfer.services import swapping
from batchinfer.store import deployments, events, fleet, hosts, revisions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Context

MODEL = "org/reader"


@pytest.fixture(autouse=True)
def second(context: Context, model: str) -> None:
    """Beside rev1, which is served, rev2 is fetched."""
    with context.db.transaction() as tx:
        revisions.save_revision(tx, model, "rev2", source={}, path="/two", state="fetched")


def stand_by(context: Context, shown_id: str, revision: str, state: str = "standing_by") -> None:
    """A replica of the next revision, as a keeper's process makes it."""
    with context.db.transaction() as tx:
        made = fleet.save_replica(tx, worker=f"w-{revision}", model=MODEL, device="cpu", state=state, revision=revision)
        tx.execute(
            text(
                "UPDATE replicas SET deployment_id = :deployment, host = 'gpu-1', wanted = 'stand_by',"
                """ phases = '{"read": 1.5, "copy": 0.2}', memory_mib = 900, versions = '{"torch": "2.9"}'"""
                " WHERE id = :id"
            ),
            {"deployment": parse_id(DEPLOYMENT, shown_id), "id": made},
        )


def advance(context: Context, shown_id: str) -> str | None:
    """What a keeper's look does about a swap."""
    with context.db.transaction() as tx:
        found = deployments.find_deployment(tx, parse_id(DEPLOYMENT, shown_id))
        assert found is not None
        return swapping.advance(tx, found)


def test_a_deployment_from_its_launch_to_its_stop(client: FlaskClient, context: Context) -> None:
    made = client.post("/v1/deployments", json={"model": MODEL, "device": "cpu", "class": "batch", "idle_s": "8h"})
    assert made.status_code == 201
    body = made.json
    assert (body["status"], body["revision"], body["class"], body["idle_s"]) == ("waiting", "rev1", "batch", 28_800)
    assert (body["placed"], body["swap"], body["options"]) == ([], None, {})
    again = client.post("/v1/deployments", json={"model": MODEL, "device": "cpu"})
    assert (again.status_code, again.json["error"]["code"]) == (409, "deployment_exists")
    at = f"/v1/deployments/{body['id']}"
    stand_by(context, body["id"], "rev1", "ready")
    (replica,) = client.get(at).json["placed"]
    assert (replica["phases"], replica["memory_mib"], replica["host"]) == ({"read": 1.5, "copy": 0.2}, 900, "gpu-1")
    assert replica["versions"] == {"torch": "2.9"}
    assert [one["id"] for one in client.get("/v1/deployments").json["data"]] == [body["id"]]
    assert client.get("/v1/models").json["data"][0]["status"] == "ready"
    ensured = client.post("/v1/deployments/ensure", json={"model": MODEL, "device": "cpu", "replicas": 2}).json
    assert (ensured["done"], ensured["replicas"], ensured["status"]) == ("changed", 2, "ready")
    assert client.post(f"{at}/resume").status_code == 200
    assert client.post(f"{at}/cancel").json["replicas"] == 1
    assert client.post(f"{at}/stop").json["status"] == "stopped"
    assert client.post(f"{at}/stop").json["status"] == "stopped"
    refused = client.post(f"{at}/swap", json={"revision": "rev2"})
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "deployment_stopped")
    assert client.get("/v1/deployments").json["data"] == []
    assert client.get(at).json["stopped_at"] is not None


def test_a_deployment_has_golden_prompts_from_its_launch(client: FlaskClient, context: Context) -> None:
    golden = [{"id": "a", "prompt": "Say a.", "expect": "a"}]
    made = client.post("/v1/deployments", json={"model": MODEL, "golden": golden}).json
    assert made["goldens"] == 1
    ensured = [
        client.post("/v1/deployments/ensure", json={"model": MODEL, **more}).json
        for more in ({"golden": golden}, {}, {"golden": [*golden, {"prompt": "x", "expect": "y"}]}, {"golden": None})
    ]
    assert [(one["done"], one["goldens"]) for one in ensured] == [
        ("unchanged", 1), ("unchanged", 1), ("changed", 2), ("changed", 0)]  # fmt: skip
    bad = client.post("/v1/deployments/ensure", json={"model": MODEL, "golden": [{"prompt": "x"}]})
    assert (bad.status_code, bad.json["error"]["param"]) == (400, "golden.0.expect")
    stand_by(context, made["id"], "rev1", "ready")
    (told,) = client.get(f"/v1/deployments/{made['id']}").json["placed"]
    assert told["choice"] is None
    with context.db.transaction() as tx:
        tx.execute(text("""UPDATE replicas SET verdict = '{"choice": {"kind": "ours", "reason": "Ours: so."}}'"""))
    (told,) = client.get(f"/v1/deployments/{made['id']}").json["placed"]
    assert told["choice"] == "Ours: so."


def test_a_swap_and_its_way_back(client: FlaskClient, context: Context, app: OpenAPI, make_client: Any) -> None:
    made = client.post("/v1/deployments", json={"model": MODEL}).json["id"]
    at = f"/v1/deployments/{made}"
    golden = [{"prompt": "Say 4.", "expect": "4"}]
    begun = client.post(f"{at}/swap", json={"revision": "rev2", "golden": golden}, headers={"Idempotency-Key": "k"})
    assert (begun.status_code, begun.json["status"], begun.json["next_revision"]) == (200, "swapping", "rev2")
    assert (begun.json["swap"]["status"], begun.json["swap"]["by"], begun.json["swap"]["goldens"]) == (
        "loading", "tests", 1,
    )  # fmt: skip
    again = client.post(f"{at}/swap", json={"revision": "rev2", "golden": golden}, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    second = client.post(f"{at}/swap", json={"revision": "rev2"})
    assert (second.status_code, second.json["error"]["code"]) == (409, "swap_in_progress")
    assert "tests" in second.json["error"]["message"]
    stand_by(context, made, "rev2")
    advance(context, made)
    switched = client.get(at).json
    assert (switched["revision"], switched["swap"]["status"]) == ("rev2", "switched")
    assert switched["swap"]["ended_at"] is not None
    assert client.get(f"/v1/models/{MODEL}").json["revision"] == "rev2"
    back = client.post(f"{at}/rollback")
    assert (back.status_code, back.json["next_revision"], back.json["swap"]["rollback"]) == (200, "rev1", True)
    assert client.post(f"{at}/cancel").json["swap"]["status"] == "cancelled"
    types = [one["type"] for one in client.get(f"/v1/fleet/events?deployment={made}").json["data"]]
    assert types == [
        "deployment.swap_cancelled", "deployment.rollback_started", "deployment.switched", "deployment.swap_started",
        "deployment.launched",
    ]  # fmt: skip


def test_what_is_refused(client: FlaskClient) -> None:
    made = client.post("/v1/deployments", json={"model": MODEL}).json["id"]
    for path, body, status, code in (
        ("/v1/deployments", {"model": "nobody"}, 404, "model_not_found"),
        ("/v1/deployments", {"model": MODEL, "replicas": 65}, 400, "invalid_value"),
        ("/v1/deployments", [], 400, "invalid_type"),
        ("/v1/deployments/ensure", {"model": MODEL, "revision": "rev2"}, 409, "revision_differs"),
        (f"/v1/deployments/{made}/swap", {"revision": "rev9"}, 404, "revision_not_found"),
        (f"/v1/deployments/{made}/swap", {"revision": "rev1"}, 409, "revision_served"),
        (f"/v1/deployments/{made}/swap", {"revision": "rev2", "golden": [{}]}, 400, "missing_required_parameter"),
        (f"/v1/deployments/{made}/rollback", {}, 409, "no_previous_revision"),
        (f"/v1/deployments/dep_{new_id().hex}/stop", {}, 404, "deployment_not_found"),
        ("/v1/deployments/x/stop", {}, 404, "not_found"),
        ("/v1/hosts/gpu-9/drain", {}, 404, "host_not_found"),
        (f"/v1/replicas/rep_{new_id().hex}/drain", {}, 404, "replica_not_found"),
    ):
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json["error"]["code"]) == (status, code), (path, answer.json)
    assert client.get("/v1/fleet/events?deployment=x").status_code == 400
    assert client.get("/v1/fleet/events?subject=job").status_code == 400


def test_hosts_are_drained_and_who_did_it_is_told_to_the_first_tenant_alone(
    client: FlaskClient, stranger: FlaskClient, context: Context
) -> None:
    with context.db.transaction() as tx:
        hosts.open_host(tx, "gpu-1", new_id(), [hosts.Device("cuda:0", "cuda", 80_000, "H100")], {"zone": "a"})
    (host,) = client.get("/v1/hosts").json["data"]
    assert (host["id"], host["status"], host["draining"], host["labels"]) == ("gpu-1", "alive", False, {"zone": "a"})
    unknown = {"taken_mib": None, "use": None}
    assert host["devices"] == [{"name": "cuda:0", "kind": "cuda", "total_mib": 80_000, "title": "H100"} | unknown]
    assert client.post("/v1/hosts/gpu-1/drain").json["draining"] is True
    assert client.post("/v1/hosts/gpu-1/resume").json["draining"] is False
    page = client.get("/v1/fleet/events?limit=1&subject=host").json
    assert (page["data"][0]["type"], page["data"][0]["data"], page["has_more"]) == (
        "host.resumed", {"host": "gpu-1"}, True,
    )  # fmt: skip
    assert "tests" in page["data"][0]["actor"]
    rest = client.get(f"/v1/fleet/events?after={page['last_id']}").json
    assert [one["type"] for one in rest["data"]] == ["host.draining"]
    assert stranger.get("/v1/fleet/events").json["data"][0]["actor"] is None


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(
    app: OpenAPI,
    api_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logged: list[Any],
) -> Iterator[Callable[..., Said]]:
    """Run a command against the application on a socket, whose log lines go elsewhere."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("BATCHINFER_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("BATCHINFER_API_KEY", api_key)
    monkeypatch.setenv("BATCHINFER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    yield run
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_the_commands(run: Callable[..., Said], context: Context, tmp_path: Path) -> None:
    made = run("models", "launch", MODEL, "--device", "cpu", "--replicas", 1, "--label", "zone=a", "--idle", "30m",
               "--not-pinned", "--options", '{"a": 1}', "--class", "batch", "--json")  # fmt: skip
    (body,) = made.lines
    assert (body["labels"], body["idle_s"], body["options"], body["class"]) == ({"zone": "a"}, 1800, {"a": 1}, "batch")
    twice = run("models", "launch", MODEL, "--device", "cpu")
    assert twice.status == 1
    assert "is wanted on cpu already" in twice.err
    ensured = run("models", "ensure", MODEL, "--device", "cpu", "--slots", 4)
    assert (ensured.status, "changed" in ensured.out) == (0, True)
    (tmp_path / "golden.jsonl").write_text('{"prompt": "Say 4.", "expect": "4"}\n')
    begun = run("models", "swap", MODEL, "rev2", "--golden", "golden.jsonl", "--json").lines[0]
    assert (begun["swap"]["goldens"], begun["next_revision"]) == (1, "rev2")
    stand_by(context, body["id"], "rev2")
    listed = run("models", "list").out
    assert "swapping" in listed
    assert "read 1.5 s  copy 0.2 s" in listed
    advance(context, body["id"])
    assert run("models", "list", "--json").lines[0]["revision"] == "rev2"
    assert run("models", "rollback", body["id"]).status == 0
    assert "cancelled" in run("models", "cancel", MODEL).out
    assert run("models", "resume", MODEL).status == 0
    assert "stopped" in run("models", "stop", MODEL, "--device", "cpu").out
    gone = run("models", "stop", MODEL)
    assert (gone.status, "is not wanted" in gone.err) == (1, True)


def test_waiting_for_a_swap_says_how_it_ended(run: Callable[..., Said], context: Context) -> None:
    made = run("models", "launch", MODEL, "--json").lines[0]["id"]
    run("models", "swap", MODEL, "rev2")
    late = run("models", "swap", MODEL, "rev2", "--wait", "--timeout", 60)
    assert (late.status, "Wait for its end, or cancel it" in late.err) == (1, True)
    stand_by(context, made, "rev2", "failed")
    assert advance(context, made) == "failed"
    seen = len(events_of(context, made))

    def fail_once_begun() -> None:
        while len(events_of(context, made)) == seen:
            time.sleep(0.05)
        stand_by(context, made, "rev2", "failed")
        advance(context, made)

    thread = threading.Thread(target=fail_once_begun)
    thread.start()
    ended = run("models", "swap", MODEL, "rev2", "--wait", "--timeout", 60)
    thread.join(60)
    assert (ended.status, "failed" in ended.out, "load_failed" in ended.err) == (1, True, True)


def events_of(context: Context, shown_id: str) -> list[Any]:
    with context.db.transaction() as tx:
        return events.list_fleet(tx, subject_id=parse_id(DEPLOYMENT, shown_id))


def test_the_commands_of_workers(run: Callable[..., Said], context: Context) -> None:
    with context.db.transaction() as tx:
        hosts.open_host(tx, "gpu-1", new_id(), [hosts.Device("cuda:0", "cuda", 80_000)])
    made = run("models", "launch", MODEL, "--json").lines[0]["id"]
    stand_by(context, made, "rev1", "ready")
    listed = run("workers", "list")
    assert "cuda:0 80000 MiB" in listed.out
    replica = run("workers", "list", "--json").lines[1]
    assert replica["status"] == "ready"
    assert run("workers", "drain", replica["id"], "--json").lines[0]["wanted"] == "drain"
    assert "draining" in run("workers", "drain", "gpu-1").out
    assert "alive" in run("workers", "resume", "gpu-1").out
    assert run("workers", "drain", "nowhere").status == 1
