"""The Doctor page, and what a worker notes of its host when it starts."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from batchinfer.admin.doctor import find_latest
from batchinfer.doctor.everything import HOST, SERVICE, note_host
from batchinfer.doctor.findings import Finding, Level
from batchinfer.services import keys
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.doctor.findings import Look
    from batchinfer.doctor.latest import Latest
    from batchinfer.services.context import Context


def enter(context: Context, token: str) -> Any:
    client = create_app(context=context).test_client()
    assert client.post("/admin/sign-in", data={"key": token}).status_code == 303
    return client


def test_every_check_is_on_the_page_with_what_to_do(context: Context, api_key: str) -> None:
    page = enter(context, api_key).get("/admin/doctor")
    assert page.status_code == 200
    text = html.unescape(page.text)
    for check in (*SERVICE, *HOST):
        assert f">{check.name}</th>" in text
    assert "No worker is there: jobs wait." in text
    assert "Start one with `batchinfer up`" in text


def test_the_worst_finding_is_on_the_overview_once_somebody_looked(context: Context, api_key: str) -> None:
    client = enter(context, api_key)
    assert "What the doctor advises" not in client.get("/admin/").text
    client.get("/admin/doctor")
    latest = find_latest_of(client)
    latest.note([Finding("schema", "service", Level.ERROR, "It is <old>.", "w", "r", 1.0)])
    text = client.get("/admin/").text
    assert "What the doctor advises" in text
    assert "It is &lt;old&gt;." in text
    assert "notice bad" in text
    _, token = keys.create_key(context, "only reads", ["read"])
    reader = client.application.test_client()
    assert reader.post("/admin/sign-in", data={"key": token}).status_code == 303
    assert "What the doctor advises" not in reader.get("/admin/").text
    latest.note([Finding("schema", "service", Level.OK, "Good.", "w", "", 1.0)])
    assert "What the doctor advises" not in client.get("/admin/").text


def find_latest_of(client: Any) -> Latest:
    with client.application.app_context():
        return find_latest()


def test_a_key_that_may_only_read_does_not_see_the_installation(context: Context, api_key: str) -> None:
    _, token = keys.create_key(context, "only reads", ["read"])
    assert enter(context, token).get("/admin/doctor").status_code == 403


def test_a_worker_notes_what_is_wrong_with_its_host(tree: Callable[..., Look]) -> None:
    with capture_logs() as lines:
        assert note_host(tree({"proc/sys/vm/swappiness": "60"})) == 1
    assert [(line["check"], line["log_level"]) for line in lines] == [("swappiness", "warning")]
    assert "vm.swappiness = 1" in lines[0]["remedy"]
    with capture_logs() as lines:
        assert note_host(tree({"proc/sys/vm/swappiness": "1"})) == 0
    assert lines == []
