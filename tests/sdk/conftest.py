"""One whole service for the SDK's tests: gunicorn, a model worker with the fake engine, a CPU worker."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import openai
import psycopg
import pytest

from batchinfer.services import models
from batchinfer.services.context import SCOPES, open_context
from batchinfer.services.keys import create_key, ensure_default_tenant
from batchinfer.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
#: With a slash, as names on hubs have.
MODEL = "org/reader"
PATIENCE_S = 120.0
_CELERY = (sys.executable, "-m", "celery", "-A")
_PLAIN = ("-P", "threads", "-c", "1", "--without-gossip", "--without-mingle")


@dataclass(frozen=True)
class Service:
    """Where it is, and a key to it."""

    url: str
    key: str


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _admin(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture(scope="module")
def service(servers: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Started once; every test submits to the same service."""
    name, folder = f"batchinfer_test_{secrets.token_hex(6)}", tmp_path_factory.mktemp("sdk")
    with ExitStack() as stack:
        _admin(servers.database_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        stack.callback(_admin, servers.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')
        changes = {
            "home": folder / "home",
            "database_url": _with_database(servers.database_url, name),
            "redis_url": _with_database(servers.redis_url, "15"),
            "secret_key": secrets.token_urlsafe(32),
            "poll_s": 0.2,
            "drain_s": 1.0,
            "webhook_http": True,
            "webhook_networks": "127.0.0.0/8",
        }
        context = open_context(load_settings(**changes))
        stack.callback(context.close)
        ensure_default_tenant(context)
        models.register_model(context, MODEL, f"/nowhere/{MODEL}", "r1")
        key = create_key(context, "sdk", SCOPES)[1]
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        environment |= {f"BATCHINFER_{field.upper()}": str(value) for field, value in changes.items()}
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        options = ("--model", MODEL, "--device", "cpu", "--engine", "fake", "--engine-options", '{"steps_per_s": 200}')
        commands = {
            "web": (
                sys.executable, "-m", "gunicorn", "--bind", f"fd://{listener.fileno()}", "--no-control-socket",
                "--worker-class", "gthread", "--threads", "16", "batchinfer.web:create_app()",
            ),
            "model": (*_CELERY, "workers.model", "worker", "-n", "model-0@sdk", *_PLAIN, *options),
            "cpu": (*_CELERY, "workers.cpu", "worker", "-n", "cpu-0@sdk", *_PLAIN, "--processes", "1"),
        }  # fmt: skip
        for title, command in commands.items():
            output = stack.enter_context((folder / f"{title}.log").open("wb"))
            process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=[listener.fileno()],
            )  # fmt: skip
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        _wait_ready(url, folder)
        yield Service(url, key)


def _wait_ready(url: str, folder: Path) -> None:
    """Until a job would be answered: web, model and CPU worker."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if httpx.get(f"{url}/readyz", timeout=60, trust_env=False).json()["status"] == "ready":
            return
        time.sleep(0.1)
    logs = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in folder.glob("*.log"))
    pytest.fail(f"the service is not ready:\n{logs}")


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    """The SDK as it is installed, with nothing but another base URL."""
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, http_client=http, max_retries=0) as made:
        yield made


@pytest.fixture
def model() -> str:
    """The name of the model that answers."""
    return MODEL
