"""The heart: a thread that gives the sign of life, learns what the lease still holds, and replaces a dead
lease."""

from __future__ import annotations

import queue
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.domain.jobs import JobClass
from batchinfer.errors import Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.services import work
from batchinfer.store.claims import Claim
from workers.insist import Stopped, insist

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Context
    from workers.committer import Committer
    from workers.lease import Key, Lease
    from workers.station import Station

#: Longest pause after a beat that failed.
RETRY_S = 1.0
#: Time after which a row that the lease holds must be known here: a claim's answer was read long ago.
STRANGER_S = 1.0

_log = get_logger(__name__)


class Heart(threading.Thread):
    """Beats every `heartbeat_s`, and at once when told that something was cancelled.

    A row that the lease no longer holds was cancelled, expired or given away: its work stops. A row that the
    lease holds for a while and nobody here knows came with a claim whose answer was lost: it is given back.
    """

    def __init__(
        self,
        ctx: Context,
        lease: Lease,
        station: Station,
        committer: Committer,
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        super().__init__(name="heart", daemon=True)
        self.lost_leases = 0
        self._ctx, self._lease, self._station, self._committer = ctx, lease, station, committer
        self._describe = describe
        self._quit = threading.Event()
        self._soon = threading.Event()
        #: Rows that nobody here knows, and when they were first met.
        self._strangers: dict[Key, float] = {}
        self._to_cancel: queue.SimpleQueue[list[Claim]] = queue.SimpleQueue()
        #: Called when a new lease stands in for one that was taken for dead.
        self.on_reopened: Callable[[], None] = lambda: None

    def beat_soon(self) -> None:
        """Beat now instead of later: somebody said that jobs were cancelled; the answer tells whether that
        is so."""
        self._soon.set()

    def cancel_soon(self, claims: list[Claim]) -> None:
        """An operator wants these cancelled: in the database first, and here by the beat that follows."""
        if claims:
            self._to_cancel.put(claims)
            self._soon.set()

    def stop(self) -> None:
        """End, and wait for a beat under way."""
        self._quit.set()
        self._soon.set()
        self.join(10.0)

    def run(self) -> None:
        pause_s, failures = self._ctx.settings.heartbeat_s, 0
        while True:
            self._soon.wait(pause_s)
            self._soon.clear()
            if self._quit.is_set():
                return
            pause_s = self._ctx.settings.heartbeat_s
            try:
                self._cancel_wanted()
                self.beat()
                failures = 0
            except Unavailable as error:
                pause_s, failures = min(RETRY_S, pause_s), failures + 1
                if failures == 1:
                    _log.warning("no sign of life can be given", code=error.code)
            except Stopped:
                return
            except Exception:
                _log.exception("a beat failed")

    def beat(self) -> None:
        """One beat. Raises Unavailable, and Stopped where the process ends meanwhile."""
        lease_id = self._lease.id
        if lease_id is None:
            self._open_again()
            return
        # What was held before the question: a claim made after it cannot be in the answer.
        before = self._lease.held.list_all()
        answer = self._lease.beat(self._describe())
        if not answer.alive:
            self._replace_lease(lease_id)
            return
        gone = [claim for claim in before if (claim.id, claim.attempt) not in answer.held]
        gone = [claim for claim in gone if self._lease.held.pop(claim)]
        if gone:
            _log.info("work stopped: its rows are gone", rows=len(gone))
            for claim in gone[:10]:
                _log.info("work stopped: its row is gone", **claim.tags)
            self._station.cancel(gone)
            self._committer.events.revoke(gone)
        self._give_back_strangers(lease_id, answer)

    def _cancel_wanted(self) -> None:
        """Raises Unavailable; then whoever wanted it has to ask again."""
        while not self._to_cancel.empty():
            claims = self._to_cancel.get()
            number = work.cancel_claims(self._ctx, claims, actor="celery control cancel_job")
            if number:  # else whoever sent the command had cancelled them before
                _log.info("jobs cancelled by a control command", jobs=number)

    def _give_back_strangers(self, lease_id: UUID, answer: work.Beat) -> None:
        known = {(claim.id, claim.attempt) for claim in self._lease.held.list_all()} | self._committer.list_pending()
        now = time.monotonic()
        self._strangers = {key: self._strangers.get(key, now) for key in answer.held - known}
        old = [key for key, met_at in self._strangers.items() if now - met_at > STRANGER_S]
        if old:
            _log.warning("rows given back: their claim's answer was lost", rows=len(old))
            work.release(self._ctx, lease_id, [_stand_in(lease_id, key) for key in old])

    def _replace_lease(self, lease_id: UUID) -> None:
        dropped = self._lease.lose()
        self.lost_leases += 1
        self._strangers = {}
        _log.error("the lease was taken for dead; its work is dropped", lease_id=str(lease_id), rows=len(dropped))
        self._stop_work(dropped)
        self._open_again()

    def _stop_work(self, dropped: list[Claim]) -> None:
        self._station.cancel(dropped)
        # The same jobs may be claimed again by the new lease: the old runs must be out of the way.
        while self._station.count_inside() and not self._quit.wait(0.05):
            pass

    def _open_again(self) -> None:
        lease_id = insist(lambda: self._lease.open(self._describe()), self._quit, what="a new lease")
        _log.info("lease opened", lease_id=str(lease_id))
        self.on_reopened()


def _stand_in(lease_id: UUID, key: Key) -> Claim:
    """A claim of which nothing but the fence is known."""
    row_id, attempt = key
    never = datetime.fromtimestamp(0, tz=UTC)
    return Claim(
        id=row_id,
        kind="",
        subject_id=row_id,
        tenant_id=UUID(int=0),
        model="",
        job_class=JobClass.NORMAL,
        attempt=attempt,
        crashes=0,
        released=0,
        schema_version=0,
        expires_at=None,
        created_at=never,
        lease_id=lease_id,
    )
