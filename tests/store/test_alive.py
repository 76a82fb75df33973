"""`python -m batchinfer.stack.alive`: the signs of life that health checks ask for."""

from __future__ import annotations

from uuid import uuid4

import pytest

from batchinfer.errors import Unavailable
from batchinfer.services import upkeep, work
from batchinfer.stack import alive
from batchinfer.store import hosts


def test_a_beat_is_well_while_somebody_ticks(bench):
    assert "ticked" in alive.find_trouble(bench.ctx, "beat")
    upkeep.tick(bench.ctx)
    assert alive.find_trouble(bench.ctx, "beat") is None
    bench.run("UPDATE ticks SET ticked_at = now() - interval '1 hour'")
    assert "ticked" in alive.find_trouble(bench.ctx, "beat")


def test_a_cpu_worker_is_well_while_it_holds_a_lease_of_this_machine(bench):
    name = bench.ctx.settings.machine_name
    work.open_lease(bench.ctx, role="cpu", worker="cpu0", host="elsewhere", pid=1)
    work.open_lease(bench.ctx, role="model", worker="model0", host=name, pid=2)
    assert name in alive.find_trouble(bench.ctx, "cpu")
    work.open_lease(bench.ctx, role="cpu", worker="cpu0", host=name, pid=3)
    assert alive.find_trouble(bench.ctx, "cpu") is None
    bench.run("UPDATE leases SET heartbeat_at = now() - interval '1 hour'")
    assert name in alive.find_trouble(bench.ctx, "cpu")


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
    upkeep.tick(context)
    assert alive.main(["beat"]) == 0
    assert capsys.readouterr().err == ""
    assert alive.main(["web"]) == alive.main([]) == 2
    monkeypatch.setattr(alive, "find_trouble", lambda *_: (_ for _ in ()).throw(Unavailable("away")))
    assert alive.main(["beat"]) == 1
    assert capsys.readouterr().err.endswith("The database does not answer.\n")


def test_an_address_that_is_missing_is_said(settings, monkeypatch, capsys):
    monkeypatch.setattr(alive, "load_settings", lambda: settings.model_copy(update={"redis_url": None}))
    assert alive.main(["cpu"]) == 2
    assert "BATCHINFER_REDIS_URL" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["web", "model", ""])
def test_a_role_without_a_sign_of_life_is_none(context, role):
    with pytest.raises(KeyError):
        alive.find_trouble(context, role)
