"""Doctor: what is wrong with the service and with the host of the web server, why it matters, and what to do."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, cast

from flask import Response, current_app, make_response, render_template
from flask_babel import lazy_gettext

from batchinfer.admin.session import get_caller, get_context
from batchinfer.doctor.everything import examine_all
from batchinfer.doctor.findings import Level, Look, find_worst, host_name
from batchinfer.doctor.latest import Latest

if TYPE_CHECKING:
    from flask import Blueprint, Flask

    from batchinfer.services.context import Context

_LATEST = "batchinfer.doctor"
#: What each group looks at, as a heading.
GROUPS = {
    "service": lazy_gettext("The service"),
    "storage": lazy_gettext("Storage"),
    "host": lazy_gettext("This host"),
    "devices": lazy_gettext("Devices"),
}


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/doctor", view_func=show_doctor)


def attach(app: Flask, context: Context) -> Latest:
    """Give the pages what the doctor found last."""
    latest = Latest(lambda: Look.of_host(context.settings, context))
    app.extensions[_LATEST] = latest
    return latest


def find_latest() -> Latest:
    """Of this application."""
    return cast("Latest", current_app.extensions[_LATEST])


def show_doctor() -> Response:
    """Every check, made now. For the scope admin: findings speak of the whole installation. Raises Forbidden."""
    get_caller().require("admin")
    context = get_context()
    findings = list(examine_all(Look.of_host(context.settings, context)))
    find_latest().note(findings)
    return make_response(
        render_template(
            "doctor.html",
            groups=[(GROUPS[name], list(found)) for name, found in groupby(findings, lambda finding: finding.group)],
            findings=findings,
            worst=find_worst(findings),
            counts={level: sum(finding.level is level for finding in findings) for level in Level},
            host=host_name(),
        )
    )
