"""A real Chromium before a real server of these pages; whatever a page does wrong fails its test."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.serving import BaseWSGIServer, make_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from batchinfer.services.context import Caller, Context

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright, which brings none of its own."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install the package chromium or name one in CHROMIUM; `make browser` does it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def stage(context: Context, caller: Caller) -> Any:
    """Jobs of `caller`'s tenant, moved by the test."""
    name = "batchinfer_admin_stage"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "admin" / "stage.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].Stage(context, caller).open()


@dataclass
class Server:
    """The whole web application on a free port of this machine; it can go away and come back."""

    context: Context
    port: int = 0
    _running: BaseWSGIServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from batchinfer.web import create_app

        self._running = make_server("127.0.0.1", self.port, create_app(context=self.context), threaded=True)
        self.port = self._running.server_port
        self._thread = threading.Thread(target=self._running.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._running is None or self._thread is None:
            return
        self._running.shutdown()
        self._thread.join()
        self._running.server_close()
        self._running = None


@pytest.fixture
def server(context: Context) -> Iterator[Server]:
    """A server of this test's own."""
    started = Server(context)
    started.start()
    yield started
    started.stop()


@dataclass
class Look:
    """A browser window and everything that went wrong in it."""

    page: Page
    server: Server
    api_key: str
    trouble: list[str] = field(default_factory=list)

    def listen(self) -> None:
        def note_message(message: Any) -> None:
            # A poll that ran out on a crowded machine is no fault of a page: its bar turns amber (test_live.py).
            if message.type in {"error", "warning"} and "htmx:error: timeout" not in message.text:
                self.trouble.append(f"console: {message.text}")

        def note_request(request: Any) -> None:
            if not request.url.startswith((self.server.url, "data:")):
                self.trouble.append(f"outside: {request.url}")

        self.page.on("console", note_message)
        self.page.on("request", note_request)
        self.page.on("pageerror", lambda error: self.trouble.append(f"page: {error}"))

    def sign_in(self) -> None:
        self.page.goto(f"{self.server.url}/admin/sign-in")
        self.page.get_by_label("API key").fill(self.api_key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/admin/")

    def open(self, path: str) -> None:
        self.page.goto(self.server.url + path)

    def check(self) -> None:
        """Nothing in the console, no error, nobody else asked, nothing for axe to find."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()
        assert self.trouble == []

    def picture(self, name: str) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


@pytest.fixture
def look(chromium: Browser, server: Server, api_key: str) -> Callable[..., Any]:
    """`with look(width=390, theme="dark") as window:` a fresh browser window."""

    @contextmanager
    def opened(*, width: int = 1280, theme: str = "light", **options: Any) -> Iterator[Look]:
        browser = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce", **options
        )
        browser.set_default_timeout(20_000)
        window = Look(browser.new_page(), server, api_key)
        window.listen()
        yield window
        browser.close()

    return opened
