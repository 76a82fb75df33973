"""A sample batch for the first run: drawn pages, all of it made up, read by the model that is ready."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import finish, name_once
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.userfiles import LEAST_EXPIRY_S, USER_DATA, FileRequest
from batchinfer.errors import Conflict
from batchinfer.services import batches, models, runs, userfiles

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

#: The bundled reader, which was trained on such pages, and what it is asked.
READER, PROMPT = "docreader", "Extract."
SEEDS = range(1, 13)
#: Of its files, which nobody needs once they are read.
_KEPT_S = 24 * LEAST_EXPIRY_S


def register(blueprint: Blueprint) -> None:
    """Add the act, and for templates the model that it would use."""
    blueprint.add_app_template_global(find_sample_model)
    blueprint.add_app_template_global(find_newest_batch)
    blueprint.add_url_rule("/batches/sample", view_func=start_sample_batch, methods=["POST"])


def find_sample_model() -> str | None:
    """The model that reads the sample: the bundled reader where it is ready, else another one that is; None: none."""
    ready = [model.name for model in models.list_models(get_context(), get_caller()) if model.state == "ready"]
    return READER if READER in ready else next(iter(sorted(ready)), None)


def find_newest_batch() -> str:
    """The newest batch that the page knows of, or nothing: pressed twice there, the button makes one batch, and a page
    that has not changed stays word for word what it was."""
    page = batches.list_batches(get_context(), get_caller(), limit=1)
    return ids.show_id(ids.BATCH, page.data[0].id) if page.data else ""


def start_sample_batch() -> Response:
    """Draw the pages, keep them as files, and begin a run over them. Raises Forbidden, Conflict, Busy, Unavailable."""
    context, caller = get_context(), get_caller()
    caller.require("submit")
    model = find_sample_model()
    if model is None:
        raise Conflict("No model is ready to read the sample. Launch one first, then start the sample batch.")
    newest = request.form.get("newest")
    once = None if newest is None else name_once("/admin/batches/sample", newest[:100], "sample")
    files = []
    for seed in SEEDS:
        named = FileRequest(f"sample-page-{seed:02d}.png", USER_DATA, _KEPT_S)
        kept, _replayed = userfiles.upload_file(context, caller, named, io.BytesIO(_draw(seed)))
        files.append(ids.show_id(ids.FILE, kept.id))
    # Read anew each time: who starts it twice wants to see it work twice.
    body: dict[str, Any] = {
        "name": "sample batch",
        "source": {"files": files, "incremental": "off"},
        "pipeline": {"model": model, "prompt": PROMPT, "class": "normal", "cache": "off", "render": {"lossless": True}},
        "sample": {"size": len(SEEDS)},
    }
    made, _replayed = runs.declare_run(context, caller, body, once)
    return finish(
        _("The sample batch has begun: %(count)s pages of made-up vendors.", count=len(SEEDS)),
        url_for("admin.show_batch", batch_id=ids.show_id(ids.BATCH, made.id)),
    )


def _draw(seed: int) -> bytes:
    from batchinfer.samples import draw_page  # with Pillow, which the web server needs for nothing else

    file = io.BytesIO()
    draw_page(seed).image.save(file, "PNG")
    return file.getvalue()
