"""A Flask route that reads its JSON and answers: what any route under this server costs at least."""

from __future__ import annotations

from uuid import uuid4

from flask import Flask, Response, jsonify, request


def create_app() -> Flask:
    """The application."""
    app = Flask("bare")

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @app.post("/v1/jobs")
    def submit() -> tuple[Response, int]:
        body = request.get_json()
        return jsonify(id=f"job_{uuid4().hex}", object="job", status="queued", model=body["model"]), 202

    return app
