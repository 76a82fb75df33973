"""The registry over HTTP, in the Python client and at the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from batchinfer.cli.models import models as cli
from batchinfer.cli.registry import describe_progress, read_source
from batchinfer.client.transport import Transport
from batchinfer.services import audit
from batchinfer.services.keys import create_key, ensure_default_tenant
from batchinfer.web import create_app
from tests.registry.conftest import COMMIT, REPO

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from batchinfer.services.context import Context
    from batchinfer.settings import Settings
    from tests.registry.conftest import Desk, FakeHub

BODY = {"name": "acme/reader", "source": {"kind": "huggingface", "repo": REPO}}
ONE = f"/v1/models/acme/reader/revisions/{COMMIT}"


@pytest.fixture
def open_http(context: Context) -> Any:
    """A client of the service with a key of these scopes."""
    app = create_app(context=context)
    ensure_default_tenant(context)

    def make(*scopes: str) -> FlaskClient:
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {create_key(context, 'x', list(scopes))[1]}"
        return client

    return make


def test_a_model_is_registered_fetched_and_pruned(open_http: Any, desk: Desk) -> None:
    http = open_http("fetch", "read")
    made = http.post("/v1/models", json=BODY)
    assert made.status_code == 200
    assert (made.json["id"], made.json["status"], made.json["progress"]) == (COMMIT, "registered", None)
    assert made.json["source"] == {"kind": "huggingface", "repo": REPO, "asked": "main"}
    begun = http.post(f"{ONE}/fetch").json
    assert (begun["status"], begun["progress"]["bytes"]) == ("fetching", 0)
    assert http.post(f"{ONE}/cancel").json["status"] == "registered"
    assert http.post(f"{ONE[:-30]}/fetch").json["status"] == "fetching"
    assert desk.step() is True
    done = http.get(ONE).json
    assert (done["status"], done["error"], done["facts"]["context_tokens"]) == ("fetched", None, 4096)
    assert all(len(file["sha256"]) == 64 for file in done["files"])
    assert [one["id"] for one in http.get("/v1/models/acme/reader/revisions").json["data"]] == [COMMIT]
    assert http.get("/v1/models/acme/reader").json["revision"] == COMMIT
    said = http.post("/v1/models/prune", json={"dry_run": True}).json
    assert (said["freed_bytes"], said["data"][0]["kept"]) == (0, "default")
    gone = http.post("/v1/models/prune", json={"model": "acme/reader", "revision": COMMIT}).json
    assert gone["freed_bytes"] == done["bytes"]
    assert http.get(ONE).json["status"] == "registered"
    acts = [stored.act.action for stored in audit.list_acts(desk.ctx, desk.caller).data]
    assert acts[:5] == ["model.prune", "model.fetch", "model.cancel_fetch", "model.fetch", "model.register"]


def test_what_is_here_is_read_again_by_a_cpu_worker(open_http: Any, desk: Desk) -> None:
    http = open_http("fetch", "read")
    made = desk.register("acme/reader")
    refused = http.post(f"{ONE}/verify")
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "revision_not_fetched")
    fetched = desk.fetch(made)
    begun = http.post(f"{ONE}/verify").json
    assert (begun["status"], begun["progress"]["total_bytes"]) == ("fetched", fetched.size_bytes)
    assert http.post(f"{ONE}/verify").json["progress"] is not None, "twice is as once"
    assert http.post(f"{ONE}/cancel").json["progress"] is None
    assert desk.claim() is None
    http.post(f"{ONE}/verify")
    assert desk.step(lambda: False) is False, "told to end, the worker gives it back"
    desk.lose()
    desk.make_due()
    assert desk.step() is True
    done = http.get(ONE).json
    assert (done["status"], done["progress"], done["error"], done["verified_at"]) == ("fetched", None, None, None)
    assert done["checked_at"] is not None
    assert desk.claim() is None
    acts = [stored.act.action for stored in audit.list_acts(desk.ctx, desk.caller).data]
    assert acts.count("model.verify") == 3


def test_a_shard_that_is_short_by_one_byte_is_found_so(open_http: Any, desk: Desk) -> None:
    http = open_http("fetch", "read")
    found = desk.fetch(desk.register("acme/reader"))
    shard = next(Path(found.path).glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    http.post(f"{ONE}/verify")
    assert desk.step() is True, "the check was made"
    failed = http.get(ONE).json
    assert (failed["status"], failed["progress"], failed["error"]["code"]) == ("failed", None, "model_changed")
    assert shard.name in failed["error"]["message"]
    assert http.post(f"{ONE}/verify").status_code == 409


def test_to_fetch_and_to_launch_are_separate_scopes(open_http: Any, desk: Desk) -> None:
    desk.register("acme/reader")
    http = open_http("launch", "read", "submit")
    for path, body in (("/v1/models", BODY), ("/v1/models/prune", {}), (f"{ONE}/fetch", None), (f"{ONE}/cancel", None),
                       (f"{ONE}/verify", None)):  # fmt: skip
        answer = http.post(path, json=body) if body is not None else http.post(path)
        assert (answer.status_code, answer.json["error"]["code"]) == (403, "insufficient_scope"), path
    assert http.get(ONE).json["source"] == {"kind": "huggingface"}
    assert open_http("fetch").get(ONE).status_code == 403


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a"}, "source"),
        ({"source": BODY["source"]}, "name"),
        ({"name": "a", "source": {"kind": "torrent"}}, "source.kind"),
        ({"name": "a", "source": {"kind": "huggingface"}}, "source.repo"),
        ({"name": "a", "source": {"kind": "huggingface", "repo": "../../etc"}}, "source.repo"),
        ({"name": "a", "source": {"kind": "huggingface", "repo": "a/b", "revision": "../x"}}, "source.revision"),
        ({"name": "a", "source": {"kind": "folder", "path": "relative"}}, "source.path"),
        ({"name": "a", "source": {"kind": "folder", "path": "/x/../etc"}}, "source.path"),
        ({"name": "a", "source": {"kind": "folder", "path": "/etc"}}, "source"),
        ({"name": "a", "source": {"kind": "bucket", "uri": "http://127.0.0.1/x"}}, "source"),
        ({"name": "a", "source": {"kind": "bucket", "uri": "s3://nobodys/x"}}, "source"),
        ({"name": "a", "source": {"kind": "folder", "path": "/x", "token": "secret"}}, "source.token"),
    ],
)
def test_bad_sources_are_refused_with_their_field(
    open_http: Any, hub: FakeHub, body: dict[str, Any], param: str
) -> None:
    answer = open_http("fetch").post("/v1/models", json=body)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)
    assert hub.asked == []


def test_what_is_not_there_is_404(open_http: Any, desk: Desk) -> None:
    http = open_http("fetch", "read")
    assert http.get("/v1/models/nobody/revisions").json["error"]["code"] == "model_not_found"
    desk.register()
    for method, path in (("GET", ""), ("POST", "/fetch"), ("POST", "/verify"), ("POST", "/cancel")):
        answer = http.open(f"/v1/models/reader/revisions/ffffffff{path}", method=method)
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "revision_not_found")
    pruned = http.post("/v1/models/prune", json={"model": "nobody"})
    assert pruned.json["error"]["code"] == "model_not_found"


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`batchinfer models ...`, beside the servers of this test."""
    for name in ("home", "database_url", "redis_url", "hub_url", "hub_networks"):
        value = getattr(settings, name)
        plain = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        monkeypatch.setenv(f"BATCHINFER_{name.upper()}", plain)

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(cli, list(arguments))

    return invoke


