"""Backups that earlier versions made, restored by this one and read over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from batchinfer.admin.session import attach_context
from batchinfer.api.state import open_state
from batchinfer.services import checking, upkeep
from batchinfer.services.context import open_context
from batchinfer.services.restoring import restore
from batchinfer.store.migrate import head_revision

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "backups").iterdir())


@pytest.fixture(params=FIXTURES, ids=lambda place: place.name)
def kept(request):
    """A folder of backups that a version made."""
    return request.param


@pytest.fixture
def restored(kept, settings, empty_database_url, tmp_path):
    """Settings of an installation that was restored from it."""
    made = settings.model_copy(
        update={"database_url": SecretStr(empty_database_url), "home": tmp_path / "home", "keep_days": 0}
    )
    found = restore(made, kept)
    assert found.manifest.version == kept.name
    assert found.manifest.rows > 100
    return made


@pytest.fixture
def reader(app, restored, kept):
    """A client with the key of then, and the ids that were noted."""
    context = open_context(restored, pool_size=4)
    open_state(app, context)
    attach_context(app, context)
    with context.db.transaction() as tx:  # however long ago it was made
        tx.exec_driver_sql("UPDATE files SET expires_at = NULL")
        tx.exec_driver_sql("UPDATE idempotency_keys SET expires_at = now() + interval '1 day'")
    known = json.loads((kept / "known.json").read_text())
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {known['api_key']}"
    yield client, known, context
    context.close()


def test_a_backup_of_an_earlier_version_is_restored_and_read(reader):
    client, known, context = reader

    def get(path):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.json)
        return answer.json

    with context.db.transaction() as tx:
        assert tx.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == head_revision()
    job = get(f"/v1/jobs/{known['job']}")
    assert (job["status"], job["metadata"]) == ("succeeded", {"night": "1"})
    assert get(f"/v1/jobs/{known['picture']}")["status"] == "succeeded"
    assert get(f"/v1/jobs/{known['cancelled']}")["status"] == "cancelled"
    assert get(f"/v1/jobs/{known['waiting']}")["status"] == "queued"
    assert len(get("/v1/jobs?limit=100")["data"]) >= 9
    batch = get(f"/v1/batches/{known['batch']}")
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 3)
    lines = client.get(f"/v1/files/{batch['output_file_id']}/content")
    assert len(lines.data.splitlines()) == 3
    assert get(f"/v1/documents/{known['document']}")["pages"]
    assert get(f"/v1/runs/{known['run']}")["status"] == "completed"
    assert get(f"/v1/schedules/{known['schedule']}")["name"] == "letters"
    assert get(f"/v1/templates/{known['template']}")["name"] == "invoice"
    assert get(f"/v1/webhook_endpoints/{known['endpoint']}")["url"] == "https://example.com/hook"
    assert {tenant["name"] for tenant in get("/v1/tenants")["data"]} == {"default", "second"}
    assert get("/v1/queue")["pauses"]
    text = {"model": job["model"], "messages": [{"role": "user", "content": "Read this."}], "max_tokens": 8}
    sent = json.dumps({**text, "metadata": {"night": "1"}})
    again = client.post("/v1/jobs", data=sent, content_type="application/json", headers={"Idempotency-Key": "kept"})
    assert (again.status_code, again.json["id"]) == (202, known["job"])
    assert client.post("/v1/jobs", json=text).status_code == 202
    upkeep.tick(context)
    assert checking.check_counters(context) == []


def test_the_fixtures_stay_small(kept):
    assert sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()) < 200_000
