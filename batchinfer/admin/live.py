"""Live regions: a page and the part of it that is polled come from one view; no change answers 204."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask import Response, make_response, render_template, request
from markupsafe import Markup

from batchinfer.admin.language import find_zone_name, in_zone

if TYPE_CHECKING:
    from collections.abc import Mapping


def render_live(page: str, fragment: str, *, at_first: Mapping[str, Any] | None = None, **values: Any) -> Response:
    """The whole page, or for a poll of its live region the fragment alone, or 204 where the browser has that.

    The fragment travels with a digest of itself in a hidden field, which comes back as `seen` with the next
    poll. `at_first` are values that it has in the whole page alone, and that the digest does not see: what is
    skipped when the fragment is swapped, as it asks for itself.
    """
    as_of = f"{in_zone(datetime.now(UTC)):%H:%M:%S} {find_zone_name()}"
    inner = Markup(render_template(fragment, **values))  # noqa: S704 - a template of ours, escaped when it was rendered
    digest = hashlib.sha256(inner.encode()).hexdigest()[:16]
    if not request.headers.get("HX-Request"):
        if at_first:
            inner = Markup(render_template(fragment, **values, **at_first))  # noqa: S704 - the same template
        response = make_response(render_template(page, inner=inner, digest=digest, as_of=as_of, **values))
    elif request.args.get("seen") == digest:
        response = Response(status=204)
    else:
        response = make_response(render_template("_live_content.html", inner=inner, digest=digest))
    response.headers["X-As-Of"] = as_of
    return response