def test_the_command_line_does_the_same(run: Any, desk: Desk) -> None:
    made = run("register", REPO)
    assert made.exit_code == 0, made.output
    assert f"reader is known, revision {COMMIT}" in made.output
    assert "licence: apache-2.0" in made.output
    assert run("fetch", "reader", "--detach").output.split()[3] == "fetching."
    assert "is registered" in run("fetch", "reader", "--cancel").output
    run("fetch", "reader", "--detach")
    assert desk.step() is True
    assert "is fetched" in run("fetch", "reader").output
    listed = run("revisions", "reader", "--json").stdout.splitlines()
    assert [json.loads(line)["status"] for line in listed] == ["fetched"]
    assert "stays (default)" in run("prune", "--dry-run").output
    gone = run("prune", "reader", COMMIT, "--yes", "--json")
    assert json.loads(gone.stdout)["kept"] is None
    assert desk.read(desk.register()).state == "registered"


def test_the_command_line_has_files_read_remotely(run: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP in this process: what the client asks for is answered by the service's routes and a worker's step."""
    made = desk.fetch(desk.register())
    app = create_app(context=desk.ctx)
    key = create_key(desk.ctx, "x", ["fetch", "read"])[1]

    def ask(_self: Any, method: str, path: str, **_: Any) -> Any:
        answer = app.test_client().open(path, method=method, headers={"Authorization": f"Bearer {key}"})
        if path.endswith("/verify"):
            desk.step()
        return answer.json

    monkeypatch.setattr(Transport, "ask", ask)
    service = ("--url", "http://127.0.0.1:9", "--remote")
    monkeypatch.setenv("BATCHINFER_API_KEY", key)
    done = run("verify", "reader", *service)
    assert (done.exit_code, "files of reader" in done.output) == (0, True), done.output
    shard = next(Path(made.path).glob("*.safetensors"))
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    failed = run("verify", "reader", "--revision", COMMIT[:8], *service)
    assert (failed.exit_code, "has changed" in failed.output) == (1, True), failed.output


def test_a_fetch_that_fails_ends_with_1_and_says_why(run: Any, desk: Desk, hub: FakeHub) -> None:
    made = desk.register()
    desk.begin(made)
    hub.statuses = [403] * 9
    desk.step()
    listed = run("revisions", "reader")
    assert "HF_TOKEN" in listed.output


def test_what_a_source_on_the_command_line_means(tmp_path: Any) -> None:
    assert read_source("a/b", None, modelscope=False) == {"kind": "huggingface", "repo": "a/b"}
    assert read_source("a/b", "v1", modelscope=True) == {"kind": "modelscope", "repo": "a/b", "revision": "v1"}
    assert read_source("s3://a/b", None, modelscope=False) == {"kind": "bucket", "uri": "s3://a/b"}
    assert read_source(str(tmp_path), None, modelscope=False) == {"kind": "folder", "path": str(tmp_path)}


def test_progress_is_told_in_words(desk: Desk) -> None:
    from dataclasses import replace

    made = replace(desk.register(), size_bytes=10_000_000, fetched_bytes=1_900_000, progress=None)
    assert describe_progress(made) == "waiting for a CPU worker"
    told = replace(made, progress={"bytes_per_s": 81_000, "file": "model.safetensors"})
    assert describe_progress(told) == "81.0 kB/s  1 min 40 s left  model.safetensors"
