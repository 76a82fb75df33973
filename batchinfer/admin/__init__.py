"""The pages for people: Overview, Jobs, Job. HTML from Jinja, one stylesheet, htmx for what moves; no build.

app = Flask(...)
register_admin(app, context)      # pages under /admin, sign-in by API key
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from flask import Blueprint, Flask

from batchinfer.admin import assets, failures, guard, job, jobs, overview, picture, shown, signin
from batchinfer.admin.session import AdminSessions, attach_context

if TYPE_CHECKING:
    from batchinfer.services.context import Context

#: How long one sign-in lasts; the key is looked up again with every request all the same.
SESSION_HOURS = 12


def register_admin(app: Flask, context: Context) -> None:
    """Mount the pages at /admin.

    Sets the application's session cookie (only these pages use one) and, where neither the application nor
    the setting `secret_key` names a key that signs it, makes one: sessions then end with the process.
    """
    attach_context(app, context)
    secret = context.settings.secret_key
    app.secret_key = app.secret_key or (secret.get_secret_value() if secret else secrets.token_bytes(32))
    app.config.update(
        SESSION_COOKIE_NAME="batchinfer_admin",
        SESSION_COOKIE_PATH="/admin",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=timedelta(hours=SESSION_HOURS),
    )
    app.session_interface = AdminSessions()
    app.register_blueprint(_make_blueprint())


def _make_blueprint() -> Blueprint:
    blueprint = Blueprint("admin", __name__, url_prefix="/admin", template_folder="templates", static_folder="static")
    for part in (guard, assets, shown, failures, signin, overview, jobs, job, picture):
        part.register(blueprint)
    return blueprint
