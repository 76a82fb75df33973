"""Celery's standard task events, one set a job, so that Flower and `celery events` show jobs as tasks.

For people only, and off unless the setting `task_events` is on. Whoever calls puts an event into memory and goes on; a
thread sends them in groups. Where Redis does not take them they are dropped and counted, and no job notices. They
carry ids, the model, the class and error codes, never prompts, answers or keys.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery.events.dispatcher import EventDispatcher
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from batchinfer.bus.app import INFER_TASK
from batchinfer.domain.ids import JOB, show_id
from batchinfer.observe.logs import get_logger
from batchinfer.store.claims import EXPORT, READ, RENDER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

    from batchinfer.services.work import Group
    from batchinfer.store.claims import Claim
    from workers.committer import Finished

#: Longest wait of an event in memory, and how many wait at most while Redis is slow.
FLUSH_S = 0.25
MOST_WAITING = 20_000
#: Events of one message.
GROUP = 250
#: Pause after a failure; what comes meanwhile waits, up to the limit.
RETRY_S = 2.0

_log = get_logger(__name__)


class TaskEvents(threading.Thread):
    """Tells how jobs fare in this worker. Nothing here raises or waits; without `celery` nothing is told."""

    def __init__(self, celery: Celery | None, worker: str) -> None:
        super().__init__(name="task-events", daemon=True)
        self.sent = self.dropped = 0
        self._celery, self._worker = celery, worker
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._dispatcher: EventDispatcher | None = None
        self._quit = threading.Event()

    def start(self) -> None:
        if self._celery is not None:
            super().start()

    def stop(self) -> None:
        """Send what waits, once, and end."""
        self._quit.set()
        if self.ident is not None:
            self.join(2.0)

    def counts(self) -> dict[str, int]:
        """Since the start: what Redis took, and what it did not."""
        return {"sent": self.sent, "dropped": self.dropped}

    def receive(self, claims: Iterable[Claim]) -> None:
        """Claimed: to be prepared, or to be answered."""
        if self._celery is None:
            return
        for claim in claims:
            about = {"model": claim.model, "class": claim.job_class.value, "attempt": claim.attempt}
            self._put(
                "task-received",
                claim,
                name=INFER_TASK,
                args="()",
                kwargs=repr(about),
                retries=max(0, claim.attempt - 1),
                root_id=_show(claim),
                parent_id=None,
                eta=None,
                expires=claim.expires_at.isoformat() if claim.expires_at else None,
            )

    def begin(self, claims: Iterable[Claim]) -> None:
        """Handed to the engine."""
        for claim in claims:
            self._put("task-started", claim)

    def settle(self, group: Iterable[Finished], written: Group) -> None:
        """The ends of these are in the database; what the fence refused is nobody's news."""
        if self._celery is None:
            return
        for claim, outcome, ending in ((member.claim, member.outcome, member.ending) for member in group):
            if outcome is not None and claim.id in written.completed:
                self._put("task-succeeded", claim, result=outcome.finish_reason, runtime=claim.age_s())
            elif ending is not None and claim.id in written.failed:
                self._put("task-failed", claim, exception=str(ending.error.get("code")), traceback="")
            elif ending is not None and claim.id in written.retried:
                self._put("task-retried", claim, exception=str(ending.error.get("code")), traceback="")

    def give_back(self, claims: Iterable[Claim]) -> None:
        """They wait again, for whichever worker is next."""
        for claim in claims:
            self._put("task-retried", claim, exception="given_back", traceback="")

    def revoke(self, claims: Iterable[Claim]) -> None:
        """Its row is gone: cancelled, expired, or another worker's."""
        now = datetime.now(UTC)
        for claim in claims:
            expired = claim.expires_at is not None and claim.expires_at <= now
            self._put("task-revoked", claim, terminated=True, signum=None, expired=expired)

    def run(self) -> None:
        while not self._quit.wait(FLUSH_S):
            if not self._flush():
                self._quit.wait(RETRY_S)
        self._flush()
        self._disconnect()

    def _put(self, kind: str, claim: Claim, **fields: Any) -> None:
        if self._celery is None or claim.kind in (RENDER, READ, EXPORT):
            return
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append((kind, {"uuid": _show(claim), "timestamp": time.time(), **fields}))

    def _flush(self) -> bool:
        """Send what waits. False where Redis did not take it; a group that was under way is dropped."""
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
            try:
                self._send(group)
            except (RedisError, KombuError, OSError) as error:
                if not self.dropped:
                    _log.warning("task events are dropped; jobs do not need them", error=type(error).__name__)
                self.dropped += len(group)
                self._disconnect()
                return False
            except Exception:
                _log.exception("task events could not be sent")
                self.dropped += len(group)
                self._disconnect()
                return False
            self.sent += len(group)
        return True

    def _send(self, group: list[tuple[str, dict[str, Any]]]) -> None:
        if self._dispatcher is None:
            self._dispatcher = self._connect()
        for kind, fields in group:
            self._dispatcher.send(kind, **fields)
        self._dispatcher.flush()

    def _connect(self) -> EventDispatcher:
        if self._celery is None:
            raise RuntimeError("task events are off")
        # Its own limit is never reached: each group is sent by `flush`, whose failure we see.
        return EventDispatcher(
            self._celery.connection_for_write(),
            hostname=self._worker,
            app=self._celery,
            buffer_while_offline=False,
            buffer_group={"task"},
            buffer_limit=GROUP + 1,
        )

    def _disconnect(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            try:
                dispatcher.close()
                dispatcher.connection.release()
            except (RedisError, KombuError, OSError):
                pass  # it was broken


def _show(claim: Claim) -> str:
    return show_id(JOB, claim.subject_id)
