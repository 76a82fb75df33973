"""`POST /v1/models/{name}/plan`, the client's view of it, and the bars of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from batchinfer.cli import cli
from batchinfer.cli.bars import WIDTH, draw_bar
from batchinfer.client.models import Models
from batchinfer.client.nouns import LaunchPlan
from batchinfer.domain.ids import new_id
from batchinfer.media.weight_headers import read_model_facts
from batchinfer.services import models
from batchinfer.services.keys import create_key
from batchinfer.store import hosts
from batchinfer.store.hosts import Device

DOCREADER = Path(__file__).resolve().parents[2] / "workers/models/docreader"
NAME = "org/reader"


@pytest.fixture
def there(context, api_key):
    """A model with its facts, and a host with a CPU of 4,000 MiB."""
    models.register_model(context, NAME, str(DOCREADER), "r1", read_model_facts(DOCREADER))
    with context.db.transaction() as tx:
        hosts.open_host(tx, "box", new_id(), [Device("cpu", "cpu", 4000, "EPYC")])


def test_a_plan_is_answered_to_readers(client, make_client, context, there):
    reader = make_client(create_key(context, "reader", ["read"])[1])
    answer = reader.post(f"/v1/models/{NAME}/plan", json={"slots": 4})
    assert answer.status_code == 200
    plan = answer.json["plan"]
    parts = ("weights_mib", "activations_mib", "kv_mib", "workspace_mib")
    assert plan["total_mib"] == sum(plan[part] for part in parts)
    assert (plan["slots"], plan["dtype"], plan["measured"]) == (4, "float32", False)
    (device,) = answer.json["devices"]
    assert (device["host"], device["device"], device["total_mib"], device["fits"]) == ("box", "cpu", 4000, True)
    assert answer.json["text"].startswith(f"{NAME} fits on cpu of box")
    assert reader.post(f"/v1/models/{NAME}/plan").json["plan"]["slots"] == 8
    submits = make_client(create_key(context, "submits", ["submit"])[1])
    assert submits.post(f"/v1/models/{NAME}/plan").status_code == 403


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        (NAME, {"memory_mib": 10}, 400, "memory_budget_too_small"),
        (NAME, {"device": "tpu"}, 400, "invalid_value"),
        (NAME, {"shots": 1}, 400, "unknown_parameter"),
        ("nobody", {}, 404, "model_not_found"),
        ("away", {}, 409, "model_facts_unknown"),
    ],
)
def test_what_cannot_be_planned(client, context, there, name, body, status, code):
    models.register_model(context, "away", "/nowhere", "r1", {})
    answer = client.post(f"/v1/models/{name}/plan", json=body)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


@pytest.fixture
def asked(client, monkeypatch):
    """The command line's client, which asks the service of this process."""

    def ask(method, path, *, json):
        return client.open(path.replace("%2F", "/"), method=method, json=json).json

    found = SimpleNamespace(models=Models(SimpleNamespace(ask=ask)))

    class Opened:
        def __enter__(self):
            return found

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("batchinfer.cli.remote.open_client", lambda *_: Opened())
    return found


def test_the_command_draws_a_bar_for_each_device(asked, there):
    result = CliRunner().invoke(cli, ["models", "plan", NAME, "--slots", "4", "--dtype", "bfloat16"])
    assert result.exit_code == 0, result.output
    assert "org/reader r1: " in result.output
    assert "4 slots of up to 1,024 tokens, bfloat16" in result.output
    (bar,) = [line for line in result.output.splitlines() if line.startswith("  [")]
    assert bar.endswith("] 4,000 MiB")
    assert set(bar[3 : 3 + WIDTH]) == {"#", "+", "."}
    assert "org/reader fits on cpu of box" in result.output


def test_the_command_ends_with_1_where_nothing_fits(asked, there, context):
    with context.db.transaction() as tx:
        hosts.open_host(tx, "box", new_id(), [Device("cpu", "cpu", 2000, "EPYC")])
    result = CliRunner().invoke(cli, ["models", "plan", NAME])
    assert result.exit_code == 1
    assert "org/reader does not fit on cpu of box" in result.output
    assert "!" in result.output
    told = CliRunner().invoke(cli, ["models", "plan", NAME, "--json"])
    assert (told.exit_code, LaunchPlan.model_validate(json.loads(told.output.splitlines()[-1])).fits) == (1, False)


def test_a_bar_is_as_wide_as_the_device_and_what_is_missing_goes_over_its_end(asked, there):
    device = asked.models.plan(NAME).devices[0]
    assert len(draw_bar(device)) == WIDTH
    over = device.model_copy(update={"missing_mib": 2000, "free_mib": 0})
    assert draw_bar(over) == "#" * 15 + "." * 45 + "!" * 30
