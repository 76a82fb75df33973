"""The station of a CPU worker: it prepares pictures, renders documents, reads and writes batches, delivers, and fetches
models. Each piece runs on a thread; what opens users' pictures and documents, in the sandbox. Deliveries and fetches
have threads of their own: they mostly wait for others, and one that takes hours must not keep a picture from being
prepared.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.domain.quality import find_documents, read_quality
from batchinfer.domain.retries import RetryClass, classify_error
from batchinfer.errors import BadDocument, BadImage, BatchinferError, Failure, Internal
from batchinfer.media.fetching import Fetcher
from batchinfer.media.sandbox import SandboxPool
from batchinfer.observe.clock import Stopwatch, utc_now
from batchinfer.observe.logs import bind, get_logger
from batchinfer.observe.traces import decode_trace, following
from batchinfer.services import (
    bulk_work,
    climbing,
    closing,
    exporting,
    fetches,
    ingesting,
    listing,
    outbox,
    plans,
    reading,
    sealing,
    work,
)
from batchinfer.store.claims import Claim, Ending
from workers.committer import Committer, Finished
from workers.insist import Stopped, insist
from workers.office import opened_pages
from workers.preparing import normalise_images, read_own_text
from workers.rendering import render_document
from workers.times import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from batchinfer.domain.quality import Quality
    from batchinfer.observe.metrics import Sheet
    from batchinfer.services.context import Context
    from batchinfer.services.work import PagePicture, Work
    from workers.lease import Lease

_log = get_logger(__name__)

#: Deliveries at once.
DELIVERIES = 8
#: Revisions of models that are fetched, sources that are listed, and acts on many jobs that are carried out, at once:
#: each may take hours, so it has a thread of its own, and other work goes on meanwhile, with a single process too.
FETCHES, LISTINGS, ACTS = 1, 1, 1
_ALONE = {work.FETCH: FETCHES, work.LIST: LISTINGS, work.ACT: ACTS}
_WORK = (work.PREPARE, work.RENDER, work.READ, work.EXPORT, work.CLOSE, work.SEAL)


class Workshop:
    """Implements Station with `processes` pieces at once, and as many limited child processes."""

    model: str | None = None

    def __init__(self, ctx: Context, lease: Lease, committer: Committer, *, processes: int, scratch: Path) -> None:
        settings = ctx.settings
        self.slots = processes
        #: Called when a piece has ended: the feeder's `wake`.
        self.on_room: Callable[[], None] = lambda: None
        self._ctx, self._lease, self._committer, self._scratch = ctx, lease, committer, scratch
        self._sandbox = SandboxPool(processes, settings.sandbox_memory_mib, settings.sandbox_timeout_s)
        self._fetcher = Fetcher(settings)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="workshop")
        self._couriers = ThreadPoolExecutor(DELIVERIES, thread_name_prefix="courier")
        self._alone = {kind: ThreadPoolExecutor(most, thread_name_prefix=kind) for kind, most in _ALONE.items()}
        self._changed = threading.Condition()
        self._inside = self._delivering = self._ended = 0
        #: Fetches, listings and acts under way.
        self._long = dict.fromkeys(_ALONE, 0)
        #: Set with the drain: a fetch is given back with what it brought, however much is missing.
        self._draining = threading.Event()
        #: Rows that a thread works on; others wait for one.
        self._running: set[UUID] = set()
        self._quit = threading.Event()
        self._times = Times("batchinfer_workshop_seconds")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that there is room for."""
        some, deliveries = self._count_rooms()
        return (*(_WORK if some else ()), *((work.DELIVER,) if deliveries else ()), *self._list_alone())

    def count_inside(self) -> int:
        with self._changed:
            return self._inside

    def count_room(self) -> int:
        """So many of any of `kinds`; of fetches and listings there are few, and what is too many goes back."""
        if self._quit.is_set():
            return 0
        return min(filter(None, self._count_rooms()), default=int(bool(self._list_alone())))

    def count_urgent_room(self) -> int:
        """None: a piece of work here is short, and the next claim takes what is urgent first."""
        return 0

    def _count_rooms(self) -> tuple[int, int]:
        """For work: one piece more than there are processes, so that none waits for a claim; and for deliveries."""
        with self._changed:
            inside = self._inside - self._delivering - sum(self._long.values())
            return max(0, self.slots + 1 - inside), DELIVERIES - self._delivering

    def _list_alone(self) -> tuple[str, ...]:
        """The kinds with a thread of their own that may begin."""
        with self._changed:
            return () if self._draining.is_set() else tuple(k for k, most in _ALONE.items() if self._long[k] < most)

    def take(self, pieces: Sequence[Work]) -> None:
        for piece in pieces:
            kind = piece.claim.kind
            with self._changed:
                too_many = kind in _ALONE and self._long[kind] >= _ALONE[kind]
                self._inside += 1
                self._delivering += kind == work.DELIVER
                if kind in _ALONE:
                    self._long[kind] += 1
            threads = {work.DELIVER: self._couriers, **self._alone}.get(kind, self._threads)
            (self._threads if too_many else threads).submit(self._run, piece, give_back=too_many)

    def find_stage(self, claim: Claim) -> str:
        """Preparing, which rendering and delivering count as, or waiting for a process."""
        with self._changed:
            return "preparing" if claim.id in self._running else "waiting"

    def cancel(self, claims: Sequence[Claim]) -> None:
        """Nothing to do: each piece looks between two steps whether it is still held."""

    def progress(self) -> float:
        """Always now: each step in the sandbox has its own time limit."""
        return time.monotonic()

    def drain(self, deadline_s: float) -> None:
        """What does not end in time is killed with its child process; it stays held and is released with
        the lease."""
        self._draining.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._inside, timeout=deadline_s)
        self.close()

    def info(self) -> dict[str, Any]:
        return {"processes": self.slots, "running": self.count_inside(), "ended": self._ended}

    def tell(self, sheet: Sheet) -> None:
        sheet.add("batchinfer_workshop_processes", self.slots)
        sheet.add("batchinfer_workshop_pieces", self.count_inside())
        self._times.tell(sheet)

    def close(self) -> None:
        self._quit.set()
        self._sandbox.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._couriers.shutdown(wait=True, cancel_futures=True)
        for threads in self._alone.values():
            threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, piece: Work, *, give_back: bool = False) -> None:
        claim, began = piece.claim, time.monotonic()
        with self._changed:
            self._running.add(claim.id)
        try:
            # What it makes, jobs of a batch or document among it, belongs to its trace.
            with bind(**claim.tags), following(decode_trace(claim.trace)):
                self._try(piece, give_back=give_back)
        finally:
            self._times.note(time.monotonic() - began, claim.kind)
            with self._changed:
                self._running.discard(claim.id)
                self._inside -= 1
                self._delivering -= claim.kind == work.DELIVER
                if claim.kind in _ALONE:
                    self._long[claim.kind] -= 1
                self._ended += 1
                self._changed.notify_all()
            self.on_room()

    def _try(self, piece: Work, *, give_back: bool) -> None:
        claim, watch, begun_at = piece.claim, Stopwatch(), utc_now()
        try:
            if give_back:
                self._give_back(claim)
            elif self._wanted(claim):
                self._find_step(claim)(piece)
                self._tell_span(piece, begun_at)
                _log.debug("worked", seconds=round(watch.elapsed_s, 3))
        except Stopped:
            pass
        except BatchinferError as error:
            _log.warning("work failed", code=error.code)
            self._tell_span(piece, begun_at, error)
            self._fail(claim, error)
        except Exception:
            _log.exception("work failed")
            fault = Internal("The file could not be worked on. The log of the worker says why.")
            self._tell_span(piece, begun_at, fault)
            self._fail(claim, fault)

    def _tell_span(self, piece: Work, begun_at: datetime, error: BatchinferError | None = None) -> None:
        if self._ctx.tracer is not None:
            self._ctx.tracer.note_work(piece, begun_at, error.code if error else None)

    def _find_step(self, claim: Claim) -> Callable[[Work], None]:
        steps = {
            work.RENDER: self._render, work.DELIVER: self._deliver, work.READ: self._read, work.EXPORT: self._export,
            work.LIST: self._list, work.CLOSE: self._close, work.SEAL: self._seal,
            work.FETCH: self._fetch, work.ACT: self._act,
        }  # fmt: skip
        return steps.get(claim.kind, self._prepare)

    def _read(self, piece: Work) -> None:
        claim = piece.claim
        if reading.read_batch(self._ctx, claim, self._insist, partial(self._wanted, claim)):
            self._lease.held.pop(claim)

    def _export(self, piece: Work) -> None:
        claim = piece.claim
        if exporting.export_batch(self._ctx, claim, self._scratch, self._insist, partial(self._wanted, claim)):
            self._lease.held.pop(claim)

    def _list(self, piece: Work) -> None:
        claim = piece.claim
        if listing.list_source(self._ctx, claim, self._insist, partial(self._wanted, claim)):
            self._lease.held.pop(claim)

    def _close(self, piece: Work) -> None:
        claim = piece.claim
        if closing.close_document(self._ctx, claim, self._insist, partial(self._wanted, claim)):
            self._lease.held.pop(claim)

    def _seal(self, piece: Work) -> None:
        claim = piece.claim
        if sealing.seal_shard(self._ctx, claim, self._scratch, self._insist, partial(self._wanted, claim)):
            self._lease.held.pop(claim)

    def _fetch(self, piece: Work) -> None:
        claim = piece.claim

        def wanted() -> bool:
            return self._wanted(claim) and not self._draining.is_set()

        if fetches.fetch_revision(self._ctx, claim, self._insist, wanted):
            self._lease.held.pop(claim)

    def _act(self, piece: Work) -> None:
        claim = piece.claim

        def wanted() -> bool:
            return self._wanted(claim) and not self._draining.is_set()

        if bulk_work.carry_out(self._ctx, claim, self._insist, wanted):
            self._lease.held.pop(claim)

    def _give_back(self, claim: Claim) -> None:
        """Another worker may have a thread for it."""
        if self._lease.held.pop(claim):
            self._insist(lambda: work.release(self._ctx, claim.lease_id, [claim]) > 0)

    def _deliver(self, piece: Work) -> None:
        """Hand over, then say so: should this process end in between, it is handed over again."""
        claim, delivery = piece.claim, piece.delivery
        if delivery is None:
            return
        try:
            timings = outbox.deliver(self._ctx, delivery)
        except outbox.Postponed:
            self._insist(lambda: outbox.postpone(self._ctx, claim))
        else:
            endpoint_id = delivery.endpoint_id
            self._insist(lambda: outbox.finish_delivery(self._ctx, claim.lease_id, claim, endpoint_id, timings))
        self._lease.held.pop(claim)

    def _prepare(self, piece: Work) -> None:
        claim = piece.claim
        quality = read_quality(piece.prompt)
        if quality is not None and quality.falls_back:
            self._fall_back(piece, quality)
            return
        try:
            with ExitStack() as ending:
                images = normalise_images(
                    self._bring_documents(piece, ending),
                    blobs=self._ctx.blobs,
                    sandbox=self._sandbox,
                    fetcher=self._fetcher,
                    settings=self._ctx.settings,
                    scratch=self._scratch,
                    wanted=partial(self._wanted, claim),
                )
        except (BadDocument, BadImage, Failure) as error:
            if quality is None or not quality.rung:
                raise
            # The page cannot be drawn as this rung says: the next one may do better.
            if self._lease.held.pop(claim):
                fault = Ending(claim.id, claim.attempt, error.as_dict(), RetryClass.MODEL_OUTPUT)
                self._committer.put(Finished(claim, ending=fault))
            return
        if images is not None:
            self._insist(lambda: work.mark_prepared(self._ctx, claim.lease_id, claim, images))
            self._lease.held.pop(claim)

    def _bring_documents(self, piece: Work, ending: ExitStack) -> Work:
        """The same with the files of those documents of which pages are to be made anew, until `ending` ends."""
        found = {}
        for name in find_documents(piece.prompt):
            target = self._scratch / f"{piece.claim.id}-{name}"
            ending.callback(target.unlink, missing_ok=True)
            original = ingesting.bring_again(self._ctx, piece.claim.tenant_id, UUID(hex=name), target)
            pages = opened_pages(original, target.with_name(f"{target.name}-pages"), self._ctx.settings)
            found[name] = ending.enter_context(pages)
        return replace(piece, documents=found) if found else piece

    def _fall_back(self, piece: Work, quality: Quality) -> None:
        """The page's own text stands for the answer that no try brought; where it says nothing, the last try counts."""
        claim = piece.claim
        try:
            with ExitStack() as ending:
                text = read_own_text(self._bring_documents(piece, ending), self._sandbox)
        except (BadDocument, Failure) as error:  # its source has changed or gone: then it says nothing
            _log.warning("a document cannot be read again", code=error.code)
            text = ""
        if self._insist(lambda: climbing.fall_back(self._ctx, claim.lease_id, claim, text)):
            self._lease.held.pop(claim)
        elif self._lease.held.pop(claim):
            self._committer.put(Finished(claim, ending=Ending(claim.id, claim.attempt, quality.error or {})))

    def _render(self, piece: Work) -> None:
        claim, document = piece.claim, piece.document
        if document is None:
            return

        def save(pages: Sequence[PagePicture], total: int) -> bool:
            return self._insist(lambda: work.save_pages(self._ctx, claim.lease_id, claim, pages=pages, total=total))

        def fetch(target: Path) -> str | None:
            sha256 = ingesting.fetch_original(self._ctx, claim, document, target)
            if sha256 is None:
                self._lease.held.pop(claim)
            return sha256

        plan = plans.make_plan(self._ctx, document)
        total = render_document(
            piece,
            save,
            plan=plan,
            fetch=fetch,
            blobs=self._ctx.blobs,
            sandbox=self._sandbox,
            settings=self._ctx.settings,
            scratch=self._scratch,
            wanted=partial(self._wanted, claim),
        )
        if total is not None:
            self._insist(lambda: work.finish_render(self._ctx, claim.lease_id, claim, pages=total))
            self._lease.held.pop(claim)

    def _wanted(self, claim: Claim) -> bool:
        return not self._quit.is_set() and self._lease.held.has(claim)

    def _insist(self, action: Callable[[], bool]) -> bool:
        """Until the database answers, or this process ends. The fence makes each of these safe to repeat."""
        return insist(action, self._quit, what="the end of a piece of work")

    def _fail(self, claim: Claim, error: BatchinferError) -> None:
        if self._quit.is_set():
            return  # its child process was killed because we stop; the lease gives it back
        if self._lease.held.pop(claim):
            retry = classify_error(error)
            if claim.kind == work.DELIVER and retry is not RetryClass.PERMANENT:
                retry = RetryClass.DELIVERY
            timings = error.timings if isinstance(error, outbox.NotTaken) else None
            ending = Ending(claim.id, claim.attempt, error.as_dict(), retry, timings)
            self._committer.put(Finished(claim, ending=ending))
