"""The demo's side of the HTTP API: submit, list, look. Every request may be sent twice without harm."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import httpx

if TYPE_CHECKING:
    from pathlib import Path

_TRIES = 5
_AGAIN_AFTER_S = 0.5
_PAGE = 100


class Refused(Exception):
    """The service answered with an error; the text is its message."""


class Client:
    """Speaks JSON with one service."""

    def __init__(self, url: str, api_key: str) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        # The service is on this machine: a proxy that the environment names is not on the way to it.
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def find_model(self) -> str | None:
        """The name of a model that is ready."""
        models = self._ask("GET", "/v1/models")["data"]
        return next((str(model["id"]) for model in models if model.get("status") == "ready"), None)

    def submit(self, path: Path, prompt: str, model: str) -> dict[str, Any]:
        """Submit a file; the answer is a job or, for a PDF or TIFF, a document. Raises Refused."""
        form = {"model": model, "prompt": prompt}
        files = {"file": (path.name, path.read_bytes())}
        return self._ask("POST", "/v1/jobs", data=form, files=files, headers={"Idempotency-Key": uuid4().hex})

    def list_jobs(self) -> list[dict[str, Any]]:
        """All jobs of the key's tenant, newest first, pages of documents among them."""
        jobs: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": _PAGE}
        while True:
            answer = self._ask("GET", "/v1/jobs", params=query)
            jobs += answer["data"]
            if not answer["has_more"]:
                return jobs
            query["after"] = answer["last_id"]

    def get_document(self, document_id: str) -> dict[str, Any]:
        """A document with the ids of its page jobs, in page order."""
        return self._ask("GET", f"/v1/documents/{document_id}")

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        for left in reversed(range(_TRIES)):
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if not left:
                    raise Refused(f"{method} {path}: no answer ({type(error).__name__}).") from None
            else:
                if response.status_code < 400:
                    answer: dict[str, Any] = response.json()
                    return answer
                if response.status_code not in {429, 503} or not left:
                    raise Refused(_read_error(response))
            time.sleep(_AGAIN_AFTER_S)
        raise AssertionError("the last try returns or raises")


def _read_error(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
