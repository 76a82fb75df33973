"""The pages for people, from Overview to Settings. HTML from Jinja, one stylesheet, htmx for what moves; no build.

app = Flask(...)
register_admin(app, context)      # pages under /admin, sign-in by API key
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from flask import Blueprint, Flask

from batchinfer.admin import (
    acting,
    acts,
    assets,
    audit,
    batch,
    batch_acts,
    batch_files,
    batch_new,
    batches,
    deployment,
    doctor,
    failures,
    guard,
    job,
    job_acts,
    jobs,
    keys,
    launching,
    model,
    models,
    nav,
    overview,
    picture,
    placed,
    registering,
    review,
    run_pages,
    runs,
    sample_batch,
    schedule,
    schedule_form,
    schedules,
    settings,
    shown,
    signin,
    swaps,
    try_again,
    trying,
    workers,
)
from batchinfer.admin.language import register_language
from batchinfer.admin.session import AdminSessions, attach_context

if TYPE_CHECKING:
    from batchinfer.doctor.latest import Latest
    from batchinfer.services.context import Context

#: What every page has: guards, files, how values look, errors, the door, acts, the menu. The guards come first.
_FRAME = (guard, assets, shown, failures, signin, acting, nav)
_PAGES = (
    overview,
    jobs,
    job,
    picture,
    doctor,
    schedules,
    schedule,
    schedule_form,
    runs,
    keys,
    settings,
    audit,
    models,
    model,
    placed,
    deployment,
    launching,
    registering,
    swaps,
    trying,
    workers,
    batches,
    batch,
    batch_acts,
    batch_files,
    batch_new,
    sample_batch,
    run_pages,
    review,
    job_acts,
    try_again,
    acts,
)
#: How long one sign-in lasts; the key is looked up again with every request all the same.
SESSION_HOURS = 12


def register_admin(app: Flask, context: Context) -> Latest:
    """Mount the pages at /admin. Answers what knows the doctor's last findings, to be started where it is to look.

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
    register_language(app)
    app.register_blueprint(_make_blueprint())
    return doctor.attach(app, context)


def _make_blueprint() -> Blueprint:
    blueprint = Blueprint("admin", __name__, url_prefix="/admin", template_folder="templates", static_folder="static")
    for part in _FRAME:
        part.register(blueprint)
    for page in _PAGES:
        page.register(blueprint)
    return blueprint
