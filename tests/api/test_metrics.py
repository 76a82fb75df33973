"""`/metrics`: what it tells of a real Postgres, to whom, and what it does while parts are away."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
from sqlalchemy import text

from batchinfer.observe.metric_list import METRICS
from batchinfer.services import metrics as service
from batchinfer.services import work
from batchinfer.store import metrics as store
from batchinfer.store.session import Database
from batchinfer.web import create_app
from bench.chaos.proxy import Proxy
from tests.metrics_pages import Samples, read_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context


def scrape(client: FlaskClient, **headers: str) -> Samples:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return read_page(answer.text)


def test_the_queue_what_ended_and_who_works(
    client: FlaskClient, anonymous: FlaskClient, context: Context, ask: Callable[..., dict[str, Any]], model: str
) -> None:
    for job_class in ("interactive", "batch", "batch"):
        assert client.post("/v1/jobs", json=ask(**{"class": job_class})).status_code == 202
    lease_id = work.open_lease(
        context, role="model", worker="m", host="h", pid=1, model=model, slots=4, info={"metrics": "127.0.0.1:9500"}
    )
    claims = work.claim(context, lease_id=lease_id, kinds=(work.INFER,), model=model, limit=1)
    lost = work.open_lease(context, role="cpu", worker="c", host="h", pid=2)
    work.end_lease(context, lost, "silent", clean=False)
    orderly = work.open_lease(context, role="cpu", worker="c", host="h", pid=3)
    work.end_lease(context, orderly, work.ORDERLY_END)
    found = scrape(anonymous)
    assert found["batchinfer_database_up",] == 1
    assert found["batchinfer_redis_up",] == 1
    assert [claim.job_class.value for claim in claims] == ["interactive"]
    assert found["batchinfer_queue_depth", model, "interactive", "running"] == 1
    assert found["batchinfer_queue_depth", model, "batch", "queued"] == 2
    assert found["batchinfer_queue_depth", model, "normal", "queued"] == 0, "there, and nothing waits"
    assert found["batchinfer_queue_oldest_seconds", model, "batch"] >= 0
    assert found["batchinfer_queue_oldest_seconds", model, "interactive"] == 0
    assert found["batchinfer_backlog_jobs",] == 3
    assert found["batchinfer_jobs_submitted_total", model] == 3
    assert found["batchinfer_leases", "model", model] == 1
    assert found["batchinfer_slots", model] == 4
    assert (found["batchinfer_workers_lost", "cpu"], found["batchinfer_workers_lost", "model"]) == (1, 0)
    assert found["batchinfer_webhook_pending",] == 0
    assert ("batchinfer_host_memory_size_bytes", context.settings.machine_name) in found
    targets = anonymous.get("/metrics/targets").json
    labels = {"role": "model", "worker": "m", "host": "h", "model": model, "device": ""}
    assert targets == [{"targets": ["127.0.0.1:9500"], "labels": labels}]


def test_a_histogram_of_waits_and_a_batch_at_risk(context: Context, anonymous: FlaskClient, model: str) -> None:
    with context.db.transaction() as tx:
        buckets = "{" + ",".join(["3"] + ["0"] * 21 + ["2"]) + "}"
        tx.execute(text(
            "INSERT INTO minutes (tenant_id, model, minute, succeeded, prompt_tokens, device_us, waits) "
            "SELECT t, :model, date_trunc('minute', now()), 5, 70, 1500000, CAST(:buckets AS int[]) "
            "FROM (VALUES (gen_random_uuid()), (gen_random_uuid())) AS v (t)"
        ), {"model": model, "buckets": buckets})  # fmt: skip
        tx.execute(text(
            "INSERT INTO batches (id, tenant_id, status, endpoint, completion_window, total, in_progress_at, "
            "expires_at) SELECT gen_random_uuid(), gen_random_uuid(), 'in_progress', '/v1/responses', '24h', 100, "
            "now() - interval '1 hour', now() + make_interval(mins => left_m) FROM (VALUES (5), (600)) AS v (left_m)"
        ))  # fmt: skip
    found = scrape(anonymous)
    assert found["batchinfer_jobs_ended_total", model, "succeeded"] == 10
    assert found["batchinfer_tokens_total", model, "prompt"] == 140
    assert found["batchinfer_device_seconds_total", model] == 3
    assert found["batchinfer_job_wait_seconds_bucket", model, "0.01"] == 6
    assert found["batchinfer_job_wait_seconds_bucket", model, "+Inf"] == 10
    assert (found["batchinfer_batches", "in_progress"], found["batchinfer_batches_at_risk",]) == (2, 1)
    assert 0 < found["batchinfer_batch_deadline_seconds",] <= 300


def test_a_long_queue_is_counted_no_further_than_its_bound(
    context: Context, anonymous: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several tenants and models: what is counted has a bound, and the oldest is found all the same."""
    monkeypatch.setattr(store, "MOST_ROWS", 50)
    monkeypatch.setattr("batchinfer.api.metrics.MOST_ROWS", 50)
    with context.db.transaction() as tx:
        tx.execute(text(
            "INSERT INTO queue (id, kind, subject_id, tenant_id, model, class, rank, created_at, state) "
            "SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'infer', gen_random_uuid(), "
            "('00000000-0000-0000-0000-00000000000' || n % 3)::uuid, 'm' || n % 2, 'batch', 2, "
            "now() - make_interval(secs => 1000 - n), CASE WHEN n % 10 = 9 THEN 'paused' ELSE 'queued' END "
            "FROM generate_series(1, 600) AS n"
        ))  # fmt: skip
    found = scrape(anonymous)
    assert found["batchinfer_queue_depth", "m0", "batch", "queued"] == 50
    assert found["batchinfer_queue_depth", "m1", "batch", "queued"] == 50
    assert found["batchinfer_queue_depth", "m1", "batch", "paused"] == 50
    assert 999 <= found["batchinfer_queue_oldest_seconds", "m1", "batch"] < 1060
    assert 998 <= found["batchinfer_queue_oldest_seconds", "m0", "batch"] < 1060


