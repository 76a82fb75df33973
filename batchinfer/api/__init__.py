"""JSON over HTTP. `register_api` puts routes, error writer and OpenAPI document on an application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.api import (
    acts,
    audit,
    batch_items,
    batches,
    chat,
    deployments,
    documents,
    events,
    files,
    fleet,
    health,
    hosts,
    job_reads,
    jobs,
    keys,
    metrics,
    models,
    openapi,
    queue,
    responses,
    reviews,
    revisions,
    runs,
    schedules,
    templates,
    tenants,
    uploads,
    usage,
    webhooks,
)
from batchinfer.api.auth import authenticate_request
from batchinfer.api.errors import register_errors
from batchinfer.api.requests import register_hooks
from batchinfer.api.state import open_state

if TYPE_CHECKING:
    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Context

BLUEPRINTS = (
    jobs.routes, documents.routes, models.routes, fleet.routes, queue.routes, chat.routes, responses.routes,
    files.routes, uploads.routes, batches.routes, batch_items.routes, job_reads.routes, usage.routes, events.routes,
    webhooks.routes, keys.routes, tenants.routes, audit.routes, runs.routes, schedules.routes, templates.routes,
    reviews.routes, revisions.routes, deployments.routes, hosts.routes, acts.routes,
)  # fmt: skip


def register_api(app: OpenAPI, context: Context) -> None:
    """Mount everything under /v1, and /healthz, /readyz, /metrics and /openapi.json."""
    open_state(app, context)
    register_hooks(app)
    register_errors(app)
    for blueprint in BLUEPRINTS:
        app.register_api(blueprint)
    app.register_api(health.routes)
    app.register_api(metrics.routes)
    openapi.register_document(app)


for _blueprint in BLUEPRINTS:
    _blueprint.before_request(authenticate_request)
