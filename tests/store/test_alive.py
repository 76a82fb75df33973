"""`python -m batchinfer.stack.alive`: the signs of life that health checks ask for."""

from __future__ import annotations

import socket
from uuid import uuid4

import pytest
from pydantic import SecretStr

from batchinfer.errors import Unavailable
from batchinfer.services import upkeep, work
from batchinfer.stack import alive
from batchinfer.store import hosts


def test_a_beat_is_well_while_a_beat_ticks(bench):
    assert "ticked" in alive.find_trouble(bench.ctx, "beat")
    upkeep.tick(bench.ctx)
    assert "ticked" in alive.find_trouble(bench.ctx, "beat"), "a CPU worker ticked in its stead"
    upkeep.tick(bench.ctx, by_beat=True)
    assert alive.find_trouble(bench.ctx, "beat") is None
    bench.run("UPDATE ticks SET ticked_at = now() - interval '1 hour'")
    assert "ticked" in alive.find_trouble(bench.ctx, "beat")


@pytest.mark.parametrize(("role", "other"), [("cpu", "model"), ("model", "cpu")])
def test_a_worker_is_well_while_it_holds_a_lease_of_this_machine(bench, role, other):
    name = bench.ctx.settings.machine_name
    work.open_lease(bench.ctx, role=role, worker="w0", host="elsewhere", pid=1)
    work.open_lease(bench.ctx, role=other, worker="w1", host=name, pid=2)
    assert name in alive.find_trouble(bench.ctx, role)
    lease_id = work.open_lease(bench.ctx, role=role, worker="w0", host=name, pid=3)
    assert alive.find_trouble(bench.ctx, role) is None
    bench.run("UPDATE leases SET heartbeat_at = now() - interval '1 hour'")
    assert name in alive.find_trouble(bench.ctx, role)
    bench.run("UPDATE leases SET heartbeat_at = now()")
    work.end_lease(bench.ctx, lease_id, work.ORDERLY_END)
    assert name in alive.find_trouble(bench.ctx, role)


def test_a_keeper_is_well_while_its_host_lives(bench):
    name, keeper = bench.ctx.settings.machine_name, uuid4()
    assert name in alive.find_trouble(bench.ctx, "host")
    with bench.ctx.db.transaction() as tx:
        hosts.open_host(tx, name, keeper, [])
    assert alive.find_trouble(bench.ctx, "host") is None
    with bench.ctx.db.transaction() as tx:
        hosts.end_host(tx, name, keeper)
    assert name in alive.find_trouble(bench.ctx, "host")


def test_what_it_ends_with(settings, context, monkeypatch, capsys):
    monkeypatch.setattr(alive, "load_settings", lambda: settings)
    assert alive.main(["beat"]) == 1
    assert "ticked" in capsys.readouterr().err
    assert alive.main(["beat", alive.EXCUSE]) == 1
    upkeep.tick(context, by_beat=True)
    capsys.readouterr()
    assert alive.main(["beat"]) == 0
    assert capsys.readouterr().err == ""
    assert alive.main(["web"]) == alive.main([]) == alive.main(["beat", "--other"]) == 2
    monkeypatch.setattr(alive, "find_trouble", lambda *_: (_ for _ in ()).throw(Unavailable("away")))
    assert alive.main(["beat"]) == 1
    assert capsys.readouterr().err.endswith("The database does not answer.\n")
    assert alive.main(["beat", alive.EXCUSE]) == 0
    assert capsys.readouterr().err == ""


def test_an_address_that_is_missing_is_said(settings, monkeypatch, capsys):
    monkeypatch.setattr(alive, "load_settings", lambda: settings.model_copy(update={"redis_url": None}))
    assert alive.main(["cpu"]) == 2
    assert "BATCHINFER_REDIS_URL" in capsys.readouterr().err


@pytest.mark.long
def test_a_database_that_is_away_or_stands_still_is_excused(settings, monkeypatch):
    """Nobody listens at the address; then somebody who never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (9, silent.getsockname()[1]):
            away = {"database_url": SecretStr(f"postgresql://nobody@127.0.0.1:{port}/nothing")}
            changed = settings.model_copy(update=away)
            monkeypatch.setattr(alive, "load_settings", lambda changed=changed: changed)
            assert alive.main(["model", alive.EXCUSE]) == 0
            assert alive.main(["model"]) == 1


@pytest.mark.parametrize("role", ["web", ""])
def test_a_role_without_a_sign_of_life_is_none(context, role):
    with pytest.raises(KeyError):
        alive.find_trouble(context, role)
