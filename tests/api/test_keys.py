"""Keys and tenants over HTTP: a secret is shown once, no key hands on what it lacks, an ended one opens nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from batchinfer import cli
from batchinfer.domain.ids import KEY, show_id
from batchinfer.services.keys import create_key

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from batchinfer.services.context import Context


def test_a_key_is_made_used_and_revoked(client: FlaskClient, make_client: Any) -> None:
    wanted = {"name": "scanner", "scopes": ["read", "submit"], "expires_in": 3600, "requests_per_minute": 50}
    made = client.post("/v1/keys", json=wanted)
    assert made.status_code == 201
    token, shown = made.json["key"], {name: value for name, value in made.json.items() if name != "key"}
    assert token.startswith(shown["prefix"] + "_")
    assert (shown["scopes"], shown["status"], shown["last_used_at"]) == (["read", "submit"], "active", None)
    assert shown["expires_at"] - shown["created_at"] == 3600
    own = make_client(token)
    used = own.get("/v1/jobs")
    assert (used.status_code, used.headers["x-ratelimit-limit-requests"]) == (200, "50")
    assert own.get("/v1/keys").status_code == 403
    again = client.get(f"/v1/keys/{shown['id']}").json
    assert again["last_used_at"] is not None
    assert again == shown | {"last_used_at": again["last_used_at"]}
    for _ in range(2):
        ended = client.post(f"/v1/keys/{shown['id']}/revoke")
        assert (ended.status_code, ended.json["status"]) == (200, "revoked")
    assert own.get("/v1/jobs").status_code == 401
    assert token not in client.get("/v1/keys").get_data(as_text=True) + client.get("/v1/audit").get_data(as_text=True)


def test_a_replay_never_shows_the_key(client: FlaskClient) -> None:
    body = {"name": "once", "scopes": ["read"]}
    first = client.post("/v1/keys", json=body, headers={"Idempotency-Key": "k"})
    again = client.post("/v1/keys", json=body, headers={"Idempotency-Key": "k"})
    other = client.post("/v1/keys", json={**body, "name": "two"}, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.headers["Idempotency-Replayed"], again.json["key"]) == (201, "true", None)
    assert again.json["id"] == first.json["id"]
    assert other.status_code == 422
    assert [key["name"] for key in client.get("/v1/keys").json["data"]] == ["once", "tests"]


def test_no_key_hands_on_what_it_lacks(client: FlaskClient, make_client: Any, context: Context) -> None:
    clerk = make_client(create_key(context, "clerk", ["admin", "read"])[1])
    refused = clerk.post("/v1/keys", json={"name": "more", "scopes": ["read", "submit"]})
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "scope_not_held")
    assert clerk.post("/v1/keys", json={"name": "less", "scopes": ["read"]}).status_code == 201


def test_a_key_is_replaced_by_its_like(client: FlaskClient, make_client: Any) -> None:
    body = {"name": "scanner", "scopes": ["read"], "requests_per_minute": 90, "expires_in": 86_400}
    old = client.post("/v1/keys", json=body).json
    new = client.post(f"/v1/keys/{old['id']}/rotate", json={"overlap": 3600}, headers={"Idempotency-Key": "r"})
    shown = new.json
    assert (new.status_code, shown["name"], shown["scopes"], shown["requests_per_minute"]) == (
        201, "scanner", ["read"], 90)  # fmt: skip
    assert shown["key"] not in (None, old["key"])
    assert shown["expires_at"] - shown["created_at"] == 86_400
    ends = client.get(f"/v1/keys/{old['id']}").json
    assert abs(ends["expires_at"] - ends["created_at"] - 3600) < 300
    for token in (old["key"], shown["key"]):
        assert make_client(token).get("/v1/jobs").status_code == 200
    again = client.post(f"/v1/keys/{old['id']}/rotate", json={"overlap": 3600}, headers={"Idempotency-Key": "r"})
    assert (again.json["id"], again.json["key"]) == (shown["id"], None)
    # It never lives longer by it than it would have.
    client.post(f"/v1/keys/{old['id']}/rotate")
    assert client.get(f"/v1/keys/{old['id']}").json["expires_at"] == ends["expires_at"]
    client.post(f"/v1/keys/{shown['id']}/rotate", json={"overlap": 0})
    assert make_client(shown["key"]).get("/v1/jobs").status_code == 401
    refused = client.post(f"/v1/keys/{shown['id']}/rotate")
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "key_ended")


def test_a_key_replaces_none_that_may_do_more(client: FlaskClient, context: Context, make_client: Any) -> None:
    strong, _token = create_key(context, "strong", ["submit", "read"])
    clerk = make_client(create_key(context, "clerk", ["admin", "read"])[1])
    refused = clerk.post(f"/v1/keys/{show_id(KEY, strong.id)}/rotate")
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "scope_not_held")
    assert client.get(f"/v1/keys/{show_id(KEY, strong.id)}").json["expires_at"] is None


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"name": None}, "name", "missing_required_parameter"),
        ({"name": "a\nb"}, "name", "invalid_value"),
        ({"scopes": []}, "scopes", "invalid_value"),
        ({"scopes": ["root"]}, "scopes.0", "invalid_value"),
        ({"scopes": "read"}, "scopes", "invalid_type"),
        ({"expires_in": 0}, "expires_in", "invalid_value"),
        ({"requests_per_minute": True}, "requests_per_minute", "invalid_type"),
        ({"scope": ["read"]}, "scope", "unknown_parameter"),
    ],
)
def test_what_is_wrong_is_named(client: FlaskClient, change: dict[str, Any], param: str, code: str) -> None:
    answer = client.post("/v1/keys", json={"name": "x", "scopes": ["read"], **change})
    assert (answer.status_code, answer.json["error"]["param"], answer.json["error"]["code"]) == (400, param, code)


def test_pages_hold_each_key_once(client: FlaskClient, context: Context) -> None:
    for number in range(5):
        create_key(context, f"k{number}", ["read"])
    seen: list[str] = []
    page = client.get("/v1/keys?limit=2").json
    while True:
        seen += [key["name"] for key in page["data"]]
        if not page["has_more"]:
            break
        page = client.get(f"/v1/keys?limit=2&after={page['last_id']}").json
    assert seen == ["k4", "k3", "k2", "k1", "k0", "tests"]


def test_an_operator_makes_a_tenant_and_its_first_key(client: FlaskClient, stranger: FlaskClient) -> None:
    made = client.post("/v1/tenants", json={"name": "post room", "max_jobs": 10, "weight": 2})
    assert (made.status_code, made.json["max_jobs"]) == (201, 10)
    twice = client.post("/v1/tenants", json={"name": "post room"})
    assert (twice.status_code, twice.json["error"]["code"]) == (409, "tenant_exists")
    assert client.get("/v1/tenants").json["data"][0]["name"] == "post room"
    wanted = {"name": "first", "scopes": ["admin"], "tenant": "post room"}
    key = client.post("/v1/keys", json=wanted).json
    assert [one["id"] for one in client.get("/v1/keys?tenant=post room").json["data"]] == [key["id"]]
    for method, path in (("POST", "/v1/tenants"), ("GET", "/v1/tenants")):
        assert stranger.open(path, method=method, json={"name": "mine"}).status_code == 403
    refused = stranger.post("/v1/keys", json=wanted)
    assert (refused.status_code, refused.json["error"]["code"]) == (404, "tenant_not_found")
    assert stranger.get("/v1/keys?tenant=post room").status_code == 404
    assert client.post(f"/v1/keys/{key['id']}/revoke").json["status"] == "revoked"


def test_the_command_line_makes_keys_of_tenants(
    context: Context, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, make_client: Any
) -> None:
    monkeypatch.setenv("BATCHINFER_DATABASE_URL", context.settings.require_database_url())
    monkeypatch.setenv("BATCHINFER_REDIS_URL", context.settings.require_redis_url())
    monkeypatch.setenv("BATCHINFER_HOME", str(context.settings.home))
    made = CliRunner().invoke(cli.cli, ["keys", "create", "--tenant", "post room", "--scope", "read"])
    assert made.exit_code == 0, made.output
    token = next(line for line in made.output.splitlines() if line.startswith("bi_"))
    assert make_client(token).get("/v1/queue").json["quota"]["tenant"] == "post room"
    listed = CliRunner().invoke(cli.cli, ["keys", "list", "--tenant", "post room"])
    assert token[:11] in listed.output
    new = json.loads(CliRunner().invoke(cli.cli, ["keys", "create", "--name", "spare", "--json"]).stdout)
    assert make_client(new["key"]).get("/v1/queue").status_code == 200
    ended = json.loads(CliRunner().invoke(cli.cli, ["keys", "revoke", new["id"], "--json"]).stdout)
    assert (ended["id"], ended["status"]) == (new["id"], "revoked")
    lines = CliRunner().invoke(cli.cli, ["keys", "list", "--json"]).stdout.splitlines()
    assert ended in [json.loads(line) for line in lines]
    act = json.loads(CliRunner().invoke(cli.cli, ["audit", "--limit", "1", "--json"]).stdout)
    assert (act["action"], act["subject"]) == ("key.revoke", new["id"])
    audit = CliRunner().invoke(cli.cli, ["audit"]).output
    assert "tenant.create" in audit
    assert "by the command line" in audit
    with context.db.transaction() as tx:
        assert tx.execute(text("SELECT count(*) FROM audit WHERE key_id IS NOT NULL")).scalar() == 0
