"""`/metrics` for Prometheus, and `/metrics/targets`, which tells it of the workers that have pages of their own.

What it says of the installation comes from Postgres, so that it is the same whichever process answers. One thread asks,
at most every few seconds, with a time limit; without an answer the page says so and tells what it knows of itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response, request
from flask.json import dumps
from flask_openapi.blueprint import APIBlueprint
from redis.exceptions import RedisError

from batchinfer import __version__
from batchinfer.api.openapi import refusals
from batchinfer.api.schemas import MetricsTarget
from batchinfer.api.state import current
from batchinfer.doctor.findings import Look
from batchinfer.doctor.readings import tell_machine
from batchinfer.domain.histograms import BOUNDS_S
from batchinfer.domain.jobs import JobClass
from batchinfer.errors import Unavailable
from batchinfer.observe.fresh import Overdue
from batchinfer.observe.metrics import CONTENT_TYPE, Sheet
from batchinfer.services.metrics import PROXY_HEADERS, check_reader
from batchinfer.store.metrics import MOST_ROWS

if TYPE_CHECKING:
    from redis import Redis

    from batchinfer.services.metrics import Facts
    from batchinfer.store.metrics import Today

routes = APIBlueprint("metrics", __name__, abp_tags=[{"name": "health"}])
_MIB = 2**20
_JOBS = ("infer", "prepare")
_PAGE: dict[str, Any] = {
    "description": "Metrics in Prometheus's text format.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}
_TARGETS: dict[str, Any] = {
    "description": "Workers that tell metrics, as Prometheus's http_sd reads them.",
    "content": {"application/json": {"schema": {"type": "array", "items": MetricsTarget.model_json_schema()}}},
}
_REFUSED: dict[str | int, Any] = {status: refusal for status, refusal in refusals().items() if status in (403, 503)}


@routes.get("/metrics", operation_id="get_metrics", responses={200: _PAGE, **_REFUSED})
def get_metrics() -> Response:
    """Metrics for Prometheus; who may read them is a setting. Answers without Postgres and Redis, too."""
    _check_reader()
    context, sheet = current().context, Sheet()
    sheet.add("batchinfer_build_info", 1, __version__)
    for result, number in context.announcer.counts().items():
        sheet.add("batchinfer_announcements_total", number, result)
    tell_machine(sheet, Look.of_host(context.settings))
    sheet.add("batchinfer_redis_up", _asks_well(context.redis))
    try:
        facts = _read_facts()
    except Unavailable as error:
        sheet.add("batchinfer_database_up", 0)
        sheet.note(error.message)
    else:
        sheet.add("batchinfer_database_up", 1)
        tell_facts(sheet, facts)
    return Response(sheet.render(), content_type=CONTENT_TYPE)


@routes.get("/metrics/targets", operation_id="list_metrics_targets", responses={200: _TARGETS, **_REFUSED})
def list_targets() -> Response:
    """Workers whose metrics can be read, for Prometheus's http_sd. Without Postgres it answers 503, on which Prometheus
    keeps the list that it has."""
    _check_reader()
    shown = [
        MetricsTarget(
            targets=[target.address],
            labels={
                "role": target.role,
                "worker": target.worker,
                "host": target.host,
                "model": target.model or "",
                "device": target.device or "",
            },
        ).model_dump()
        for target in _read_facts().targets
    ]
    return Response(dumps(shown) + "\n", mimetype="application/json")


def _check_reader() -> None:
    """Raises Unauthenticated, Forbidden."""
    proxied = any(name in request.headers for name in PROXY_HEADERS)
    sent = request.headers.get("Authorization", "")
    check_reader(current().context.settings, request.remote_addr or "", sent, proxied=proxied)


def _read_facts() -> Facts:
    """Raises Unavailable."""
    try:
        return current().facts.get()
    except Overdue:
        raise Unavailable(
            "The database has not answered in time. Ask again in a few seconds.", code="database_unavailable"
        ) from None


def _asks_well(redis: Redis) -> bool:
    try:
        redis.ping()
    except RedisError:
        return False
    return True


def tell_facts(sheet: Sheet, facts: Facts) -> None:
    """Put what Postgres knows on the page."""
    _tell_queue(sheet, facts)
    sheet.add("batchinfer_backlog_jobs", facts.backlog_jobs)
    for today in facts.today:
        _tell_today(sheet, today)
    _tell_fleet(sheet, facts)
    sheet.add("batchinfer_webhook_pending", facts.deliveries.pending)
    sheet.add("batchinfer_webhook_oldest_seconds", facts.deliveries.oldest_s or 0.0)
    for state in ("enabled", "held", "disabled"):
        sheet.add("batchinfer_webhook_endpoints", getattr(facts.deliveries, state), state)
    for status, number in facts.batches.items():
        sheet.add("batchinfer_batches", number, status)
    sheet.add("batchinfer_batches_at_risk", facts.batches_at_risk)
    sheet.add("batchinfer_batch_deadline_seconds", facts.deadline_s)
    sheet.add("batchinfer_oldest_snapshot_seconds", facts.oldest_snapshot_s or 0.0)
    sheet.add("batchinfer_tick_age_seconds", facts.tick_age_s)


def _tell_queue(sheet: Sheet, facts: Facts) -> None:
    # A model that is there and has nothing to do says 0: a number that is missing is none to an alarm or an autoscaler.
    models = {model for _, model, *_ in facts.leases if model} | {model for model, *_ in facts.replicas}
    names = [(model, job_class.value) for model in models for job_class in JobClass]
    depths = {(*name, state): 0 for name in names for state in ("queued", "running")}
    ages = dict.fromkeys(names, 0.0)
    work: dict[tuple[str, str], int] = {}
    for lane in facts.lanes:
        if lane.kind not in _JOBS:
            work[lane.kind, lane.state] = work.get((lane.kind, lane.state), 0) + lane.rows
            continue
        # Whether a picture waits for a CPU worker or is in one: the job is being prepared.
        state = "preparing" if lane.kind == "prepare" and lane.state != "paused" else lane.state
        key, name = (lane.model, lane.job_class.value, state), (lane.model, lane.job_class.value)
        depths[key] = depths.get(key, 0) + lane.rows
        ages[name] = max(ages.get(name, 0.0), lane.oldest_s or 0.0)
    for (model, job_class, state), rows in depths.items():
        sheet.add("batchinfer_queue_depth", min(rows, MOST_ROWS), model, job_class, state)
    for (model, job_class), oldest_s in ages.items():
        sheet.add("batchinfer_queue_oldest_seconds", oldest_s, model, job_class)
    for (kind, state), rows in work.items():
        sheet.add("batchinfer_work_depth", min(rows, MOST_ROWS), kind, state)


def _tell_today(sheet: Sheet, today: Today) -> None:
    model, counters = today.model, today.counters
    sheet.add("batchinfer_jobs_submitted_total", counters["submitted"], model)
    for outcome in ("succeeded", "failed", "cancelled", "expired", "quarantined"):
        sheet.add("batchinfer_jobs_ended_total", counters[outcome], model, outcome)
    sheet.add("batchinfer_jobs_retried_total", counters["retried"], model)
    sheet.add("batchinfer_jobs_lost_total", counters["lost"], model)
    sheet.add("batchinfer_answers_reused_total", counters["reused"], model)
    for direction in ("prompt", "completion"):
        sheet.add("batchinfer_tokens_total", counters[f"{direction}_tokens"], model, direction)
    sheet.add("batchinfer_images_total", counters["images"], model)
    sheet.add("batchinfer_row_seconds_total", counters["row_us"] / 1e6, model)
    sheet.add("batchinfer_device_seconds_total", counters["device_us"] / 1e6, model)
    for name, counts in (("batchinfer_job_wait_seconds", today.waits), ("batchinfer_job_run_seconds", today.runs)):
        if counts:
            sheet.add_histogram(name, BOUNDS_S, counts, None, model)


def _tell_fleet(sheet: Sheet, facts: Facts) -> None:
    slots: dict[str, int] = {}
    for role, model, workers, number in facts.leases:
        sheet.add("batchinfer_leases", workers, role, model)
        if role == "model":
            slots[model] = slots.get(model, 0) + number
    for model, number in slots.items():
        sheet.add("batchinfer_slots", number, model)
    for role, number in facts.lost.items():
        sheet.add("batchinfer_workers_lost", number, role)
    for model, state, number in facts.replicas:
        sheet.add("batchinfer_replicas", number, model, state)
    for state, number in facts.hosts.items():
        sheet.add("batchinfer_hosts", number, state)
    for load in facts.devices:
        size = None if load.total_mib is None else load.total_mib * _MIB
        sheet.add("batchinfer_device_size_bytes", size, load.host, load.device)
        sheet.add("batchinfer_device_held_bytes", load.used_mib * _MIB, load.host, load.device)
        sheet.add("batchinfer_device_busy_ratio", load.busy, load.host, load.device)
        sheet.add("batchinfer_device_idle_ratio", 1.0 - load.busy, load.host, load.device)
