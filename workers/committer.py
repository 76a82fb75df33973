"""The committer: one thread that writes what has ended, many pieces in one transaction.

Nothing is lost here: while the database does not answer, results wait and are written again, and whether an
unknown commit took place is found out by the services. Only a lease that is dead makes them worthless.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchinfer.domain.retries import RetryClass
from batchinfer.errors import Internal, Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.services import work
from batchinfer.store.claims import Claim, Ending, Outcome
from workers.insist import pauses
from workers.task_events import TaskEvents
from workers.times import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from batchinfer.observe.metrics import Sheet
    from batchinfer.services.context import Context
    from workers.lease import Key, Lease

GROUP_ROWS = 256
GROUP_WAIT_S = 0.005
#: Of those that were refused together, so many are named in the log.
_NAMED = 10

_log = get_logger(__name__)


@dataclass(frozen=True)
class Finished:
    """A piece of work that ended. With neither outcome nor ending it is given back, uncounted."""

    claim: Claim
    outcome: Outcome | None = None
    ending: Ending | None = None


@dataclass
class Counts:
    """Since the start: transactions, and what became of the pieces. `dropped` were held by a lease that
    died."""

    groups: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    released: int = 0
    fenced: int = 0
    dropped: int = 0
    #: Part of the first three: a commit without an answer that had taken place all the same.
    landed: int = 0


class Committer(threading.Thread):
    """Give it pieces with `put`; it ends with `flush`."""

    def __init__(self, ctx: Context, lease: Lease) -> None:
        super().__init__(name="committer", daemon=True)
        self.counts = Counts()
        #: Called when a group is written: the feeder's `wake`.
        self.on_written: Callable[[], None] = lambda: None
        #: Told what became of each piece.
        self.events = TaskEvents(None, lease.worker)
        self._ctx, self._lease = ctx, lease
        self._queue: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending: dict[Key, Claim] = {}
        #: When each of these was handed over, on `time.monotonic()`.
        self._put_at: dict[Key, float] = {}
        self._times = Times("batchinfer_stage_seconds")
        #: Tries that are followed by another, by model, class of job and kind of error.
        self._retries: Counter[tuple[str, str, str]] = Counter()
        self._hurry = threading.Event()
        self._give_up_at = float("inf")

    def put(self, finished: Finished) -> None:
        """Hand over a piece. Never blocks."""
        key = (finished.claim.id, finished.claim.attempt)
        with self._lock:
            self._pending[key] = finished.claim
            self._put_at[key] = time.monotonic()
        self._queue.put(finished)

    def list_pending(self) -> set[Key]:
        """The (id, attempt) of what was handed over and is not written yet."""
        with self._lock:
            return set(self._pending)

    def list_storing(self) -> list[Claim]:
        """The claims whose ends were handed over and are not written yet."""
        with self._lock:
            return list(self._pending.values())

    def flush(self, timeout_s: float) -> bool:
        """Write what is left and end. False where the database did not answer in time."""
        self._give_up_at = time.monotonic() + timeout_s
        self._hurry.set()
        self._queue.put(None)
        self.join(timeout_s + 1.0)
        return not self.list_pending()

    def run(self) -> None:
        ended = False
        while not ended:
            group, ended = self._collect()
            by_lease: dict[UUID, list[Finished]] = defaultdict(list)
            for finished in group:
                by_lease[finished.claim.lease_id].append(finished)
            for lease_id, members in by_lease.items():
                self._write(lease_id, members)
                self._forget(members)
                self.on_written()

    def tell(self, sheet: Sheet) -> None:
        """Put its numbers on a page of metrics."""
        for result in ("completed", "failed", "retried", "released", "fenced", "dropped"):
            sheet.add("batchinfer_worker_rows_total", getattr(self.counts, result), result)
        with self._lock:
            retries = dict(self._retries)
        for labels, number in retries.items():
            sheet.add("batchinfer_worker_retries_total", number, *labels)
        self._times.tell(sheet)

    def _forget(self, members: Sequence[Finished]) -> None:
        """They are written, or nobody wants them any more."""
        now = time.monotonic()
        with self._lock:
            for member in members:
                key = (member.claim.id, member.claim.attempt)
                self._pending.pop(key, None)
                put_at = self._put_at.pop(key, None)
                if put_at is not None and (member.outcome or member.ending):
                    self._times.note(now - put_at, member.claim.model, "storing")

    def _collect(self) -> tuple[list[Finished], bool]:
        """Wait for the first piece without limit, then a moment for more. True: it was the last group."""
        group: list[Finished] = []
        until = float("inf")
        while len(group) < GROUP_ROWS:
            try:
                wait_s = None if not group else max(0.0, until - time.monotonic())
                finished = self._queue.get(timeout=wait_s)
            except queue.Empty:
                break
            if finished is None:
                return group, True
            group.append(finished)
            if len(group) == 1:
                until = time.monotonic() + GROUP_WAIT_S
        return group, False

    def _write(self, lease_id: UUID, group: Sequence[Finished]) -> None:
        for number, pause_s in enumerate(pauses()):
            try:
                return self._write_once(lease_id, group)
            except Unavailable as error:
                if self._lease.id != lease_id or time.monotonic() > self._give_up_at:
                    self.counts.dropped += len(group)
                    _log.error("results dropped with their lease", lease_id=str(lease_id), rows=len(group))
                    return None
                if number == 0:
                    _log.warning("results wait for the database", rows=len(group), code=error.code)
                time.sleep(min(pause_s, max(0.0, self._give_up_at - time.monotonic())))
            except Exception:
                _log.exception("a group of results was refused by the database", rows=len(group))
                return self._write_parts(lease_id, group)
        return None

    def _write_once(self, lease_id: UUID, group: Sequence[Finished]) -> None:
        outcomes = [member.outcome for member in group if member.outcome]
        endings = [member.ending for member in group if member.ending]
        back = [member.claim for member in group if not member.outcome and not member.ending]
        if outcomes or endings:
            written = work.complete_group(self._ctx, lease_id, outcomes, endings)
            self._count(lease_id, written, [member.claim for member in group])
            self._count_retries(group, written)
            self._tell(group, written)
            self.events.settle(group, written)
        if back:
            self.counts.released += work.release(self._ctx, lease_id, back)
            self.events.give_back(back)
        self.counts.groups += 1

    def _count(self, lease_id: UUID, group: work.Group, claims: Sequence[Claim]) -> None:
        self.counts.completed += len(group.completed)
        self.counts.failed += len(group.failed)
        self.counts.retried += len(group.retried)
        self.counts.fenced += len(group.fenced)
        self.counts.landed += len(group.landed)
        if group.landed:
            _log.info("an unanswered commit had taken place", lease_id=str(lease_id), rows=len(group.landed))
        if group.fenced:
            _log.warning(
                "results fenced out: cancelled, expired or taken over",
                lease_id=str(lease_id),
                fenced=len(group.fenced),
            )
            for claim in [claim for claim in claims if claim.id in group.fenced][:_NAMED]:
                _log.warning("a result was fenced out", lease_id=str(lease_id), **claim.tags)

    def _tell(self, group: Sequence[Finished], written: work.Group) -> None:
        """A line for each try that failed; of the others, which are many, at DEBUG alone."""
        told = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)
        for member in group:
            if member.ending is not None and member.claim.id not in written.fenced:
                again = member.claim.id in written.retried
                _log.info("a try failed", code=member.ending.error.get("code"), again=again, **member.claim.tags)
            elif told and member.claim.id in written.completed:
                _log.debug("a result is stored", **member.claim.tags)

    def _count_retries(self, group: Sequence[Finished], written: work.Group) -> None:
        with self._lock:
            for member in group:
                claim = member.claim
                if member.ending is not None and claim.id in written.retried:
                    self._retries[claim.model, claim.job_class.value, member.ending.retry.value] += 1

    def _write_parts(self, lease_id: UUID, group: Sequence[Finished]) -> None:
        """Find the piece that cannot be written, so that it harms nobody else; it ends with an error of
        ours."""
        if len(group) > 1:
            middle = len(group) // 2
            self._write(lease_id, group[:middle])
            self._write(lease_id, group[middle:])
        elif (member := group[0]).outcome is not None:
            error = Internal(
                "The result could not be stored. The log of the worker says why.", code="result_not_stored"
            )
            ending = Ending(member.claim.id, member.claim.attempt, error.as_dict(), RetryClass.TRANSIENT)
            self._write(lease_id, [replace(member, outcome=None, ending=ending)])
        else:
            self.counts.dropped += 1
            _log.error("an ending could not be stored", **member.claim.tags)
