"""A CPU worker brings the files of a model's revision, and goes on where a lost one stopped.

What is refused, is refused when a revision is registered, before anything is fetched; here each file is held to what
was listed then: its size, its SHA-256, and for weights their own header.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.domain import model_facts
from batchinfer.domain.model_files import Listing, ModelFile, choose_files, with_sha256
from batchinfer.domain.registry import ModelSource, RevisionState, SourceKind
from batchinfer.errors import BadRequest, BatchinferError, Failure, FetchFailed, Unavailable
from batchinfer.media.hubs import mismatch
from batchinfer.media.model_folders import Incoming, check_folder, check_weights, find_place, hash_file
from batchinfer.media.model_sources import FolderPlace, open_source, read_small
from batchinfer.media.weight_headers import read_model_facts
from batchinfer.services.registry import make_changed, note_failed, read_again
from batchinfer.store import endings, fetches, queue, revisions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchinfer.media.model_folders import PartFile
    from batchinfer.media.model_sources import Place
    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.revisions import Revision

#: Seconds between two notes of how far it is.
NOTE_S = 1.0
#: Requests for a file that bring nothing, one after the other, before the whole row waits; and the pauses between them.
_VAIN, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5, 0.5, 30.0
#: Over so many seconds the rate is measured.
_WINDOW_S = 10.0


class Stopped(Exception):
    """Nobody wants the files any more, or this process ends."""


class Meter:
    """How far a fetch is, noted in the database now and then. Raises Stopped where nobody wants it any more."""

    def __init__(
        self,
        ctx: Context,
        claim: Claim,
        insist: Callable[[Callable[[], bool]], bool],
        wanted: Callable[[], bool],
        verb: str = "arrive",
    ) -> None:
        self._ctx, self._claim, self._insist, self._wanted = ctx, claim, insist, wanted
        self._verb = verb
        self._bytes, self._file = 0, ""
        self._history: list[tuple[float, int]] = []
        self._noted_s = float("-inf")

    def begin(self, bytes_here: int) -> None:
        """So many bytes are here already."""
        self._bytes = bytes_here
        self._history = [(time.monotonic(), bytes_here)]
        self.note()

    def name(self, file: ModelFile) -> None:
        """The file that comes now."""
        self._file = file.name

    def add(self, count: int) -> bool:
        """So many bytes more are here (fewer, where something was thrown away). Always True."""
        if not self._wanted():
            raise Stopped
        self._bytes += count
        if time.monotonic() - self._noted_s >= NOTE_S:
            self.note()
        return True

    def note(self, error: BatchinferError | None = None) -> None:
        """Write how far it is, and what it waits for."""
        now_s = time.monotonic()
        self._noted_s = now_s
        self._history = [*(one for one in self._history if one[0] >= now_s - _WINDOW_S), (now_s, self._bytes)]
        since_s, before = self._history[0]
        rate = (self._bytes - before) / (now_s - since_s) if now_s > since_s else 0.0
        progress = {"bytes_per_s": round(max(0.0, rate)), "file": self._file}
        told = error.as_dict() if error is not None else None
        if not self._insist(lambda: self._save(progress, told)):
            raise Stopped

    def sleep(self, pause_s: float) -> None:
        """Wait, unless nobody wants it any more."""
        until_s = time.monotonic() + pause_s
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(0.2, left_s))
            if not self._wanted():
                raise Stopped

    def _save(self, progress: dict[str, Any], error: dict[str, Any] | None) -> bool:
        with self._ctx.db.transaction() as tx:
            return fetches.save_progress(tx, self._claim, self._bytes, progress, error, verb=self._verb)


def fetch_revision(
    ctx: Context, claim: Claim, insist: Callable[[Callable[[], bool]], bool], wanted: Callable[[], bool]
) -> bool:
    """Bring the files of a revision, or read again what is here. False: nobody wants them any more, or this process
    ends; what came is kept.

    Raises Failure where they cannot be had, FetchFailed and Unavailable where that may pass.
    """
    with ctx.db.transaction() as tx:
        revision = revisions.get_revision(tx, claim.subject_id)
    if revision is not None and revision.state in _HERE and revision.progress is not None:
        return _check(ctx, claim, revision, Meter(ctx, claim, insist, wanted, "verify"), insist)
    if revision is None or revision.state != RevisionState.FETCHING:
        return insist(lambda: _finish(ctx, claim, None))
    meter = Meter(ctx, claim, insist, wanted)
    try:
        bring = _bring_folder if revision.source.get("kind") == SourceKind.FOLDER else _bring
        arrived = bring(ctx, revision, meter)
        return insist(lambda: _finish(ctx, claim, arrived))
    except Stopped:
        return False
    except (FetchFailed, Unavailable) as error:
        try:
            meter.note(error)
        except Stopped:
            return False
        raise


#: States of a revision whose files are here.
_HERE = (RevisionState.FETCHED, RevisionState.VERIFIED)


def _check(
    ctx: Context, claim: Claim, revision: Revision, meter: Meter, insist: Callable[[Callable[[], bool]], bool]
) -> bool:
    """Read the files of a revision again, and note what became of it. Raises Unavailable."""
    fault: Failure | BadRequest | None = None
    files: list[ModelFile] = []
    try:
        meter.begin(0)
        files = read_again(ctx, revision, meter.add)
    except Stopped:
        return False
    except (Failure, BadRequest) as found:
        fault = found
    return insist(lambda: _finish_check(ctx, claim, files, fault))


def _finish_check(ctx: Context, claim: Claim, files: Sequence[ModelFile], fault: Failure | BadRequest | None) -> bool:
    """Note whether the files are what they were and end the row. False where the fence refused."""
    with ctx.db.transaction() as tx:
        queue.lock(tx, [claim.id])
        revision = revisions.get_revision(tx, claim.subject_id)
        if revision is not None and fault is not None:
            note_failed(tx, revision, fault, "cpu worker")
        elif revision is not None and fetches.mark_checked(tx, claim, [file.as_json() for file in files]):
            fetches.note(tx, revision, "checked", "cpu worker", bytes=sum(one.size_bytes for one in files))
        return endings.finish(tx, lease_id=claim.lease_id, claim=claim)


class Arrived:
    """What was brought, where it lies, and what its small files say."""

    def __init__(self, path: Path, files: Sequence[ModelFile], facts: dict[str, Any]) -> None:
        self.path, self.files, self.facts = path, list(files), facts


def _bring(ctx: Context, revision: Revision, meter: Meter) -> Arrived:
    """Fetch what is missing into the folder of the revision."""
    files = [ModelFile.of(file) for file in revision.files]
    with Incoming(find_place(ctx.settings, revision.model, revision.revision)) as incoming:
        incoming.check_room(files)
        place = open_source(ModelSource.of(revision.source), ctx.settings, ctx.door)
        meter.begin(incoming.count_bytes(files))
        found = {}
        for file in files:
            meter.name(file)
            found[file.name] = _bring_file(incoming, place, file, meter)
        files = with_sha256(files, found)
        check_weights(incoming.folder, files)
        facts = _read_again(incoming.folder, files, revision, ctx)
        incoming.finish(files)
    return Arrived(incoming.final, files, facts)


def _bring_file(incoming: Incoming, place: Place, file: ModelFile, meter: Meter) -> str:
    """The SHA-256 of a file that is whole now. Raises Failure (code model_file_mismatch), FetchFailed, Stopped."""
    here = incoming.find_whole(file)
    if here is not None:
        if file.sha256 is not None:  # it got its name when that was right
            return file.sha256
        digest = hash_file(here, file.size_bytes, lambda _: meter.add(0))
        if digest is not None and digest.fits(file):
            return digest.sha256
        here.unlink(missing_ok=True)
        meter.add(-file.size_bytes)
    part = incoming.open_part(file)
    try:
        while True:
            _fill(part, place, file, meter)
            sha256 = part.finish()
            if sha256 is not None:
                return sha256
            went_on = part.found > 0
            meter.add(-part.at)
            part.restart()
            if not went_on:
                raise mismatch(file)
    finally:
        part.close()


def _fill(part: PartFile, place: Place, file: ModelFile, meter: Meter) -> None:
    """Read on until all bytes are here. Each request may break off; what it brought counts."""
    vain, pause_s = 0, _FIRST_PAUSE_S
    while part.at < file.size_bytes:
        before = part.at
        try:
            with place.read(file, part.at) as (begins, pieces):
                if begins != part.at:
                    meter.add(-part.at)
                    part.restart()
                    before = 0
                for piece in pieces:
                    part.write(piece)
                    meter.add(len(piece))
            fault = FetchFailed("A file of the source ended early. It is read again later.", code="hub_unreachable")
        except FetchFailed as error:
            fault = error
        if part.at >= file.size_bytes:
            return
        vain, pause_s = (0, _FIRST_PAUSE_S) if part.at > before else (vain + 1, min(pause_s * 2, _LONGEST_PAUSE_S))
        if vain >= _VAIN:
            raise fault
        meter.note(fault)
        meter.sleep(fault.retry_after_s or pause_s)


def _bring_folder(ctx: Context, revision: Revision, meter: Meter) -> Arrived:
    """A folder stays where it is: its files are read, and their SHA-256 kept."""
    source = ModelSource.of(revision.source)
    folder = Path(source.at)
    files = [ModelFile.of(file) for file in revision.files]
    meter.begin(0)
    files, change = check_folder(folder, files, meter.add)
    if change is not None:
        raise make_changed(change)
    return Arrived(folder, files, _read_again(folder, files, revision, ctx))


def _read_again(folder: Path, files: Sequence[ModelFile], revision: Revision, ctx: Context) -> dict[str, Any]:
    """The facts, from the small files as they came: what they were when they were listed may have been something else.

    Raises Failure as `choose_files`.
    """
    place = FolderPlace(folder, ctx.settings, anywhere=True)
    configs, texts = read_small(place, Listing(revision.revision, tuple(files)))
    choose_files(files, configs)
    facts = model_facts.read_facts(files, configs, texts, revision.facts.get("licence"))
    planned = read_model_facts(folder).get("memory")
    return {**facts, "memory": planned} if planned else facts


def _finish(ctx: Context, claim: Claim, arrived: Arrived | None) -> bool:
    """Note what is here and end the row. False where the fence refused."""
    with ctx.db.transaction() as tx:
        queue.lock(tx, [claim.id])
        revision = revisions.get_revision(tx, claim.subject_id)
        if arrived is not None and revision is not None:
            files = [file.as_json() for file in arrived.files]
            if fetches.arrive(tx, claim, path=str(arrived.path), files=files, facts=arrived.facts):
                fetches.note(tx, revision, "fetched", "cpu worker", bytes=sum(one.size_bytes for one in arrived.files))
        return endings.finish(tx, lease_id=claim.lease_id, claim=claim)
