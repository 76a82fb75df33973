"""What a run would do, before it begins: how much is in its source, what is unchanged, and why the rest is read."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from batchinfer.domain.pipelines import make_recipe
from batchinfer.errors import BadRequest, Failure
from batchinfer.services import runs
from batchinfer.services.listing import GROUP, find_error, skips_unchanged
from batchinfer.services.sourcing import fill_now, iterate_entries
from batchinfer.store import previous_runs, unchanged
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from batchinfer.domain.runs import RunSpec
    from batchinfer.domain.sources import Entry, Source
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.previous_runs import Previous

#: Entries and seconds that a preview takes at most; then it says that there is more.
MOST_DOCUMENTS, MOST_S = 100_000, 20.0


@dataclass
class Preview:
    """What a run would do now. `complete` is False where the source has more than was looked at."""

    documents: int = 0
    bytes: int = 0
    #: Read before under the same recipe: left out.
    unchanged: int = 0
    #: Over `max_bytes`, or not to be read.
    refused: int = 0
    #: Read before, and read again as something that shapes the answers has changed since.
    redone: int = 0
    complete: bool = True
    #: A sentence for people.
    reason: str = ""


def preview_run(
    ctx: Context, caller: Caller, body: object, *, more: tuple[str, ...] = (), timezone: str | None = None
) -> dict[str, Any]:
    """What a declaration would do now, without doing it: {"documents", "bytes", "unchanged", "refused", "redone",
    "complete", "reason"}. `more` and `timezone` are a schedule's: fields beside a run's, and the zone of its clocks.

    Raises BadRequest (what is wrong with it, or a source that cannot be read), NotFound.
    """
    caller.require("submit")
    spec = runs.check_spec(ctx, caller, body, more=more)
    with ctx.db.transaction() as tx:
        resolved, now = runs.resolve(tx, caller.tenant_id, spec), read_now(tx)
        recipe = make_recipe(
            spec.pipeline, revision=resolved["revision"], prompt=resolved["prompt"], system=resolved["system"]
        )
        previous = previous_runs.find_previous(tx, caller.tenant_id, uri=spec.source.uri, name=spec.name)
    preview = Preview()
    source = fill_now(spec.source, now, timezone)
    try:
        for group in _gather(ctx, caller.tenant_id, source, preview):
            _count(ctx, caller.tenant_id, _Held(spec, source, recipe, previous), group, preview)
    except Failure as fault:
        raise BadRequest(f"`source`: {fault.message}", code=fault.code, param="source") from None
    preview.reason = explain(preview, previous, recipe, resolved, body)
    return asdict(preview)


@dataclass(frozen=True)
class _Held:
    spec: RunSpec
    source: Source
    recipe: str
    previous: Previous | None


def _gather(ctx: Context, tenant_id: UUID, source: Source, preview: Preview) -> Iterator[list[Entry]]:
    """The entries in groups, as far as a preview goes."""
    most, begun = min(MOST_DOCUMENTS, source.max_documents), time.monotonic()
    entries = iterate_entries(ctx, tenant_id, source)
    while preview.documents < most and time.monotonic() - begun < MOST_S:
        group = list(islice(entries, min(GROUP, most - preview.documents)))
        if not group:
            return
        yield group
    preview.complete = source.max_documents <= preview.documents or next(entries, None) is None


def _count(ctx: Context, tenant_id: UUID, held: _Held, group: list[Entry], preview: Preview) -> None:
    preview.documents += len(group)
    preview.bytes += sum(entry.size_bytes or 0 for entry in group)
    preview.refused += sum(find_error(entry, held.source) is not None for entry in group)
    cached = {"pipeline": {"cache": held.spec.pipeline.cache.value}}
    with ctx.db.transaction() as tx:
        if skips_unchanged(cached, held.source):
            preview.unchanged += len(unchanged.find_unchanged(tx, tenant_id, held.recipe, group))
        if held.previous and held.previous.recipe != held.recipe:
            preview.redone += unchanged.count_known(tx, tenant_id, held.previous.recipe, group)


def explain(preview: Preview, previous: Previous | None, recipe: str, resolved: dict[str, Any], body: object) -> str:
    """Why so much is read, and so little left out."""
    if not preview.documents:
        return "There is nothing to read: no document was found that is wanted."
    read = preview.documents - preview.unchanged - preview.refused
    counted = f"{preview.unchanged:,} of {preview.documents:,} documents are unchanged and are left out"
    if not preview.complete:
        counted = f"Of the first {preview.documents:,} documents, {preview.unchanged:,} are unchanged and are left out"
    if previous is None or not preview.redone or previous.recipe == recipe:
        return f"{counted}; {read:,} are read."
    changed = ", ".join(list_changes(previous, resolved, body)) or "a setting that shapes the answers"
    return (
        f"{counted}; {read:,} are read, {preview.redone:,} of them again, as this has changed since the run before: "
        f"{changed}."
    )


def list_changes(previous: Previous, resolved: dict[str, Any], body: object) -> list[str]:
    """What shapes the answers and is another than in an earlier run."""
    before = previous.spec.get("resolved") or {}
    words = {"revision": "the model's revision", "prompt": "the prompt", "system": "the system prompt",
             "response_format": "the schema"}  # fmt: skip
    changes = [word for name, word in words.items() if before.get(name) != resolved.get(name)]
    old, new = previous.spec.get("pipeline") or {}, (body if isinstance(body, dict) else {}).get("pipeline") or {}
    told = {"prompt", "system", "template", "response_format", "class", "stop_after", "max_failed_share", "cache"}
    return changes + [f"`{name}`" for name in sorted(old.keys() | new.keys()) if name not in told
                      and old.get(name) != new.get(name)]  # fmt: skip
