"""The registry of models, as operators use it: revisions made known, fetched, looked at, verified and taken away.

To fetch and to launch are separate verbs with separate scopes: nothing here loads a model, and nothing that loads one
fetches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.domain import model_facts
from batchinfer.domain.model_files import ModelFile, choose_files
from batchinfer.domain.registry import ModelSource, RevisionState, SourceKind
from batchinfer.errors import BadRequest, Conflict, Failure, FetchFailed, NotFound, Unavailable
from batchinfer.media import model_folders
from batchinfer.media.model_sources import open_source, read_small
from batchinfer.services.audit import NO_KEY, note
from batchinfer.services.models import make_unknown
from batchinfer.store import fetches, fleet, revisions

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.domain.model_files import Listing
    from batchinfer.domain.registry import RegisterRequest
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.revisions import Revision
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Found:
    """What a source has of a model, before anything is fetched."""

    listing: Listing
    #: What is fetched of it.
    files: tuple[ModelFile, ...]
    facts: dict[str, object]


@dataclass(frozen=True)
class Pruned:
    """A revision with files on the disk: `kept` says why they stay, and is None where they go."""

    model: str
    revision: str
    size_bytes: int
    kept: str | None


def register(ctx: Context, caller: Caller, request: RegisterRequest) -> Revision:
    """Make a revision of a model known: its files are listed and its small ones read, and nothing of its weights.

    The same again is as once. Raises Forbidden, BadRequest where the source has no model that may be loaded here, and
    Unavailable where it does not answer.
    """
    caller.require("fetch")
    found = look(ctx, request.source, anywhere=caller.key_id == NO_KEY)
    stored = [file.as_json() for file in found.files]
    revision = found.listing.revision
    with ctx.db.transaction() as tx:
        known = revisions.find_revision(tx, request.name, revision)
        source = request.source.as_json()
        fetches.register(tx, request.name, revision, source=source, files=stored, facts=found.facts)
        made = _get(tx, request.name, revision)
        if known is None:
            fetches.note(tx, made, "registered", caller.actor, source=source, bytes=made.size_bytes)
        note(tx, caller, "model.register", request.name, revision=revision, source=source)
    return made


def look(ctx: Context, source: ModelSource, *, anywhere: bool = False) -> Found:
    """List a source and read its small files. Raises BadRequest, Unavailable."""
    try:
        place = open_source(source, ctx.settings, ctx.door, anywhere=anywhere)
        listing = place.list()
        configs, texts = read_small(place, listing)
        files = choose_files(listing.files, configs)
    except FetchFailed as fault:
        raise Unavailable(fault.message, code=fault.code, retry_after_s=fault.retry_after_s) from None
    except Failure as fault:
        raise BadRequest(f"`source`: {fault.message}", code=fault.code, param="source") from None
    return Found(listing, tuple(files), model_facts.read_facts(files, configs, texts, listing.licence))


def fetch(ctx: Context, caller: Caller, model: str, revision: str) -> Revision:
    """Have a CPU worker bring the files of a revision. Twice is as once; one that is here stays as it is.

    Raises Forbidden, NotFound (codes model_not_found, revision_not_found).
    """
    caller.require("fetch")
    with ctx.db.transaction() as tx:
        found = _get(tx, model, revision)
        begun = fetches.begin(tx, found, caller.actor)
        note(tx, caller, "model.fetch", found.model, revision=found.revision)
        shown = _get(tx, found.model, found.revision)
    if begun:
        ctx.announcer.announce_cpu([found.id])
    return shown


def cancel_fetch(ctx: Context, caller: Caller, model: str, revision: str) -> Revision:
    """End a fetch; what has come is kept, and the next one goes on with it. Raises as `fetch`."""
    caller.require("fetch")
    with ctx.db.transaction() as tx:
        found = _get(tx, model, revision)
        fetches.cancel(tx, found, caller.actor)
        note(tx, caller, "model.cancel_fetch", found.model, revision=found.revision)
        return _get(tx, found.model, found.revision)


def verify(ctx: Context, caller: Caller, model: str, revision: str) -> Revision:
    """Have a CPU worker read the files of a revision again. Twice, while that is under way, is as once.

    They are what they were: `checked_at` says since when, and the state stays. They are not: the revision has failed.
    The self-test, which needs an engine, is no part of it. Raises Forbidden, NotFound (codes model_not_found,
    revision_not_found), Conflict (code revision_not_fetched).
    """
    caller.require("fetch")
    with ctx.db.transaction() as tx:
        found = _require_here(_get(tx, model, revision))
        begun = fetches.begin_check(tx, found)
        note(tx, caller, "model.verify", found.model, revision=found.revision)
        shown = _get(tx, found.model, found.revision)
    if begun:
        ctx.announcer.announce_cpu([found.id])
    return shown


def _require_here(found: Revision) -> Revision:
    """Go on only with a revision whose files are here. Raises Conflict (code revision_not_fetched)."""
    if found.state not in (RevisionState.FETCHED, RevisionState.VERIFIED) or not found.path:
        raise Conflict(
            f"Revision {found.revision} of '{found.model}' is {found.state}: its files are not here. Fetch it first.",
            code="revision_not_fetched",
        )  # fmt: skip
    return found


def list_revisions(ctx: Context, caller: Caller, model: str) -> list[Revision]:
    """The revisions of a model, newest first. Raises NotFound (code model_not_found)."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        if not fleet.model_exists(tx, model):
            raise make_unknown(model)
        return revisions.list_revisions(tx, model)


