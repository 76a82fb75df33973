"""A CPU worker writes a shard of a run's results to each of its sinks: aside first, then renamed, safe to do again.

What is written is a function of the rows alone. A worker that is lost on the way leaves whole files or none, and the
next one writes the same bytes over them; the shard counts once its files are noted, in one fenced transaction.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import join, refuse
from batchinfer.domain.ids import FILE, RUN, SHARD, new_id, show_id
from batchinfer.domain.runs import PageOutcome
from batchinfer.domain.shards import ShardPage, list_fields, wants_json
from batchinfer.domain.sinks import SinkType, check_allowed, is_allowed, parse_sinks
from batchinfer.domain.userfiles import BATCH_OUTPUT, LONGEST_EXPIRY_S
from batchinfer.errors import BatchinferError, FetchFailed, Unavailable
from batchinfer.media.shard_files import Form, measure_file, name_shard_file, open_writer
from batchinfer.media.sinks import find_missing, open_target
from batchinfer.store import endings, files, queue, runs, telling, userfiles
from batchinfer.store import shards as store
from batchinfer.store.files import PLAIN, Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.domain.shards import ShardDocument
    from batchinfer.domain.sinks import Sink
    from batchinfer.media.sinks import Target
    from batchinfer.services.context import Context
    from batchinfer.settings import Settings
    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction
    from batchinfer.store.shards import Shard

#: Rows that are read in one transaction.
_DOCUMENTS, _PAGES = 50, 200
SHARD_SEALED = "run.shard_sealed"


def check_sinks(sinks: Sequence[Sink], settings: Settings) -> None:
    """Go on only if these can be written. Raises BadRequest (code sink_not_allowed, extra_missing)."""
    check_allowed(sinks, settings)
    missing = find_missing(sinks)
    if missing is not None:
        number, extra = missing
        sentence = (
            f"needs a package that is not installed here. Install it with `pip install 'batchinfer-vlm[{extra}]'`."
        )
        refuse(join("sinks", number), sentence, "extra_missing")


def queue_full_shards(tx: Transaction, run_id: UUID) -> list[UUID]:
    """Queue the writing of documents that fill a shard. Called in the transaction that closed a document, which holds
    the run. Answers ids for the caller to announce once this is committed."""
    return store.queue_shards(tx, run_id)


@dataclass
class _Output:
    """A sink's file of a shard, while it is written and afterwards."""

    number: int
    sink: Sink
    name: str
    path: Path
    target: Target | None
    bytes: int = 0
    sha256: str = ""
    file_id: UUID | None = None


@dataclass
class _Written:
    """How much a shard holds."""

    documents: int = 0
    pages: int = 0
    outputs: list[_Output] = field(default_factory=list)

    def as_files(self) -> list[dict[str, Any]]:
        """As they are noted with the shard."""
        return [
            {
                "sink": output.number, "type": output.sink.type.value, "name": output.name, "bytes": output.bytes,
                "sha256": output.sha256, "documents": self.documents, "pages": self.pages,
                **({"file_id": show_id(FILE, output.file_id)} if output.file_id else {}),
            }
            for output in self.outputs
        ]  # fmt: skip


def seal_shard(
    ctx: Context,
    claim: Claim,
    scratch: Path,
    insist: Callable[[Callable[[], bool]], bool],
    wanted: Callable[[], bool],
) -> bool:
    """Write a shard to every sink. False: nobody wants it any more.

    Raises Unavailable and FetchFailed (a sink that is full, away or closed to us), which are noted on the run.
    """
    with ctx.db.transaction() as tx:
        shard = store.find_shard(tx, claim.subject_id)
        run = runs.load_runs(tx, [shard.run_id]).get(shard.run_id) if shard and not shard.sealed else None
    if shard is None or run is None:  # it is done, or its run is gone
        return insist(lambda: _finish(ctx, claim, None))
    folder = scratch / f"seal-{claim.id.hex}-{claim.attempt}"
    try:
        folder.mkdir(parents=True)
        written = _write_all(ctx, run, shard, folder, wanted)
        if written is None:
            return False
        blobs = _keep(ctx, run, written)
    except (Unavailable, FetchFailed) as error:
        if error.code.startswith("sink_"):  # else it is a part of ours that is away
            _note_trouble(ctx, run, shard, error)
        raise
    except OSError:
        full = Unavailable("The worker's disk did not take a shard. Make room on it.", code="sink_unavailable")
        _note_trouble(ctx, run, shard, full)
        raise full from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return insist(lambda: _finish(ctx, claim, written, blobs))


