"""The Workers page as a browser without JavaScript gets it: hosts, processes, what happened, drain and resume."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text as sql

from batchinfer.domain.ids import REPLICA, show_id
from batchinfer.domain.replicas import ReplicaState as S
from batchinfer.services import hosts, work
from batchinfer.store import audit
from batchinfer.store.hosts import DeviceLoad

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

HOSTILE = "<b>box</b>\u202eevil"


def flat(page: Any) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.text)))


def test_an_empty_installation_says_how_to_begin(client: FlaskClient) -> None:
    page = flat(client.get("/admin/workers"))
    assert "No host has a keeper yet. Start one on this machine: batchinfer up" in page
    assert "No worker is there." in page
    assert "Nothing was noted yet." in page


def test_hosts_and_processes_with_what_they_hold(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    fleet.open(HOSTILE, gpu="none")
    fleet.launch(replicas=2)
    first, second = fleet.place()
    lease = fleet.bring_up(first)
    fleet.move(second.id, S.LOADING)
    page = client.get("/admin/workers")
    text = flat(page)
    assert "<b>box</b>" not in page.text
    assert "U+202E" in page.text
    assert "24,152 MiB EPYC 7B13" in text
    assert "gpu=none" in text
    assert "0 of 8" in text
    assert re.search(r"not known 507 when it was ready [\d,]+ kept for it of 24,152", text)
    assert "all processes now: not known, in use: not known" in text
    fleet.beat(DeviceLoad(12_345, 0.5), {"rss_mib": 812, "cores_used": 1.24, "device_mib": None})
    text = flat(client.get("/admin/workers"))
    assert "all processes now: 12,345 MiB, in use: 50 %" in text
    assert "0 of 8 1.2 cores" in text
    assert "812 507 when it was ready" in text
    assert "all processes now: 12,345 MiB" in flat(client.get("/admin/models"))
    assert "model · 0.3.0" in text
    assert "loading" in text
    assert "s-silent" not in page.text
    assert "s-paused" not in page.text
    work.beat(context, lease, {"paused": "memory pressure", "cores": "2-5"})
    page = client.get("/admin/workers")
    assert page.text.count("s-paused") == 1
    assert "paused memory pressure" in flat(page)
    assert "cores 2-5" in flat(page)
    with context.db.transaction() as tx:
        tx.execute(sql("UPDATE leases SET heartbeat_at = now() - interval '1 minute'"))
        tx.execute(sql("UPDATE hosts SET heartbeat_at = now() - interval '15 seconds'"))
    page = client.get("/admin/workers")
    assert page.text.count("s-silent") == 2
    assert "1 m 0" in flat(page)
    work.end_lease(context, lease, "its keeper ended")
    page = client.get("/admin/workers")
    assert re.search(r'<tr id="w[0-9a-f]{32}" class="over">', page.text)
    assert "its keeper ended" in page.text


def test_a_host_is_drained_and_taken_back_once_asked(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    fleet.open()
    fleet.launch()
    fleet.bring_up(*fleet.place())
    question = flat(client.get("/admin/hosts/box/drain"))
    assert "1 replicas there end what runs and end" in question
    assert client.get("/admin/hosts/nowhere/drain").status_code == 404
    assert client.post("/admin/hosts/nowhere/drain").status_code == 404
    assert client.post("/admin/hosts/box/drain").status_code == 303
    (host,) = hosts.list_hosts(context, fleet.caller)
    assert host.draining
    page = client.get("/admin/workers")
    assert "box is drained" in page.text
    assert "Take it back" in page.text
    assert client.post("/admin/hosts/box/resume").status_code == 303
    (host,) = hosts.list_hosts(context, fleet.caller)
    assert not host.draining
    with context.db.transaction() as tx:
        listed = audit.list_acts(tx, None, audit.Wanted(), after=None, limit=10)
    assert [one.act.action for one in listed][:2] == ["host.resume", "host.drain"]


def test_a_replica_is_drained_once_asked(client: FlaskClient, fleet: Any) -> None:
    fleet.know()
    fleet.open()
    fleet.launch()
    (replica,) = fleet.place()
    fleet.bring_up(replica)
    path = f"/admin/replicas/{show_id(REPLICA, replica.id)}/drain"
    assert path in client.get("/admin/workers").text
    assert "Where it is still wanted, another one is loaded." in client.get(path).text
    assert client.post(path).status_code == 303
    assert path not in client.get("/admin/workers").text
    assert fleet.list_all()[0].wanted == "drain"
    assert client.get("/admin/replicas/rep_1/drain").status_code == 404


def test_events_are_filtered_and_paged_by_key(client: FlaskClient, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchinfer.admin.workers.EVENTS", 2)
    fleet.know()
    for name in ("one", "two", "three"):
        fleet.open(name)
    fleet.launch()
    assert "deployment launched" in flat(client.get("/admin/workers"))
    page = client.get("/admin/workers?subject=host")
    lines = re.findall(r"<b>host opened</b>", page.text)
    assert len(lines) == 2
    assert "deployment launched" not in flat(page)
    older = re.search(r'rel="next" href="([^"]+)"', page.text)
    assert older is not None
    last = client.get(html.unescape(older[1]))
    assert len(re.findall(r"<b>host opened</b>", last.text)) == 1
    assert 'rel="next"' not in last.text
    for query in ("subject=job", "after=x", "after=evt_1"):
        assert client.get(f"/admin/workers?{query}").status_code == 400
