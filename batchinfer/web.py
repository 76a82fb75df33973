"""The web application: `gunicorn 'batchinfer.web:create_app()'`. Mounts the API and the admin pages.

Without gunicorn's --preload, so that every process opens its own connections after the fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import redirect, url_for
from flask_openapi.openapi import OpenAPI
from werkzeug.middleware.proxy_fix import ProxyFix

from batchinfer.admin import register_admin
from batchinfer.admin.reference import register_reference
from batchinfer.api import register_api
from batchinfer.api.openapi import DOCUMENT, make_document
from batchinfer.api.queries import refuse_query
from batchinfer.api.schemas import ErrorBody
from batchinfer.observe.logs import configure_logging
from batchinfer.services.context import open_context
from batchinfer.settings import load_settings

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.settings import Settings


def create_app(settings: Settings | None = None, context: Context | None = None) -> OpenAPI:
    """The application. Reads the environment and opens the context where they are not passed in.

    Nothing connects before the first request that needs it. Raises SettingsError.
    """
    alone = context is None
    if context is None:
        settings = settings or load_settings()
        configure_logging(settings, "web")
        context = open_context(settings, name="batchinfer web")
    app = OpenAPI(
        "batchinfer",
        static_folder=None,
        validation_error_model=ErrorBody,
        validation_error_callback=refuse_query,
        **DOCUMENT,
    )
    register_api(app, context)
    latest = register_admin(app, context)
    if alone:
        latest.start()
    register_reference(app, lambda: make_document(app))
    if hops := context.settings.proxies:  # who asks, and whether by HTTPS; the host is the one that was asked for
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=0, x_prefix=0)  # type: ignore[method-assign]
    app.add_url_rule("/", "root", lambda: redirect(url_for("admin.show_overview")))
    return app