def open_targets(ctx: Context, run: Run) -> list[tuple[int, Sink, Target | None]]:
    """The sinks of a run that files are written to, by number, each with its folder; None: our own store.

    Raises FetchFailed, Unavailable.
    """
    settings, found = ctx.settings, []
    folders = [place.strip() for place in settings.sink_folders.split(",") if place.strip()]
    for number, sink in enumerate(parse_sinks(run.spec.get("sinks"))):
        if sink.type is SinkType.WEBHOOK:
            continue
        if sink.uri is not None and not is_allowed(sink.uri, settings):  # what the operator allows may have changed
            raise FetchFailed(
                "A sink is no longer among the places that the operator allows. Set sink_folders or sink_buckets; then "
                "seal the run again.", code="sink_refused",
            )  # fmt: skip
        found.append((number, sink, open_target(sink.uri, show_id(RUN, run.id), folders) if sink.uri else None))
    return found


def _write_all(ctx: Context, run: Run, shard: Shard, folder: Path, wanted: Callable[[], bool]) -> _Written | None:
    """All files of a shard, each in its place; those of our own store are still in `folder`."""
    written = _Written()
    for number, sink, target in open_targets(ctx, run):
        name = name_shard_file(sink.type, shard.number)
        written.outputs.append(_Output(number, sink, name, folder / f"{number}-shard", target))
    if not _write_rows(ctx, run, shard, written, wanted):
        return None
    for output in written.outputs:
        output.bytes, output.sha256 = measure_file(output.path)
        if output.target is not None:
            output.target.put(output.name, output.path)
    return written


def _write_rows(ctx: Context, run: Run, shard: Shard, written: _Written, wanted: Callable[[], bool]) -> bool:
    """Every page to every writer. False: nobody wants it any more."""
    form = _find_form(run)
    with ExitStack() as stack:
        writers = []
        for output in written.outputs:
            publish = output.target.put if output.target else _refuse_to_publish
            writers.append(open_writer(output.sink.type, output.path, form, publish))
            stack.callback(writers[-1].abort)
        for document, twin, pages in _read(ctx, run, shard):
            for writer in writers:
                writer.begin(document, twin=twin)
            written.documents += 1
            for page in pages:
                for writer in writers:
                    writer.add(document, page)
                written.pages += page.job_id is not None
            if not wanted():
                return False
        for writer in writers:
            writer.close()
    return True


def _refuse_to_publish(_name: str, _path: Path) -> None:
    raise ValueError("a file a document needs a folder")  # the declaration has refused it


def _find_form(run: Run) -> Form:
    form = (run.spec.get("resolved") or {}).get("response_format")
    return Form(wants_json(form), list_fields(form))


def _read(ctx: Context, run: Run, shard: Shard) -> Iterator[tuple[ShardDocument, bool, Iterator[ShardPage]]]:
    """Documents of a shard, whether an earlier one has the same name, and their pages as they come."""
    after = shard.first - 1
    named = run.spec.get("source", {}).get("uri") is None  # below one address no two have the same path
    while True:
        with ctx.db.transaction() as tx:
            group = store.list_documents(tx, shard, after=after, limit=_DOCUMENTS)
            twins = store.find_twins(tx, run.id, [one.id for one in group]) if named and group else frozenset()
        pages = _Pages(ctx, [one.source_id for one in group])
        for place, document in enumerate(group):
            yield document, document.id in twins, _pages_of(document, pages.take(place))
        if len(group) < _DOCUMENTS:
            return
        after = group[-1].closed_number


def _pages_of(document: ShardDocument, pages: Iterator[ShardPage]) -> Iterator[ShardPage]:
    """The pages of a document, and behind them what went wrong with it as a whole: nothing that failed is left out."""
    number = 0
    for page in pages:
        number += 1
        yield page
    good = document.outcome in (None, "completed", "completed_with_errors")
    if document.error is not None or (not number and not good):
        error = document.error or {}
        told = {"code": error.get("code") or document.outcome or "failed",
                "message": error.get("message") or f"The document ended as {document.outcome}."}  # fmt: skip
        yield ShardPage(None, PageOutcome.FAILED, error=told)