def get_revision(ctx: Context, caller: Caller, model: str, revision: str) -> Revision:
    """One revision; its first digits are enough. Raises NotFound (codes model_not_found, revision_not_found)."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return _get(tx, model, revision)


def _get(tx: Transaction, model: str, revision: str) -> Revision:
    exact = revisions.find_revision(tx, model, revision)
    if exact is not None:
        return exact
    if not fleet.model_exists(tx, model):
        raise make_unknown(model)
    alike = [one for one in revisions.list_revisions(tx, model) if one.revision.startswith(revision)]
    if len(alike) == 1 and len(revision) >= _LEAST_DIGITS:
        return alike[0]
    raise NotFound(
        f"The model '{model[:100]}' has no such revision. GET /v1/models/{model[:100]}/revisions lists those it has.",
        code="revision_not_found", param="revision",
    )  # fmt: skip


#: Of a revision's hash, where that is enough to tell it from the others.
_LEAST_DIGITS = 6


def check_files(ctx: Context, caller: Caller, model: str, revision: str) -> Revision:
    """Read the files of a revision again, and note where they are not what they were. Takes as long as reading them.

    Where some have no SHA-256 yet, it is read now. Raises Conflict (code model_changed, revision_not_fetched),
    NotFound, Forbidden.
    """
    caller.require("fetch")
    found = _require_here(get_revision(ctx, caller, model, revision))
    try:
        files = read_again(ctx, found)
    except (Failure, BadRequest) as fault:
        with ctx.db.transaction() as tx:
            note_failed(tx, found, fault, caller.actor)
        raise Conflict(fault.message, code=fault.code) from None
    return _with_files(found, files)


def read_again(ctx: Context, found: Revision, tell: Callable[[int], bool] = lambda _: True) -> list[ModelFile]:
    """The files of a revision that is here, with the SHA-256 that was read; `tell` hears of each so many bytes.

    Raises Failure (codes model_changed, weights_truncated), BadRequest, Unavailable.
    """
    files = [ModelFile.of(file) for file in found.files]
    if not files:  # made known by `up`, which lists no files
        files = list(look(ctx, ModelSource(SourceKind.FOLDER, found.path), anywhere=True).files)
    files, change = model_folders.check_folder(Path(found.path), files, tell)
    if change is not None:
        raise make_changed(change)
    return files


def mark_verified(ctx: Context, caller: Caller, revision: Revision) -> Revision:
    """The files were read again and an engine's self-test passed on them. `revision` is `check_files`' answer."""
    caller.require("fetch")
    with ctx.db.transaction() as tx:
        if fetches.mark_verified(tx, revision.id, revision.files):
            fetches.note(tx, revision, "verified", caller.actor)
        note(tx, caller, "model.verify", revision.model, revision=revision.revision)
        return _get(tx, revision.model, revision.revision)


def make_changed(change: str) -> Failure:
    """The error for files that are not what they were when they were fetched."""
    return Failure(f"The model's folder has changed: {change}. Fetch it again, or register it as another revision.",
                   code="model_changed")  # fmt: skip


def _with_files(revision: Revision, files: list[ModelFile]) -> Revision:
    from dataclasses import replace

    return replace(revision, files=[file.as_json() for file in files])


def note_failed(tx: Transaction, revision: Revision, fault: Failure | BadRequest, actor: str) -> None:
    """The files of a revision are not what they were."""
    if fetches.mark_failed(tx, revision.id, fault.as_dict()):
        fetches.note(tx, revision, "failed", actor, code=fault.code)


def prune(
    ctx: Context, caller: Caller, *, model: str | None = None, revision: str | None = None, dry_run: bool = False
) -> list[Pruned]:
    """Take away the files of revisions that nobody needs, and say what that frees; `dry_run` only says it.

    Never what a deployment serves, swaps in or rolls back to, what a replica has loaded, what is being fetched, nor a
    folder that was registered where it lies. What a launch takes by default goes only where its revision is named.
    Raises Forbidden, NotFound.
    """
    caller.require("fetch")
    with ctx.db.transaction() as tx:
        if model is not None and not fleet.model_exists(tx, model):
            raise make_unknown(model)
        names = [model] if model is not None else [one.name for one in fleet.list_models(tx)]
        chosen = [_get(tx, name, revision) if revision else None for name in names] if revision else []
        found = [one for one in chosen if one] or [one for name in names for one in revisions.list_revisions(tx, name)]
    return [
        pruned
        for one in found
        if (pruned := _prune(ctx, caller, one, named=bool(revision), dry_run=dry_run)) is not None
    ]


def _prune(ctx: Context, caller: Caller, revision: Revision, *, named: bool, dry_run: bool) -> Pruned | None:
    """What becomes of one revision; None where nothing of it is on the disk."""
    place = model_folders.find_place(ctx.settings, revision.model, revision.revision)
    size_bytes = model_folders.count_disk(place)
    if not size_bytes:
        return None
    with ctx.db.transaction() as tx:
        fetches.lock_model(tx, revision.model)
        why = fetches.list_used(tx, revision.model).get(revision.revision)
        now = revisions.get_revision(tx, revision.id)
        kept = None if why == "default" and named else why
        if now is not None and now.state == RevisionState.FETCHING:
            kept = "fetching"
        if kept is None and not dry_run:
            if not fetches.mark_pruned(tx, revision.id):
                kept = "fetching"
            else:
                fetches.note(tx, revision, "pruned", caller.actor, bytes=size_bytes)
                note(tx, caller, "model.prune", revision.model, revision=revision.revision, bytes=size_bytes)
    if kept is None and not dry_run:
        model_folders.remove(place)
    return Pruned(revision.model, revision.revision, size_bytes, kept)
