"""Keys: every route under /v1 wants one, whatever is wrong with it answers alike, and scopes hold."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.api.openapi import make_document
from batchinfer.services import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Context

ID = "0192f1c07d6a7b3e8f00c0ffee00c0de"


#: Of the ids that stand in paths.
PREFIXES = {
    "job": "job_",
    "document": "doc_",
    "response": "resp_",
    "file": "file-",
    "batch": "batch_",
    "endpoint": "we_",
    "delivery": "whd_",
    "upload": "upload_",
    "key": "key_",
    "run": "run_",
    "schedule": "sched_",
    "template": "tmpl_",
    "golden": "gold_",
    "deployment": "dep_",
    "replica": "rep_",
    "act": "bulk_",
}


def operations(app: OpenAPI) -> list[tuple[str, str]]:
    """Method and path of every operation under /v1, from the OpenAPI document."""
    filled = {f"{{{noun}_id}}": prefix + ID for noun, prefix in PREFIXES.items()} | {"{model}": "m", "{host}": "m"}
    found = []
    for path, methods in make_document(app)["paths"].items():
        if not path.startswith("/v1"):
            continue
        for placeholder, value in filled.items():
            path = path.replace(placeholder, value)  # noqa: PLW2901
        found += [(method.upper(), path) for method in methods]
    return found


def strip(response: Any) -> dict[str, Any]:
    """An error without what differs from request to request."""
    return {name: value for name, value in response.json.items() if name not in {"request_id", "instance"}}


def test_every_route_wants_a_key(app: OpenAPI, anonymous: FlaskClient, context: Context, api_key: str) -> None:
    wrong = "bi_" + "x" * 8 + "_" + "y" * 43
    headers = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Basic {api_key}"},
        {"Authorization": f"Bearer {wrong}"},
        {"Authorization": f"Bearer {api_key}x"},
        {"Authorization": f"Bearer {api_key[:-1]}"},
        {"Authorization": f"Bearer {api_key}, {api_key}"},
        {"Authorization": "Bearer bi_\xff\xfe"},
    ]
    routes = operations(app)
    assert len(routes) >= 11
    answers = [anonymous.open(path, method=method, headers=sent) for method, path in routes for sent in headers]
    assert {answer.status_code for answer in answers} == {401}
    assert all(strip(answer) == strip(answers[0]) for answer in answers)
    assert answers[0].json["error"]["code"] == "invalid_api_key"
    assert answers[0].headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_is_known_whatever_the_case_of_the_scheme(anonymous: FlaskClient, api_key: str) -> None:
    answer = anonymous.get("/v1/jobs", headers={"Authorization": f"bearer {api_key}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_key_that_ended_answers_as_one_that_never_was(
    client: FlaskClient, anonymous: FlaskClient, context: Context, column: str
) -> None:
    assert client.get("/v1/jobs").status_code == 200
    with context.db.transaction() as tx:
        tx.execute(text(f"UPDATE api_keys SET {column} = now() - interval '1 second'"))  # noqa: S608
    answer = client.get("/v1/jobs")
    assert answer.status_code == 401
    assert strip(answer) == strip(anonymous.get("/v1/jobs"))


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (
            "submit",
            {
                "POST /v1/jobs", "POST /v1/files", "POST /v1/batches", "DELETE /v1/files/ID", "POST /v1/uploads",
                "POST /v1/uploads/ID/parts", "POST /v1/uploads/ID/complete", "POST /v1/uploads/ID/cancel",
                "POST /v1/batches/validate", "POST /v1/batches/ID/retry",
                "POST /v1/jobs/ID/retry", "POST /v1/runs/ID/retry",
                "POST /v1/runs", "POST /v1/runs/preview", "POST /v1/schedules", "POST /v1/schedules/apply",
                "PATCH /v1/schedules/ID", "DELETE /v1/schedules/ID", "POST /v1/schedules/ID/run",
                "POST /v1/templates", "POST /v1/templates/apply", "DELETE /v1/templates/ID",
                "POST /v1/templates/ID/versions", "POST /v1/templates/ID/try",
                "POST /v1/runs/ID/sample", "POST /v1/runs/ID/sample/ID", "POST /v1/runs/ID/sample/ID/golden",
                "DELETE /v1/goldens/ID",
            },
        ),
        (
            "read",
            {
                "GET /v1/jobs", "GET /v1/jobs/ID", "GET /v1/jobs/ID/attempts",
                "GET /v1/jobs/ID/result", "GET /v1/jobs/ID/timeline", "GET /v1/documents",
                "GET /v1/documents/ID", "GET /v1/models", "GET /v1/models/ID", "GET /v1/workers",
                "GET /v1/overview", "GET /v1/usage", "GET /v1/events",
                "GET /v1/queue", "GET /v1/responses/ID",
                "GET /v1/files", "GET /v1/files/ID", "GET /v1/files/ID/content", "GET /v1/batches",
                "GET /v1/batches/ID", "GET /v1/batches/ID/items", "GET /v1/batches/ID/errors",
                "GET /v1/webhook_endpoints", "GET /v1/webhook_endpoints/ID",
                "GET /v1/webhook_endpoints/ID/deliveries", "GET /v1/webhook_event_types",
                "GET /v1/runs", "GET /v1/runs/ID", "GET /v1/runs/ID/documents", "GET /v1/schedules",
                "GET /v1/schedules/ID", "GET /v1/schedules/ID/next", "GET /v1/schedules/ID/runs",
                "GET /v1/templates", "GET /v1/templates/ID",
                "GET /v1/runs/ID/report", "GET /v1/runs/ID/sample", "GET /v1/runs/ID/sample/ID/picture",
                "GET /v1/goldens", "GET /v1/goldens/export",
                "GET /v1/deployments", "GET /v1/deployments/ID", "GET /v1/hosts", "GET /v1/replicas",
                "GET /v1/fleet/events", "GET /v1/models/ID/revisions", "GET /v1/models/ID/revisions/{revision}",
                "POST /v1/models/ID/plan", "GET /v1/acts", "GET /v1/acts/ID", "POST /v1/acts/ID/cancel",
            },
        ),
        (
            "launch",
            {"POST /v1/deployments", "POST /v1/deployments/ensure", "POST /v1/replicas/ID/drain"}
            | {f"POST /v1/deployments/ID/{verb}" for verb in ("swap", "rollback", "cancel", "resume", "stop")}
            | {f"POST /v1/hosts/ID/{verb}" for verb in ("drain", "resume")},
        ),
        (
            "cancel",
            {"DELETE /v1/jobs/ID", "POST /v1/runs/ID/seal"}
            | {f"POST /v1/{noun}/ID/cancel" for noun in ("jobs", "documents", "responses", "batches", "runs")}
            | {f"POST /v1/{noun}/ID/{verb}" for noun in ("runs", "schedules") for verb in ("pause", "resume")}
            | {f"POST /v1/batches/ID/{verb}" for verb in ("pause", "resume", "reclass")},
        ),
    ],
)  # fmt: skip
def test_a_scope_opens_its_routes_and_no_others(
    app: OpenAPI,
    make_client: Callable[[str | None], FlaskClient],
    context: Context,
    api_key: str,
    ask: Callable[..., dict[str, Any]],
    scope: str,
    allowed: set[str],
) -> None:
    client = make_client(keys.create_key(context, scope, [scope])[1])
    opened = set()
    asked = {"model": ask()["model"], "messages": ask()["messages"]}
    bodies = {
        "/v1/jobs": ask(),
        "/v1/queue/reclass": {"class": "batch"},
        "/v1/chat/completions": asked,
        "/v1/responses": {"model": asked["model"], "input": "hello", "background": True},
        "/v1/batches": {
            "input_file_id": f"file-{ID}",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
        "/v1/webhook_endpoints": {"name": "n", "url": "https://example.com", "event_types": ["batch.completed"]},
    }
    # What is done to many has to be read, too: one of the two scopes alone is none.
    bodies |= {path: {"verb": "retry", "search": {}} for path in ("/v1/acts", "/v1/acts/count")}
    bodies[f"/v1/batches/batch_{ID}/reclass"] = {"class": "batch"}
    for method, path in operations(app):
        body = {"json": bodies[path]} if path in bodies and method == "POST" else {}
        if (method, path) == ("POST", "/v1/files"):
            body = {"data": {"purpose": "batch", "file": (io.BytesIO(b"{}"), "lines.jsonl")}}
        answer = client.open(path, method=method, **body)
        if answer.status_code == 403:
            assert answer.json["error"]["code"] == "insufficient_scope"
        else:
            name = re.sub(rf"/({'|'.join(PREFIXES.values())}){ID}|/m(?=/|$)", "/ID", path)
            opened.add(f"{method} {name}")
    assert opened == allowed