class _Pages:
    """The pages of a group of documents, read some at a time and handed out document by document."""

    def __init__(self, ctx: Context, sources: list[UUID]) -> None:
        self._ctx, self._sources = ctx, sources
        self._rows = self._fetch()
        self._next = next(self._rows, None)

    def take(self, place: int) -> Iterator[ShardPage]:
        """The pages of the document at this place; what of an earlier one was not taken is passed over."""
        while self._next is not None and self._next[0] <= place:
            there, page = self._next
            self._next = next(self._rows, None)
            if there == place:
                yield page

    def _fetch(self) -> Iterator[tuple[int, ShardPage]]:
        cursor = store.BEFORE_ALL
        while self._sources:
            with self._ctx.db.transaction() as tx:
                rows = store.list_pages(tx, self._sources, after=cursor, limit=_PAGES)
            for place, cursor, page in rows:  # noqa: B007 - the last one is where it goes on
                yield place, page
            if len(rows) < _PAGES:
                return


def _keep(ctx: Context, run: Run, written: _Written) -> list[Blob]:
    """The files of our own store, as blobs."""
    blobs = []
    for output in written.outputs:
        if output.target is None:
            output.file_id = new_id()
            blobs.append(Blob(ctx.blobs.put_file(run.tenant_id, output.path), output.bytes, PLAIN))
    return blobs


def _note_trouble(ctx: Context, run: Run, shard: Shard, error: BatchinferError) -> None:
    cause = {"code": error.code, "message": error.message, "shard": shard.number}
    with ctx.db.transaction() as tx:
        store.note_trouble(tx, run.id, cause)


def _finish(ctx: Context, claim: Claim, written: _Written | None, blobs: Sequence[Blob] = ()) -> bool:
    """Note what was written and end the row. False where the fence refused."""
    with ctx.db.transaction() as tx:
        queue.lock(tx, _find_rows(tx, claim))
        shard = store.hold_shard(tx, lease_id=claim.lease_id, claim=claim)
        woken = []
        if shard is not None and written is not None:
            files.record_blobs(tx, shard.tenant_id, blobs)
            _insert_files(tx, shard, written)
            store.seal_shard(tx, shard.id, written.as_files())
            store.note_trouble(tx, shard.run_id, None)
            run = runs.load_runs(tx, [shard.run_id])[shard.run_id]
            _tell(tx, run, shard, written)
            if store.count_left(tx, shard.run_id).under_way <= 1:  # this one's row is still there
                store.wait(tx, [shard.run_id], 0.0)
                woken = [shard.run_id]
        done = endings.finish(tx, lease_id=claim.lease_id, claim=claim)
    ctx.announcer.announce_cpu(woken)
    return done


def _find_rows(tx: Transaction, claim: Claim) -> list[UUID]:
    """The rows that the end of a shard may change: its own, and the one that ends its run."""
    shard = store.find_shard(tx, claim.subject_id)
    return [claim.id, *([shard.run_id] if shard else [])]


def _insert_files(tx: Transaction, shard: Shard, written: _Written) -> None:
    for output in written.outputs:
        if output.file_id is not None:
            userfiles.insert_file(
                tx, output.file_id, shard.tenant_id, filename=f"{show_id(RUN, shard.run_id)}_{output.name}",
                purpose=BATCH_OUTPUT, blob=output.sha256, size_bytes=output.bytes, expires_s=LONGEST_EXPIRY_S,
            )  # fmt: skip


def _tell(tx: Transaction, run: Run, shard: Shard, written: _Written) -> None:
    """A delivery to each endpoint that wants it, where the run has a sink of webhooks."""
    if not any(sink.type is SinkType.WEBHOOK for sink in parse_sinks(run.spec.get("sinks"))):
        return
    data = {
        "shard_id": show_id(SHARD, shard.id), "number": shard.number, "documents": written.documents,
        "pages": written.pages,
    }  # fmt: skip
    happening = telling.Happening(run.tenant_id, SHARD_SEALED, "run", run.id, show_id(RUN, run.id), data)
    telling.tell(tx, [happening])
