"""Control messages to workers, over Celery's own broadcast. Losable: the next heartbeat tells a worker the same."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from batchinfer.bus.breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from celery import Celery
    from redis import Redis

log = logging.getLogger(__name__)
#: Commands that workers register for `celery control`, and the one for `celery inspect`.
CANCEL_JOB, DRAIN = "cancel_job", "drain"
JOBS = "jobs"


class Control:
    """Sends commands to workers without waiting for an answer. Nothing here raises."""

    def __init__(self, celery: Celery, redis: Redis) -> None:
        self.celery = celery
        self.redis = redis
        self.breaker = Breaker()

    def cancel_jobs(self, ids: Sequence[UUID]) -> bool:
        """Tell the workers to drop jobs that were cancelled: command `cancel_job`, argument `ids` (hexadecimal)."""
        return self._broadcast(CANCEL_JOB, {"ids": [value.hex for value in ids]})

    def drain(self, destination: Sequence[str] | None = None) -> bool:
        """Tell workers (None: all) to take no more, finish what fits, and end."""
        return self._broadcast(DRAIN, {}, destination)

    def _broadcast(self, command: str, arguments: dict[str, Any], destination: Sequence[str] | None = None) -> bool:
        if not self.breaker.try_enter():
            return False
        try:
            self.redis.ping()
            self.celery.control.broadcast(command, arguments=arguments, destination=destination, reply=False)
        except (RedisError, KombuError, OSError) as error:
            if self.breaker.fail():
                log.warning("control messages fail (%s); workers learn with their heartbeat", type(error).__name__)
            return False
        self.breaker.succeed()
        return True
