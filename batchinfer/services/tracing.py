"""Spans for a collector: made after the commit from what was recorded, by a thread that nobody waits for.

Whoever ends jobs rings the bell, and the bell tells this, which notes the ids and returns. Work of a CPU worker that is
about no single job is told of when its try ends. What there is no room for, and what the collector does not take, is
dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from batchinfer.domain.ids import BATCH, DOCUMENT, SHARD, show_id
from batchinfer.domain.spans import build_spans
from batchinfer.errors import Unavailable
from batchinfer.observe.clock import utc_now
from batchinfer.observe.logs import get_logger
from batchinfer.observe.spans import EndedSpan
from batchinfer.observe.traces import decode_trace, is_within, new_span_id
from batchinfer.store.claims import CLOSE, EXPORT, LIST, READ, RENDER, SEAL
from batchinfer.store.outbox import list_tries
from batchinfer.store.tracing import load_ended

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from batchinfer.observe.spans import SpanExporter
    from batchinfer.services.work import Work
    from batchinfer.store.session import Database

#: Ended jobs and spans that may wait.
ROOM = 10_000
#: Of these, so many are read from the database and exported together, after so long a pause.
GROUP = 256
PAUSE_S = 0.5
#: Least time between two lines of the log about what was dropped.
TELL_S = 60.0
#: A CPU worker's work with spans of its own, and what it is about: what is done for one job is in that job's spans. A
#: run goes by the id of its batch, as in the spans of its jobs.
_ABOUT = {
    RENDER: ("batchinfer.document_id", DOCUMENT),
    CLOSE: ("batchinfer.document_id", DOCUMENT),
    READ: ("batchinfer.batch_id", BATCH),
    LIST: ("batchinfer.batch_id", BATCH),
    EXPORT: ("batchinfer.batch_id", BATCH),
    SEAL: ("batchinfer.shard_id", SHARD),
}

_log = get_logger(__name__)


@dataclass
class Counts:
    """Since the start: spans that the collector took, and jobs and spans that were dropped."""

    exported: int = 0
    dropped: int = 0


class Tracer:
    """Safe for threads. Its own thread begins with the first thing noted."""

    def __init__(self, db: Database, exporter: SpanExporter, ratio: float, room: int = ROOM) -> None:
        self.counts = Counts()
        self._db, self._exporter, self._ratio, self._room = db, exporter, ratio, room
        self._waiting: deque[UUID | EndedSpan] = deque()
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._told_at_s = -TELL_S
        self._told = 0

    def note_ended(self, ids: Collection[UUID]) -> None:
        """These jobs have ended, and that is committed. Never blocks, never raises."""
        self._put(list(ids))

    def note_span(self, span: EndedSpan) -> None:
        """The same for a span that is made already; one whose trace nobody keeps is left out."""
        if span.trace.sampled:
            self._put([span])

    def note_work(self, piece: Work, begun_at: datetime, code: str | None) -> None:
        """A CPU worker's try has ended now; `code` is why it failed. Beside the jobs that it made, below whatever asked
        for it. Of documents of a run the same part is kept as of its jobs."""
        claim, trace = piece.claim, decode_trace(piece.claim.trace)
        if trace is None or claim.kind not in _ABOUT:
            return
        of_run = claim.kind == CLOSE or (piece.document is not None and piece.document.run is not None)
        if of_run and not is_within(claim.subject_id.hex, self._ratio):
            return
        name, prefix = _ABOUT[claim.kind]
        facts: dict[str, str | int] = {name: show_id(prefix, claim.subject_id), "batchinfer.attempt": claim.attempt}
        self.note_span(EndedSpan(claim.kind, trace, new_span_id(), begun_at, utc_now(), facts, code))

    def close(self, timeout_s: float = 2.0) -> None:
        """Export what is noted, within the time. Safe to call twice."""
        self._closed.set()
        self._some.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        self._exporter.close()

    def _put(self, things: list[UUID] | list[EndedSpan]) -> None:
        with self._lock:
            fit = things[: max(0, self._room - len(self._waiting))]
            self.counts.dropped += len(things) - len(fit)
            self._waiting.extend(fit)
            if self._thread is None and fit:
                self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)
                self._thread.start()
        self._some.set()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._closed.wait(PAUSE_S)  # more may come meanwhile
            self._some.clear()
            while things := self._take():
                self._send(things)
            if self._closed.is_set():
                return

    def _take(self) -> list[UUID | EndedSpan]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]

    def _send(self, things: list[UUID | EndedSpan]) -> None:
        spans = [thing for thing in things if isinstance(thing, EndedSpan)]
        ids = [thing for thing in things if isinstance(thing, UUID)]
        lost = 0
        try:
            spans += self._make(ids) if ids else []
        except Unavailable:
            lost = len(ids)
        except Exception:
            _log.exception("spans could not be made", jobs=len(ids))
            lost = len(ids)
        if spans and self._exporter.export(spans):
            self.counts.exported += len(spans)
        else:
            lost += len(spans)
        with self._lock:
            self.counts.dropped += lost
        self._tell()

    def _make(self, ids: list[UUID]) -> list[EndedSpan]:
        with self._db.transaction() as tx:
            jobs = [job for job in load_ended(tx, ids) if not job.is_one_of_many or is_within(job.id.hex, self._ratio)]
            tries = list_tries(tx, [job.id for job in jobs]) if jobs else {}
        return [span for job in jobs for span in build_spans(job, tries.get(job.id, []))]

    def _tell(self) -> None:
        now_s = time.monotonic()
        if self.counts.dropped > self._told and now_s - self._told_at_s >= TELL_S:
            _log.warning(
                "spans are dropped: the collector does not take them, or not fast enough",
                dropped=self.counts.dropped,
                exported=self.counts.exported,
            )
            self._told, self._told_at_s = self.counts.dropped, now_s
