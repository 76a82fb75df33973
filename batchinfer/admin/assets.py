"""Our own files: addressed with a mark of their content, so that browsers keep them until they change."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, request, url_for

STATIC = Path(__file__).parent / "static"


def register(blueprint: Blueprint) -> None:
    """Offer `asset(name)` to templates and let browsers keep what it names."""
    blueprint.after_request(keep_marked_files)
    blueprint.add_app_template_global(asset_url, "asset")


@functools.cache
def mark(name: str) -> str:
    """The first characters of a file's SHA-256. Read once a process."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


def asset_url(name: str) -> str:
    """The address of a file of ours, with its mark."""
    return url_for("admin.static", filename=name, v=mark(name))


def keep_marked_files(response: Response) -> Response:
    """A file asked for by its present mark may be kept for a year; by another name it is asked for again."""
    if request.endpoint != "admin.static" or response.status_code != 200:
        return response
    arguments: dict[str, Any] = request.view_args or {}
    current = request.args.get("v") == mark(arguments["filename"])
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if current else "no-cache"
    return response