def test_while_postgres_and_redis_are_away_it_says_so_and_tells_the_rest(
    context: Context, anonymous: FlaskClient
) -> None:
    away = replace(
        context,
        db=Database("postgresql+psycopg://nobody@127.0.0.1:9/nothing"),
        redis=redis.Redis(host="127.0.0.1", port=9, socket_connect_timeout=1, retry=None),
    )
    client = create_app(context=away).test_client()
    page = client.get("/metrics")
    assert page.status_code == 200
    assert page.text.startswith("# batchinfer: The database does not answer.")
    found = read_page(page.text)
    assert (found["batchinfer_database_up",], found["batchinfer_redis_up",]) == (0, 0)
    assert not [key for key in found if METRICS[key[0]].place == "web" and not key[0].endswith("_up")], "all or nothing"
    assert ("batchinfer_host_memory_size_bytes", context.settings.machine_name) in found
    targets = client.get("/metrics/targets")
    assert (targets.status_code, targets.json["error"]["code"]) == (503, "database_unavailable")


@pytest.mark.long
def test_every_scrape_is_answered_while_postgres_restarts_and_while_we_stop(context: Context) -> None:
    """Never a 500: `batchinfer_database_up` says how it is, and comes back by itself."""
    parts = urlsplit(context.settings.require_database_url())
    proxy = Proxy((parts.hostname or "", parts.port or 0))
    address = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}").geturl()
    through = replace(context, db=Database(address))
    client = create_app(context=through).test_client()

    def wait_up(wanted: float) -> None:
        deadline = time.monotonic() + 60.0
        while (found := scrape(client)["batchinfer_database_up",]) != wanted:
            assert time.monotonic() < deadline, f"it still says {found}"
            time.sleep(0.3)

    try:
        wait_up(1)
        proxy.cut()
        wait_up(0)
        assert client.get("/metrics/targets").status_code == 503
        proxy.mend()
        wait_up(1)
        assert client.get("/metrics/targets").status_code == 200
        through.db.dispose()  # as a process that stops does, while a scrape is under way
        assert "batchinfer_build_info" in client.get("/metrics").text
        scrape(client)
    finally:
        through.db.dispose()
        proxy.close()


@pytest.mark.long
def test_a_postgres_that_stands_still_holds_up_no_scrape(context: Context) -> None:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        client = create_app(context=replace(context, db=Database(url))).test_client()
        assert scrape(client)["batchinfer_database_up",] == 0
        assert client.get("/metrics/targets").status_code == 503


def test_scrapes_at_once_ask_once(context: Context, anonymous: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], service.read_facts

    def count(ctx: Context) -> Any:
        asked.append(1)
        return real(ctx)

    monkeypatch.setattr("batchinfer.api.state.read_facts", count)
    client = create_app(context=context).test_client()
    threads = [threading.Thread(target=client.get, args=("/metrics",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scrape(client)["batchinfer_database_up",] == 1
    assert len(asked) < 9, "kept for some seconds, and never asked twice at once"


@pytest.mark.parametrize(
    ("address", "headers", "networks", "status"),
    [
        ("127.0.0.1", {}, None, 200),
        ("::1", {}, None, 200),
        ("::ffff:127.0.0.1", {}, None, 200),
        ("10.1.2.3", {}, None, 403),
        ("10.1.2.3", {}, "10.0.0.0/8", 200),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, None, 403),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}, None, 403),
        ("", {}, None, 403),
        ("127.0.0.1", {"Authorization": "Bearer secret-of-metrics"}, "token", 200),
        ("10.1.2.3", {"Authorization": "Bearer secret-of-metrics", "X-Forwarded-For": "::1"}, "token", 200),
        ("127.0.0.1", {}, "token", 401),
        ("127.0.0.1", {"Authorization": "Bearer secret-of-metric"}, "token", 401),
        ("127.0.0.1", {"Authorization": "Bearer sécret"}, "token", 401),
    ],
)
def test_who_may_read_page(
    context: Context, app: Any, address: str, headers: dict[str, str], networks: str | None, status: int
) -> None:
    from batchinfer.api.state import open_state
    from batchinfer.settings import load_settings

    changes = {} if networks is None else {"metrics_networks": networks}
    changes = {"metrics_token": "secret-of-metrics"} if networks == "token" else changes
    known = {name: getattr(context.settings, name) for name in ("home", "database_url", "redis_url", "secret_key")}
    open_state(app, replace(context, settings=load_settings(**known, **changes)))
    client = app.test_client()
    for path in ("/metrics", "/metrics/targets"):
        answer = client.get(path, headers=headers, environ_overrides={"REMOTE_ADDR": address})
        assert answer.status_code == status, answer.text
    if status != 200:
        assert "secret-of" not in answer.text
        assert answer.json["error"]["code"] == {401: "invalid_metrics_token", 403: "metrics_forbidden"}[status]


def test_no_label_names_a_tenant_a_key_or_an_id() -> None:
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert labels <= {
        "model", "class", "state", "kind", "outcome", "direction", "role", "host", "device", "status", "version",
        "result", "worker", "revision", "engine", "stage", "cause",
    }  # fmt: skip
