"""A CPU worker lists the source of a run into its manifest, while the first pages already run.

Documents are stored in groups, a transaction each that holds the run's batch; the cursor that goes with them says where
to go on after a crash: nothing is listed twice, and nothing is missed that was there all the time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from batchinfer.domain.batches import BatchState
from batchinfer.domain.ids import new_id
from batchinfer.domain.reuse import Reuse
from batchinfer.domain.sources import Incremental
from batchinfer.errors import BatchinferError, Failure, FetchFailed, NotFound
from batchinfer.observe.clock import utc_now
from batchinfer.services import pumping, sealing
from batchinfer.services.sourcing import find_source, iterate_entries
from batchinfer.store import batches, endings, files, manifests, unchanged
from batchinfer.store.manifests import Listed
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from uuid import UUID

    from batchinfer.domain.sources import Entry, Source
    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.manifests import Manifest
    from batchinfer.store.unchanged import Same

#: Documents that are stored in one transaction; few at first, so that the first pages run at once.
FIRST_GROUP, GROUP = 20, 1000
#: Seconds after which a group is stored however few it holds: the source may be slow.
_GROUP_S = 5.0


@dataclass
class Group:
    """Entries that are stored together: the `number`th group of a run, from 1."""

    number: int
    entries: list[Entry] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether it is to be stored now."""
        return len(self.entries) >= (FIRST_GROUP if self.number == 1 else GROUP)


@dataclass
class Left:
    """What is in the source and not in the manifest."""

    #: Younger than `settle_seconds`.
    unsettled: int = 0
    #: Whether there is more than `max_documents`.
    more: bool = False


def list_source(
    ctx: Context, claim: Claim, insist: Callable[[Callable[[], bool]], bool], wanted: Callable[[], bool]
) -> bool:
    """List the source, from where an earlier worker stopped. False: nobody wants it any more.

    `insist` repeats a write until the database answers. Raises NotFound, Failure where the source cannot be read, and
    FetchFailed where that may pass; the run says why.
    """
    left = Left()
    while True:
        manifest = _find_manifest(ctx, claim.subject_id)
        source = find_source(manifest)
        try:
            entries = iterate_entries(ctx, manifest.tenant_id, source, manifest.cursor.get("place"))
            for group in gather(manifest, source, entries, left):
                if not wanted() or not insist(partial(save_group, ctx, claim, source, group)):
                    return False
                insist(partial(_pump, ctx, claim.subject_id))
            break
        except BatchinferError as error:
            # A long listing may meet many a moment that passes: as long as it gets on, it goes on.
            stored = _find_manifest(ctx, claim.subject_id).cursor.get("group", 0)
            if not isinstance(error, FetchFailed) or stored <= manifest.cursor.get("group", 0):
                insist(partial(_say_why, ctx, claim.subject_id, error))
                raise
    return insist(partial(finish_listing, ctx, claim, source, left))


def _find_manifest(ctx: Context, run_id: UUID) -> Manifest:
    with ctx.db.transaction() as tx:
        manifest = manifests.find_manifest(tx, run_id)
    if manifest is None:
        raise NotFound("The run to be listed is gone. Declare it again.", code="run_not_found")
    return manifest


def gather(manifest: Manifest, source: Source, entries: Iterable[Entry], left: Left) -> Iterator[Group]:
    """The entries that are wanted, in groups; what is not, is counted in `left`."""
    settled = utc_now() - timedelta(seconds=source.settle_s)
    group, room = Group(manifest.cursor.get("group", 0) + 1), source.max_documents - manifest.documents
    begun = time.monotonic()
    for entry in entries:
        if source.settle_s and entry.modified_at is not None and entry.modified_at > settled:
            left.unsettled += 1
            continue
        if room <= 0:
            left.more = True
            break
        group.entries.append(entry)
        room -= 1
        if group.is_full or time.monotonic() - begun > _GROUP_S:
            yield group
            group, begun = Group(group.number + 1), time.monotonic()
    if group.entries:
        yield group


