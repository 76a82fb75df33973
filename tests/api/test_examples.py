"""The examples of the OpenAPI document fit their schemas, and the service takes each of them."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from batchinfer.domain.ids import DEFAULT_TENANT, JOB, RUN, new_id, show_id
from batchinfer.services import models
from batchinfer.services.context import open_context
from batchinfer.store import revisions
from batchinfer.store.runs import NewRun, insert_run
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

JSON = "application/json"
LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "docreader", "messages": [{"role": "user", "content": "hello"}]},
}
#: Where nobody answers while the example waits, and where the example's batch has nothing to do again.
OTHERWISE = {
    "create_chat_completion": (504, "timeout"),
    "create_act": (400, "nothing_to_do"),
    "retry_batch": (400, "batch_not_retryable"),
    "retry_run": (400, "run_not_retryable"),
    "test_webhook_endpoint": (504, "timeout"),
    "draw_sample": (409, "run_not_ended"),
    "judge_page": (404, "sample_page_not_found"),
    "keep_golden": (404, "sample_page_not_found"),
    "plan_model": (409, "model_facts_unknown"),
    "register_model": (400, ("source_not_allowed", "hub_not_allowed")),
    "rollback_deployment": (409, "no_previous_revision"),
}


@pytest.fixture
def client(settings: Any, api_key: str) -> Iterator[FlaskClient]:
    """A client of a service with the bundled model's name, on which nobody waits for more than a second."""
    context = open_context(settings.model_copy(update={"max_answer_s": 1.0}))
    models.register_model(context, "docreader", "models/docreader", "rev1")
    with context.db.transaction() as tx:
        revisions.save_revision(tx, "docreader", "rev2", source={}, path="models/two", state="fetched")
    made = create_app(context=context).test_client()
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {api_key}"
    yield made
    context.close()


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Method, path, operation and content of every body of JSON."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if content := operation.get("requestBody", {}).get("content", {}).get(JSON):
                yield method, path, operation, content


def make_things(client: FlaskClient) -> dict[str, str]:
    """Ids that are there, by their prefix."""
    form = {"purpose": "batch", "file": (io.BytesIO(json.dumps(LINE).encode()), "in.jsonl")}
    file_id = client.post("/v1/files", data=form).json["id"]
    wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    upload = client.post("/v1/uploads", json={"filename": "a", "bytes": 2, "purpose": "batch"}).json["id"]
    part = client.post(f"/v1/uploads/{upload}/parts", data={"data": (io.BytesIO(b"{}"), "upload")}).json["id"]
    batch = client.post("/v1/batches", json=wanted).json["id"]
    hook = {"name": "mine", "url": "https://example.com/hook", "event_types": ["job.cancelled"]}
    endpoint = client.post("/v1/webhook_endpoints", json=hook).json["id"]
    timing = {"cron": "30 2 * * *", "timezone": "UTC"}
    night = {"source": {"files": [file_id]}, "pipeline": {"model": "docreader", "prompt": "Read."}, "timing": timing}
    made = {"file-": file_id, "upload_": upload, "part_": part, "batch_": batch, "we_": endpoint}
    made["key_"] = client.post("/v1/keys", json={"name": "mine", "scopes": ["read"]}).json["id"]
    made["sched_"] = client.post("/v1/schedules", json={**night, "name": "mine"}).json["id"]
    made["dep_"] = client.post("/v1/deployments", json={"model": "docreader", "device": "cuda"}).json["id"]
    made["tmpl_"] = client.post("/v1/templates", json={"name": "mine", "prompt": "Read."}).json["id"]
    return made


def test_every_body_has_an_example_that_fits_its_schema(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    seen = 0
    for _method, path, operation, content in bodies(document):
        assert content.get("examples"), (
            f"{operation['operationId']} ({path}) has no example: api/examples.py is the place"
        )
        check = jsonschema.Draft202012Validator({**content["schema"], "components": document["components"]})
        seen += len(content["examples"])
        for example in content["examples"].values():
            check.validate(example["value"])
    assert seen >= 15


def make_run(context: Context) -> str:
    """A run that is due."""
    run = NewRun(
        new_id(), DEFAULT_TENANT, {"source": {"uri": "/in"}, "pipeline": {"model": "docreader", "prompt": "x"}}
    )
    with context.db.transaction() as tx:
        insert_run(tx, run)
    return show_id(RUN, run.id)


def test_the_service_takes_every_example(
    client: FlaskClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchinfer.services.deliveries._SPARE_S", -9.8)  # nobody sends the test event here
    things = make_things(client)

    def fill(text: str) -> str:
        """The same with ids of things that are there."""
        return re.sub(r"(file-|upload_|part_|batch_)[0-9a-f]{32}", lambda found: things[found[1]], text)

    paths = {f"{{{prefix[:-1]}_id}}": made for prefix, made in things.items()} | {"{endpoint_id}": things["we_"]}
    paths |= {"{run_id}": make_run(context), "{job_id}": show_id(JOB, new_id()), "{model}": "docreader"}
    paths |= {"{schedule_id}": things["sched_"], "{template_id}": things["tmpl_"], "{deployment_id}": things["dep_"]}
    for method, path, operation, content in bodies(client.get("/openapi.json").json):
        for name, made in paths.items():
            path = path.replace(name, made)  # noqa: PLW2901
        assert "{" not in path, f"this test must make a thing for {path}"
        for example in content["examples"].values():
            answer = client.open(path, method=method, data=fill(json.dumps(example["value"])), content_type=JSON)
            told = (answer.status_code, (answer.json.get("error") or {}).get("code"))
            status, codes = OTHERWISE.get(operation["operationId"], (0, ()))
            otherwise = told[0] == status and told[1] in (codes if isinstance(codes, tuple) else (codes,))
            assert answer.status_code < 300 or otherwise, (path, answer.json)
