"""The application with its test client, a second tenant, and a stand-in for a worker."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from sqlalchemy import text

from batchinfer.admin.session import attach_context
from batchinfer.api.state import open_state
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import Usage
from batchinfer.services import exporting, keys, models, reading, work
from batchinfer.services.context import SCOPES
from batchinfer.store.claims import Outcome
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI

    from batchinfer.services.context import Context

MODEL = "org/reader"


#: The application of this run, once it was made: to compile its routes takes longer than most tests.
_made: list[OpenAPI] = []


@pytest.fixture
def app(context: Context) -> OpenAPI:
    """The application on the test's own context."""
    if not _made:
        _made.append(create_app(context=context))
    made = _made[0]
    open_state(made, context)
    attach_context(made, context)
    assert context.settings.secret_key is not None
    made.secret_key = context.settings.secret_key.get_secret_value()
    made.testing = False  # errors are answered as in production
    return made


@pytest.fixture
def make_client(app: OpenAPI) -> Callable[[str | None], FlaskClient]:
    """A client that sends this token with every request; None sends none."""

    def make(token: str | None) -> FlaskClient:
        client = app.test_client()
        if token is not None:
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        return client

    return make


@pytest.fixture
def client(make_client: Callable[[str | None], FlaskClient], api_key: str, model: str) -> FlaskClient:
    """Whose key has all scopes; `model` is there."""
    return make_client(api_key)


@pytest.fixture
def anonymous(make_client: Callable[[str | None], FlaskClient]) -> FlaskClient:
    """Who sends no key."""
    return make_client(None)


@pytest.fixture
def stranger(make_client: Callable[[str | None], FlaskClient], context: Context) -> FlaskClient:
    """A client of another tenant, with all scopes."""
    tenant_id = new_id()
    with context.db.transaction() as tx:
        tx.execute(text("INSERT INTO tenants (id, name) VALUES (:id, 'strangers')"), {"id": tenant_id})
    _, token = keys.create_key(context, "stranger", SCOPES, tenant_id=tenant_id)
    return make_client(token)


@pytest.fixture
def model(context: Context, api_key: str) -> str:
    """The name of a registered model, with a slash as names on hubs have."""
    models.register_model(context, MODEL, "models/reader", "rev1")
    return MODEL


@pytest.fixture
def ask(model: str) -> Callable[..., dict[str, Any]]:
    """The body of a job without pictures."""

    def make(content: Any = "hello", **fields: Any) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": content}], **fields}

    return make


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, "PNG")
    return file.getvalue()


def upload_page(client: FlaskClient) -> str:
    """The id of a file that a run may read."""
    form = {"purpose": "user_data", "file": (io.BytesIO(b"%PDF-1.7"), "a.pdf")}
    made: str = client.post("/v1/files", data=form).json["id"]
    return made


@pytest.fixture
def declare(client: FlaskClient, model: str) -> Callable[..., dict[str, Any]]:
    """The declaration of a run over an uploaded file; `by` is another client than the usual one."""

    files: dict[int, str] = {}

    def make(*, by: FlaskClient = client, **more: Any) -> dict[str, Any]:
        if id(by) not in files:
            files[id(by)] = upload_page(by)
        source = {"files": [files[id(by)]]}
        return {"source": source, "pipeline": {"model": model, "prompt": "Read page {{ page }}."}, **more}

    return make


@pytest.fixture
def read_all(client: FlaskClient) -> Callable[[str, int], list[str]]:
    """The ids of a list, page by page."""

    def read(path: str, limit: int) -> list[str]:
        ids: list[str] = []
        after = ""
        while True:
            page = client.get(f"{path}?limit={limit}{after}").json
            ids += [thing["id"] for thing in page["data"]]
            if not page["has_more"]:
                return ids
            after = f"&after={page['last_id']}"

    return read


@dataclass
class Worker:
    """Claims jobs and answers them, as a model worker does, without a model."""

    context: Context
    lease_id: UUID

    def answer_all(self, answer: str = "done") -> int:
        """Answer what is ready; how many."""
        claims = work.claim(self.context, lease_id=self.lease_id, kinds=[work.INFER], model=MODEL, limit=100)
        outcomes = [
            Outcome(
                id=claim.id,
                attempt=claim.attempt,
                text=answer,
                finish_reason="stop",
                usage=Usage(prompt_tokens=3, completion_tokens=2),
                model=MODEL,
                revision="rev1",
                engine="fake",
                timings={"prefill": 0.5},
            )
            for claim in claims
        ]
        return len(work.complete_group(self.context, self.lease_id, outcomes).completed) if outcomes else 0


@pytest.fixture
def worker(context: Context, model: str) -> Iterator[Worker]:
    """A model worker that is alive."""
    lease_id = work.open_lease(
        context, role="model", worker="w1", host="here", pid=1, model=model, device="cpu", slots=8
    )
    yield Worker(context, lease_id)
    work.end_lease(context, lease_id, "the test is over")


@dataclass
class CpuWorker:
    """Reads and writes batches, as a CPU worker does."""

    context: Context
    scratch: Path

    def work_on(self, kind: str) -> int:
        """Do what is ready of kind read or export; how many."""
        lease_id = work.open_lease(self.context, role="cpu", worker="cpu", host="here", pid=1)
        claims = work.claim(self.context, lease_id=lease_id, kinds=[kind], model=None, limit=9)
        for claim in claims:
            if kind == work.READ:
                assert reading.read_batch(self.context, claim, lambda action: action(), lambda: True)
            else:
                assert exporting.export_batch(self.context, claim, self.scratch, lambda action: action(), lambda: True)
        work.end_lease(self.context, lease_id, "done")
        return len(claims)


@pytest.fixture
def cpu(context: Context, tmp_path: Path) -> CpuWorker:
    """A CPU worker that does what it is told."""
    return CpuWorker(context, tmp_path)


@pytest.fixture
def quarantined(client: FlaskClient, context: Context, ask: Callable[..., dict[str, Any]], model: str) -> str:
    """The id of a job under which workers were lost until it was set apart."""
    made: str = client.post("/v1/jobs", json=ask()).json["id"]
    for _ in range(context.settings.max_crashes):
        lease = work.open_lease(context, role="model", worker="w", host="here", pid=1, model=model, slots=1)
        assert work.claim(context, lease_id=lease, kinds=["infer"], model=model, limit=1)
        work.end_lease(context, lease, "killed", clean=False)
        with context.db.transaction() as tx:
            tx.execute(text("UPDATE queue SET available_at = now()"))
    return made
