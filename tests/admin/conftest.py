"""A Flask client of the admin pages, and a stage that puts jobs before them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from batchinfer.admin import register_admin, signin
from batchinfer.admin.guard import Throttle

if TYPE_CHECKING:
    from batchinfer.services.context import Caller, Context


class Browser(FlaskClient):
    """Reads every answer to its end, so that files are closed."""

    def open(self, *args: Any, **options: Any) -> Any:
        return super().open(*args, **{"buffered": True, **options})


def load_stage(beside: str = "stage") -> ModuleType:
    """A module beside this file; test folders are no packages."""
    name = f"batchinfer_admin_{beside}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{beside}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def stage(context: Context, caller: Caller) -> object:
    """Jobs of `caller`'s tenant, moved by the test."""
    return load_stage().Stage(context, caller).open()


@pytest.fixture
def fleet(context: Context, caller: Caller) -> object:
    """Models, hosts and replicas, moved by the test."""
    return load_stage("stage_fleet").Fleet(context, caller)


@pytest.fixture
def app(context: Context, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The pages alone; each test with a throttle of its own."""
    monkeypatch.setattr(signin, "throttle", Throttle())
    app = Flask("admin-tests")
    app.test_client_class = Browser
    register_admin(app, context)
    return app


@pytest.fixture
def anonymous(app: Flask) -> FlaskClient:
    """A browser that has not signed in."""
    return app.test_client()


@pytest.fixture
def sign_in(app: Flask) -> Callable[[str], FlaskClient]:
    """Sign in with a token; answers the browser."""

    def enter(token: str) -> FlaskClient:
        client = app.test_client()
        answer = client.post("/admin/sign-in", data={"key": token})
        assert answer.status_code == 303, answer.text
        return client

    return enter


@pytest.fixture
def client(sign_in: Callable[[str], FlaskClient], api_key: str) -> FlaskClient:
    """A browser that has signed in with `api_key`."""
    return sign_in(api_key)
