"""Tell workers which ids are ready. Information, never instruction: a lost announcement costs a poll, a forged one
nothing. Nothing here raises; what fails is counted, and logged when it begins to fail."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from batchinfer.bus.app import CPU_QUEUE, INFER_TASK, PREPARE_TASK, queue_for
from batchinfer.bus.breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from celery import Celery
    from kombu import Queue
    from redis import Redis

    from batchinfer.domain.jobs import JobClass

log = logging.getLogger(__name__)
#: Ids in one message.
MESSAGE_IDS = 1000
#: With so many messages in a queue its workers are busy and will look by themselves.
QUEUE_MESSAGES = 100
#: Seconds after which an announcement is worth nothing: workers looked many times since.
EXPIRES_S = 30


class Announcer:
    """Sends announcements. One a process; safe for threads and after a fork."""

    def __init__(self, celery: Celery, redis: Redis) -> None:
        self.celery = celery
        self.redis = redis
        self.breaker = Breaker()
        #: Messages sent; announcements left out because the queue was long.
        self.sent = 0
        self.spared = 0

    @property
    def failures(self) -> int:
        """Announcements that did not go out because Redis did not answer."""
        return self.breaker.failures + self.breaker.skipped

    def announce(self, model: str, job_class: JobClass, ids: Sequence[UUID]) -> bool:
        """Announce jobs to the workers of a model. False where some were not sent."""
        return self._send(INFER_TASK, queue_for(model, job_class), ids)

    def announce_cpu(self, ids: Sequence[UUID]) -> bool:
        """Announce work to the CPU workers. False where some were not sent."""
        return self._send(PREPARE_TASK, CPU_QUEUE, ids)

    def counts(self) -> dict[str, int]:
        """Since the start of this process: messages sent, announcements spared and failed."""
        return {"sent": self.sent, "spared": self.spared, "failed": self.failures}

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self.celery.close()

    def _send(self, task: str, queue: Queue, ids: Sequence[UUID]) -> bool:
        if not ids:
            return True
        if not self.breaker.try_enter():
            return False
        try:
            # The question comes first: it fails within half a second, Celery's own connection would wait longer.
            room = QUEUE_MESSAGES - int(self.redis.llen(queue.name))
            parts = [ids[start : start + MESSAGE_IDS] for start in range(0, len(ids), MESSAGE_IDS)]
            for part in parts[: max(room, 0)]:
                self._publish(task, queue, [value.hex for value in part])
        except (RedisError, KombuError, OSError) as error:
            self._note(error)
            return False
        if self.breaker.succeed():
            log.info("announcements go out again; %d did not", self.failures)
        left_out = len(parts) - max(room, 0)
        self.spared += max(left_out, 0)
        return left_out <= 0

    def _publish(self, task: str, queue: Queue, ids: list[str]) -> None:
        self.celery.send_task(
            task, args=[ids], queue=queue, expires=EXPIRES_S, retry=False, ignore_result=True,
            argsrepr=f"({len(ids)} ids)", kwargsrepr="{}",
        )  # fmt: skip
        self.sent += 1

    def _note(self, error: Exception) -> None:
        if self.breaker.fail():
            log.warning("announcements fail (%s); workers find the work by polling", type(error).__name__)