def save_group(ctx: Context, claim: Claim, source: Source, group: Group) -> bool:
    """Store the next group. False: fenced, stop. Called again with the same one, nothing changes."""
    with ctx.db.transaction() as tx:
        blobs = {entry.blob: entry for entry in group.entries if entry.blob}
        files.record_blobs(
            tx, claim.tenant_id,
            [files.Blob(sha256, entry.size_bytes or 0, entry.media_type or files.PLAIN)
             for sha256, entry in sorted(blobs.items())],
        )  # fmt: skip
        held = batches.hold_batch(tx, lease_id=claim.lease_id, claim=claim)
        if held is None or held.batch.status is not BatchState.IN_PROGRESS:
            return False
        manifest = manifests.hold_manifest(tx, claim.subject_id)
        if manifest.cursor.get("group", 0) >= group.number:
            return True
        same: dict[str, Same] = {}
        if skips_unchanged(manifest.spec, source):
            same = unchanged.find_unchanged(tx, manifest.tenant_id, manifest.recipe, group.entries)
        listed = [Listed(new_id(), entry, same.get(entry.uri_key), find_error(entry, source))
                  for entry in group.entries]  # fmt: skip
        manifests.insert_documents(tx, manifest, listed)
        stages = [one.stage for one in listed]
        batches.open_lines(tx, manifest.run_id, opened=stages.count("listed"))
        cursor = manifest.cursor | {"group": group.number, "place": group.entries[-1].place}
        manifests.advance(tx, manifest.run_id, listed, cursor)
        sealed = sealing.queue_full_shards(tx, manifest.run_id) if "closed" in stages else []
    ctx.announcer.announce_cpu(sealed)
    return True


def skips_unchanged(spec: dict[str, Any], source: Source) -> bool:
    """Whether documents that an earlier run has read are left out."""
    cache = (spec.get("pipeline") or {}).get("cache")
    return source.incremental is not Incremental.OFF and cache not in (Reuse.OFF, Reuse.REFRESH)


def find_error(entry: Entry, source: Source) -> dict[str, Any] | None:
    """Why a document fails without being read; None where it does not."""
    if entry.error is not None or source.max_bytes is None or (entry.size_bytes or 0) <= source.max_bytes:
        return entry.error
    fault = Failure(
        f"The file has {entry.size_bytes:,} bytes, more than the {source.max_bytes:,} that `max_bytes` of the source "
        "allows. Split it, or raise that.",
        code="document_too_large",
    )
    return fault.as_dict()


def finish_listing(ctx: Context, claim: Claim, source: Source, left: Left) -> bool:
    """All is listed. The run ends where nothing of it is left. False: fenced."""
    tally = Tally()
    with ctx.db.transaction() as tx:
        held = batches.hold_batch(tx, lease_id=claim.lease_id, claim=claim)
        if held is None:
            return False
        manifest = manifests.hold_manifest(tx, claim.subject_id)
        if manifests.end_listing(tx, manifest.run_id):
            batches.open_lines(tx, manifest.run_id, opened=-1)
            for cause in list_notes(manifest, source, left):
                manifests.note(tx, manifest.run_id, cause)
        endings.finish(tx, lease_id=claim.lease_id, claim=claim)
        tally.count_line(manifest.run_id)
        tally.add(tx)
    ctx.announcer.announce_cpu([claim.subject_id])
    return True


def list_notes(manifest: Manifest, source: Source, left: Left) -> list[dict[str, Any]]:
    """What a reader of the run has to know of what was listed: {"code", "message"} each."""
    notes = []
    if left.more:
        message = f"The source has more than {source.max_documents:,} documents; the rest was not listed."
        notes.append({"code": "max_documents", "message": message})
    if not manifest.documents:
        message = "There was nothing to read: no document was found that is wanted."
        notes.append({"code": "no_input", "message": message})
    if left.unsettled:
        message = f"{left.unsettled:,} files had changed too lately; the next run takes them."
        notes.append({"code": "unsettled", "message": message})
    return notes


def _pump(ctx: Context, run_id: UUID) -> bool:
    pumping.pump(ctx, run_id)
    return True


def _say_why(ctx: Context, run_id: UUID, error: BatchinferError) -> bool:
    with ctx.db.transaction() as tx:
        manifests.set_listing_cause(tx, run_id, error.as_dict())
    return True
