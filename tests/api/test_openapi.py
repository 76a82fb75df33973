"""The OpenAPI document says what the application does, and docs/api.md what both do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openapi_spec_validator

from batchinfer.api import submission_schema
from batchinfer.domain.documents import DocumentState
from batchinfer.domain.jobs import JobState
from batchinfer.domain.limits import Limits
from batchinfer.domain.prompts import FORM_FIELDS, JOB_FIELDS, parse_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

    from batchinfer.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_the_document_is_whole(anonymous: FlaskClient) -> None:
    document = anonymous.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    openapi_spec_validator.validate(document)
    schemas = document["components"]["schemas"]
    targets = set(references(document))
    assert len(targets) > 10
    assert targets <= {f"#/components/schemas/{name}" for name in schemas}
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert schemas["JobState"]["enum"] == list(JobState)
    assert schemas["DocumentState"]["enum"] == list(DocumentState)


def test_every_route_is_in_the_document_and_on_the_page(app: OpenAPI, anonymous: FlaskClient) -> None:
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"} and not rule.rule.startswith("/admin") and rule.rule != "/"
    }
    paths = anonymous.get("/openapi.json").json["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert served - {("GET", "/openapi.json"), ("GET", "/docs")} == described
    written = set(re.findall(r"`(GET|POST|PATCH|DELETE) (/[a-z0-9_./{}]*)`", PAGE))
    shortened = {(m, re.sub(r"\{\w+_id\}", "{id}", p).replace("{model}", "{name}")) for m, p in served}
    assert written == shortened


def test_keys_are_asked_for_where_the_document_says_so(anonymous: FlaskClient) -> None:
    for path, methods in anonymous.get("/openapi.json").json["paths"].items():
        for method, operation in methods.items():
            status = anonymous.open(path, method=method.upper()).status_code
            assert (status == 401) is bool(operation.get("security")), path
            assert ("401" in operation["responses"]) is bool(operation.get("security")), path


def test_the_fields_of_a_submission_are_those_that_are_read() -> None:
    schemas = submission_schema.SCHEMAS
    assert set(schemas["JobSubmission"]["properties"]) == JOB_FIELDS
    assert set(schemas["FormSubmission"]["properties"]) == FORM_FIELDS | {"file"}
    table = PAGE.split("| field | meaning |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", " ".join(row.split(" | ")[0] for row in table.splitlines()[2:])))
    assert named | {"max_completion_tokens", "service_tier"} == JOB_FIELDS | FORM_FIELDS | {"file"}


def test_the_examples_are_accepted(settings: Settings, client: FlaskClient, model: str) -> None:
    assert len(submission_schema.EXAMPLES) >= 2
    for body in submission_schema.EXAMPLES.values():
        parse_job(body, Limits.of(settings))
        assert client.post("/v1/jobs", json={**body, "model": model}).status_code == 202


def test_starting_the_web_server_brings_in_no_torch() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import batchinfer.web"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "flask" in run.stderr
    assert not re.search(r"\|\s+(torch|transformers|numpy|PIL|pypdfium2|workers)\b", run.stderr)
