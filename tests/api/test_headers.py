"""Every route's answer has the secure headers, whoever asks and whatever is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.api.openapi import make_document
from batchinfer.api.requests import SECURITY_HEADERS

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from flask_openapi.openapi import OpenAPI


def test_every_answer_of_every_route_has_them(app: OpenAPI, client: FlaskClient, anonymous: FlaskClient) -> None:
    assert "frame-ancestors 'none'" in SECURITY_HEADERS["Content-Security-Policy"]
    paths = make_document(app)["paths"]
    assert len(paths) > 20
    for who in (client, anonymous):
        for path, methods in paths.items():
            for method in methods:
                answer = who.open(path.replace("{", "").replace("}", ""), method=method.upper())
                held = {name: answer.headers.get(name) for name in SECURITY_HEADERS}
                assert held == SECURITY_HEADERS, f"{method} {path} {answer.status_code}"
                assert answer.headers["x-request-id"]
