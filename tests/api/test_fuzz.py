"""Schemathesis over every operation of the OpenAPI document: no 500, and each answer is one that is declared.

`make test` sends a few requests an operation that are right, `make test-long` some that are wrong, always the same
ones; `make fuzz` sets FUZZ_EXAMPLES and sends others.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from batchinfer.services import models
from batchinfer.services.context import open_context
from batchinfer.services.keys import create_key, ensure_default_tenant
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or (random.randrange(2**32) if EXAMPLES else 1)
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: Bodies of which some members are read by rules that a schema does not tell: what does not fit it may pass.
LENIENT = {"create_chat_completion", "create_response", "submit_job"}


@pytest.fixture
def fuzzed(settings: Any) -> Iterator[FlaskClient]:
    """A client of an application that lets nobody wait long, on a service with one of each thing."""
    context = open_context(settings.model_copy(update={"max_wait_s": 0.05, "max_answer_s": 1.0}))
    ensure_default_tenant(context)
    models.register_model(context, "docreader", "models/docreader", "rev1")
    app = create_app(context=context)
    app.testing = False
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {create_key(context, 'fuzz')[1]}"
    yield client
    context.close()


def make_ids(client: FlaskClient) -> dict[str, str]:
    """An id of each thing that paths name."""
    ask = {"model": "docreader", "messages": [{"role": "user", "content": "hello"}]}
    job = client.post("/v1/jobs", json=ask).json["id"]
    key = client.post("/v1/keys", json={"name": "fuzz", "scopes": ["read"]}).json["id"]
    deployment = client.post("/v1/deployments", json={"model": "docreader", "device": "cpu"}).json["id"]
    ids = {"job_id": job, "response_id": job.replace("job_", "resp_"), "key_id": key, "model": "docreader"}
    return {**ids, "deployment_id": deployment}


def make_schema(client: FlaskClient) -> Any:
    # No characters that only a test client, and no server, lets through.
    generation = GenerationConfig(with_security_parameters=False, allow_x00=False)
    config = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(generation=generation)))
    return schemathesis.openapi.from_wsgi("/openapi.json", client.application, config=config)


@pytest.mark.timeout(0 if EXAMPLES else 900)
@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, pytest.param(GenerationMode.NEGATIVE, marks=pytest.mark.long)], ids=str
)
def test_every_answer_is_one_that_is_declared(fuzzed: FlaskClient, mode: GenerationMode) -> None:
    ids, tried = make_ids(fuzzed), []
    headers = {"Authorization": fuzzed.environ_base["HTTP_AUTHORIZATION"]}
    for found in make_schema(fuzzed).get_all_operations():
        operation = found.ok()
        name = operation.definition.raw["operationId"]
        try:
            strategy = operation.as_strategy(generation_mode=mode)
            things = ids if mode is GenerationMode.POSITIVE else {}
            check(strategy, headers, things, strict=name not in LENIENT)
        except Exception as error:
            if "Impossible to generate negative" in str(error) or "Unsatisfiable" in type(error).__name__:
                continue  # nothing that such an operation takes can be wrong
            raise
        tried.append(name)
    described = {one["operationId"] for path in document(fuzzed)["paths"].values() for one in path.values()}
    assert set(tried) == described if mode is GenerationMode.POSITIVE else len(tried) > len(described) // 2


def document(client: FlaskClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json
    return found


def check(strategy: Any, headers: dict[str, str], ids: dict[str, str], *, strict: bool) -> None:
    """Send what a strategy makes, half of it about things that are there."""

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES or 3,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if EXAMPLES else [])],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, real=st.booleans())
    def send(case: Any, real: bool) -> None:
        if real and case.path_parameters:
            case.path_parameters.update({n: v for n, v in ids.items() if n in case.path_parameters})
        answer = case.call(headers=headers)
        assert answer.status_code != 500, f"FUZZ_SEED={SEED}: {case.as_curl_command(headers)}"
        told = strict and case.media_type in {None, "application/json"}  # in a form all is text, and may be valid
        case.validate_response(answer, checks=[*CHECKS, *([negative_data_rejection] if told else [])])

    send()
