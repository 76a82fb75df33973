"""Settings: what is in force, where it comes from and what it means. They are the environment's: nothing is edited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import make_response, render_template, request

from batchinfer.admin.session import get_caller, get_context
from batchinfer.services.quotas import require_operator
from batchinfer.settings import list_settings

if TYPE_CHECKING:
    from flask import Blueprint, Response

#: How long what is kept.
RETENTION = ("keep_days", "changes_days", "blob_grace_hours", "thumbnail_side", "idempotency_hours", "upload_hours")


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/settings", view_func=show_settings)


def show_settings() -> Response:
    """The page, for the operator. Raises Forbidden."""
    require_operator(get_caller())
    rows = list_settings(get_context().settings)
    word, changed = request.args.get("q", "").strip(), request.args.get("from") == "changed"
    shown = [
        row
        for row in rows
        if (not changed or row.source != "default") and word.lower() in f"{row.variable} {row.meaning}".lower()
    ]
    return make_response(
        render_template(
            "settings.html",
            rows=shown,
            all=len(rows),
            kept=[row for row in rows if row.name in RETENTION],
            word=word,
            changed=changed,
        )
    )
