"""Documents of a run that has ended are read again: those with a page that failed, of one cause or of any, as a new run
with the same settings over these documents alone."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from batchinfer.domain.batch_items import ONLY
from batchinfer.domain.ids import RUN, show_id
from batchinfer.domain.runs import SPEC_FIELDS
from batchinfer.domain.sources import MAX_GLOBS, MAX_URLS
from batchinfer.errors import BadRequest
from batchinfer.media.folders import SCHEME, read_path, show_uri
from batchinfer.media.sources import split_globs
from batchinfer.services.runs import declare_run, get_own
from batchinfer.services.sourcing import find_source
from batchinfer.store import manifests, run_documents

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.domain.sources import Source
    from batchinfer.services.context import Caller, Context, Idempotency

_STATES = tuple(state.value for states in ONLY.values() for state in states)


def count_documents(ctx: Context, caller: Caller, run_id: UUID, codes: Sequence[str] = ()) -> int:
    """How many documents `reread_run` would read again. Raises NotFound, BadRequest as it does."""
    caller.require("submit")
    return len(_list_uris(ctx, get_own(ctx, caller, run_id), codes))


def reread_run(
    ctx: Context, caller: Caller, run_id: UUID, codes: Sequence[str] = (), idempotency: Idempotency | None = None
) -> tuple[Run, bool]:
    """Make a run of the documents with pages that failed, for one of `codes` where any are given, and begin it. Answers
    it, and whether it is a replay. Pages that were answered well are answered as before where the pipeline reuses.

    Raises NotFound, BadRequest (codes run_not_retryable, no_document_failed), KeyReused, Busy.
    """
    caller.require("submit")
    run = get_own(ctx, caller, run_id)
    uris = _list_uris(ctx, run, codes)
    body: dict[str, Any] = {name: run.spec[name] for name in SPEC_FIELDS if run.spec.get(name) is not None}
    with ctx.db.transaction() as tx:
        manifest = manifests.find_manifest(tx, run_id)
    if manifest is None:
        raise _refuse(run, "was never begun")
    # What the ledger says of them is not asked: they are wanted.
    kept = {name: body["source"][name] for name in ("max_bytes",) if name in body["source"]}
    source = {**kept, **_name_documents(find_source(manifest), uris, run), "incremental": "off"}
    return declare_run(ctx, caller, {**body, "source": source}, idempotency)


def _list_uris(ctx: Context, run: Run, codes: Sequence[str]) -> list[str]:
    if run.finished_at is None:
        raise _refuse(run, "has not ended. Wait for its end, or cancel it first")
    with ctx.db.transaction() as tx:
        uris = run_documents.list_failed_uris(tx, run.tenant_id, run.id, _STATES, codes, limit=MAX_URLS + 1)
    if not uris:
        raise BadRequest("No document of this run failed in such a way.", code="no_document_failed")
    if len(uris) > MAX_URLS:
        raise _refuse(run, f"has more than {MAX_URLS:,} such documents. Run it again: what was read well is left out")
    return uris


def _name_documents(source: Source, uris: list[str], run: Run) -> dict[str, Any]:
    """The source that has these documents alone, each under the name that it had."""
    if source.files:
        return {"files": uris}
    if source.urls:
        return {"urls": uris}
    if len(uris) > MAX_GLOBS:
        raise _refuse(run, f"has more than {MAX_GLOBS} such documents. Run it again: what was read well is left out")
    base, _wild = split_globs(str(source.uri))
    is_folder = base.startswith(("/", SCHEME))
    if is_folder:
        base = show_uri(os.path.realpath(read_path(base)))  # as whoever listed them found it
    if base in uris:
        return {"uri": base}  # the address of a single one
    base = base.rstrip("/")
    if not all(uri.startswith(base + "/") for uri in uris):
        raise _refuse(run, "read its documents from another place than its source names. Run it again")
    paths = [uri.removeprefix(base) for uri in uris]
    # Bytes of a name that are no text cannot be written down; whatever stands for them is meant.
    paths = [unquote(path) if is_folder else path for path in paths]
    return {"uri": base, "include": [glob.escape(path).replace("\ufffd", "*") for path in paths]}


def _refuse(run: Run, sentence: str) -> BadRequest:
    return BadRequest(f"Run {show_id(RUN, run.id)} {sentence}.", code="run_not_retryable")
