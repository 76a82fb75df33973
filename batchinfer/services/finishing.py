"""A CPU worker ends a run whose pages have all ended: its last shards, the sample, the report, and the manifest last.

Every step may be done again. While shards are still being written the row waits, and whoever writes the last one wakes
it. A run whose sinks could not be written ends as failed and says why; nothing of it is lost: it can be sealed again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchinfer.domain.batches import BatchState, find_end
from batchinfer.domain.ids import FILE, RUN, new_id, show_id
from batchinfer.domain.review import parse_sample
from batchinfer.domain.sinks import SinkType
from batchinfer.domain.userfiles import BATCH_OUTPUT, LONGEST_EXPIRY_S
from batchinfer.media.shard_files import make_bytes, measure_file
from batchinfer.services.report_page import render_report
from batchinfer.services.reports import build_report, load_thumbnails
from batchinfer.services.sampling import choose_pages
from batchinfer.services.sealing import open_targets
from batchinfer.store import batches, endings, files, reports, returns, reviews, runs, userfiles
from batchinfer.store import shards as store
from batchinfer.store.files import PLAIN, Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.services.context import Context
    from batchinfer.store.batches import Held
    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction

#: Whoever writes the last shard wakes the row sooner.
_WAIT_S = 20.0
_PIECE_BYTES = 1 << 20
_SHARDS = 100


def finish_run(
    ctx: Context,
    claim: Claim,
    scratch: Path,
    insist: Callable[[Callable[[], bool]], bool],
    wanted: Callable[[], bool],
) -> bool:
    """End a run. False: nobody wants it any more. Raises Unavailable, FetchFailed (a sink)."""
    with ctx.db.transaction() as tx:
        there = claim.subject_id in runs.load_runs(tx, [claim.subject_id])
    if not there or not _queue_rest(ctx, claim, wanted):
        return wanted() and insist(lambda: _end_gone(ctx, claim))
    with ctx.db.transaction() as tx:
        left = store.count_left(tx, claim.subject_id)
    if left.under_way:
        return insist(lambda: _postpone(ctx, claim))
    cause = None
    if left.given_up:
        error = left.error or {}
        cause = {
            "code": "sink_failed",
            "message": f"{left.given_up:,} shards could not be written. Put it right, then seal the run again: "
            "its results are kept.",
            "reason": {name: error.get(name) for name in ("code", "message")},
        }
    ending = _Ending(ctx, claim, scratch, cause)
    try:
        ending.write()
    finally:
        ending.tidy()
    return insist(ending.commit)


def _queue_rest(ctx: Context, claim: Claim, wanted: Callable[[], bool]) -> bool:
    """Queue the writing of all that is in no shard yet, a shard a transaction. False: not ours any more."""
    after: int | None = 0
    first = True
    while after is not None:
        if not wanted():
            return False
        with ctx.db.transaction() as tx:
            if batches.hold_batch(tx, lease_id=claim.lease_id, claim=claim) is None:
                return False
            ids = store.queue_shards(tx, claim.subject_id, all_of_it=True) if first else []
            more, after = store.queue_rest(tx, claim.subject_id, after=after)
            first = False
        ctx.announcer.announce_cpu([*ids, *more])
    return True


def _end_gone(ctx: Context, claim: Claim) -> bool:
    """The fence refused, or the run has been forgotten: nothing is left to do."""
    with ctx.db.transaction() as tx:
        return endings.finish(tx, lease_id=claim.lease_id, claim=claim)


def _postpone(ctx: Context, claim: Claim) -> bool:
    """Give the row back until the shards are written. No try is counted."""
    with ctx.db.transaction() as tx:
        back = returns.release(tx, lease_id=claim.lease_id, claims=[claim])
        store.wait(tx, [row.id for row in back], _WAIT_S)
    return bool(back)


class _Ending:
    """What is made of a run at its end, until it is committed. `cause` is why it failed."""

    def __init__(self, ctx: Context, claim: Claim, scratch: Path, cause: dict[str, Any] | None) -> None:
        self._ctx, self._claim, self._cause = ctx, claim, cause
        self._folder = scratch / f"end-{claim.id.hex}-{claim.attempt}"
        with ctx.db.transaction() as tx:
            self._run: Run = runs.load_runs(tx, [claim.subject_id])[claim.subject_id]
            self._held: Held = batches.load_batches(tx, [claim.subject_id])[claim.subject_id]
            documents = reports.count_documents(tx, claim.subject_id)
        late = documents.get("expired") or documents.get("not_read")
        state = find_end(self._held.batch)
        state = BatchState.EXPIRED if late and state is BatchState.COMPLETED else state
        self._state = BatchState.FAILED if cause else state
        self._files: dict[str, tuple[UUID, Blob]] = {}
        self._output: tuple[UUID, Blob] | None = None
        self._sample: list[UUID] = []

    def write(self) -> None:
        """All that is beside the shards. Raises Unavailable, FetchFailed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sample = choose_pages(self._ctx, self._run, parse_sample(self._run.spec.get("sample")).size)
        report = build_report(self._ctx, self._run, ended_as=self._state.value, cause=self._cause)
        page = render_report(report, load_thumbnails(self._ctx, self._run.tenant_id, report))
        made = [("report.json", make_bytes(report)), ("report.html", page.encode("utf-8", "replace"))]
        paths = [self._put(name, raw) for name, raw in made]
        self._write_output()
        paths.append(self._write_manifest(report))
        self._publish(paths)
        for path in paths:
            size_bytes = path.stat().st_size
            blob = Blob(self._ctx.blobs.put_file(self._run.tenant_id, path), size_bytes, PLAIN)
            self._files[path.name] = (new_id(), blob)

    def _put(self, name: str, raw: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(raw)
        return path

    def _publish(self, paths: list[Path]) -> None:
        """The manifest is the last of them: where it is, all is. A run that failed at its sinks gets none."""
        if self._cause is not None:
            return
        done = set()
        for _, sink, target in open_targets(self._ctx, self._run):
            if target is not None and sink.uri not in done:
                done.add(sink.uri)
                for path in paths:
                    target.put(path.name, path)
                target.tidy()

    def _iterate_files(self) -> Iterator[dict[str, Any]]:
        after = 0
        while True:
            with self._ctx.db.transaction() as tx:
                some = store.list_shards(tx, self._run.id, after=after, limit=_SHARDS)
            for shard in some:
                yield from ({**file, "shard": shard.number} for file in shard.files)
                after = shard.number
            if len(some) < _SHARDS:
                return

    def _write_output(self) -> None:
        """The shards of our own JSONL put together, as the file of the batch. A lost shard leaves a shorter file."""
        entries = [one for one in self._iterate_files() if one["type"] == SinkType.JSONL and "file_id" in one]
        if entries:
            sha256 = self._ctx.blobs.put_pieces(self._run.tenant_id, self._read_blobs([e["sha256"] for e in entries]))
            size_bytes = self._ctx.blobs.size_bytes(self._run.tenant_id, sha256)
            self._output = (new_id(), Blob(sha256, size_bytes, PLAIN))

    def _read_blobs(self, names: list[str]) -> Iterator[bytes]:
        for name in names:
            with self._ctx.blobs.open(self._run.tenant_id, name) as file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece

    def _write_manifest(self, report: dict[str, Any]) -> Path:
        """What there is, written file by file: a large run has many."""
        path = self._folder / "manifest.json"
        run = self._run
        head = {
            "object": "run.manifest", "run_id": show_id(RUN, run.id), "name": run.name, "state": report["state"],
            "recipe": run.recipe, "spec": run.spec, "documents": report["documents"], "pages": report["pages"],
        }  # fmt: skip
        own = [("report.json", self._folder / "report.json"), ("report.html", self._folder / "report.html")]
        with path.open("wb") as file:
            file.write(make_bytes(head).rstrip()[:-1].rstrip() + b',\n  "files": [')
            comma = b"\n    "
            for entry in self._iterate_files():
                file.write(comma + make_bytes(entry).replace(b"\n", b" ").strip())
                comma = b",\n    "
            for name, beside in own:
                size_bytes, sha256 = measure_file(beside)
                entry = {"name": name, "bytes": size_bytes, "sha256": sha256}
                file.write(comma + make_bytes(entry).replace(b"\n", b" ").strip())
                comma = b",\n    "
            file.write(b"\n  ]\n}\n")
        return path

    def commit(self) -> bool:
        """End it all in one transaction. False where the fence refused."""
        ctx, run = self._ctx, self._run
        with ctx.db.transaction() as tx:
            held = batches.hold_batch(tx, lease_id=self._claim.lease_id, claim=self._claim)
            if held is None:
                return False
            entries = [*self._files.values(), *([self._output] if self._output else [])]
            files.record_blobs(tx, run.tenant_id, [blob for _, blob in entries])
            for name, (file_id, blob) in self._files.items():
                self._insert_file(tx, file_id, name, blob)
            if self._output:
                self._insert_file(tx, self._output[0], "output.jsonl", self._output[1])
            output_id = self._output[0] if self._output else None
            batches.end_batch(tx, run.id, self._state, output_file_id=output_id, error_file_id=None)
            names = {name: show_id(FILE, file_id) for name, (file_id, _) in self._files.items()}
            reports.end_run(tx, run.id, names, self._cause)
            reviews.add_pages(tx, run.tenant_id, run.id, self._sample)
            # Who tells of a run's end does it here: its state is final from this transaction on.
            endings.finish(tx, lease_id=self._claim.lease_id, claim=self._claim)
        ctx.bell.ring([run.id])
        return True

    def _insert_file(self, tx: Transaction, file_id: UUID, name: str, blob: Blob) -> None:
        userfiles.insert_file(
            tx, file_id, self._run.tenant_id, filename=f"{show_id(RUN, self._run.id)}_{name}", purpose=BATCH_OUTPUT,
            blob=blob.sha256, size_bytes=blob.size_bytes, expires_s=LONGEST_EXPIRY_S,
        )  # fmt: skip

    def tidy(self) -> None:
        """Remove what is left in the scratch folder."""
        for path in self._folder.glob("*"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self._folder.rmdir()
