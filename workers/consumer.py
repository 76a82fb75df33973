"""Celery's consumer, made to outlive whatever lies in its queues: anybody who reaches Redis can put it there.

What is no announcement is refused, counted and named in the log, and never printed. Bytes that are no message at all
would end Celery's process; here they cost a new connection.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from celery.worker.consumer import Consumer

from batchinfer.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

#: What reading a message of a wrong shape raises, in kombu and in Celery.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
#: Refused messages that get a line each; of the later ones, one in so many.
_LINES = 100
_LONGEST_NAME = 100

_log = get_logger(__name__)
#: For kombu, which says there that a refusal did not reach Redis.
_plain_log = logging.getLogger(__name__)


class Messages:
    """What came through the queues of this process since its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._announcements = 0
        self._refused: Counter[str] = Counter()

    def note_announcement(self) -> None:
        """A message of ours, or one that looks like it."""
        with self._lock:
            self._announcements += 1

    def refuse(self, reason: str, *, task: object = None, error: object = None) -> None:
        """Count a message that was refused, and name it in the log."""
        with self._lock:
            self._refused[reason] += 1
            number = self._refused.total()
        if number <= _LINES or number % _LINES == 0:
            name = None if task is None else str(task)[:_LONGEST_NAME]
            kind = None if error is None else type(error).__name__
            _log.warning("a message was refused", reason=reason, task=name, error=kind, refused=number)

    def as_dict(self) -> dict[str, Any]:
        """For `celery inspect stats` and the list of workers."""
        with self._lock:
            return {"announcements": self._announcements, "refused": dict(self._refused)}


#: Of this process, as Celery makes the consumer and runs the tasks by their names.
messages = Messages()


class RefusingConsumer(Consumer):  # type: ignore[misc]
    """Refuses without printing a message's body, and connects again where one could not be read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        loop = self.loop  # type: ignore[has-type]

        def run(*details: Any) -> None:
            try:
                loop(*details)
            except _UNREADABLE as error:
                messages.refuse("unreadable", error=error)
                raise ConnectionResetError("what came from Redis could not be read") from error

        self.loop = run

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*arguments, **options)

        def on_task_received(message: Any) -> None:
            try:
                handle(message)
            except _UNREADABLE as error:
                self._refuse(message, "unreadable", error)

        return on_task_received

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        self._refuse(message, "no task")

    def on_unknown_task(self, _body: Any, message: Any, exc: Exception) -> None:
        self._refuse(message, "unknown task", exc)

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Arguments of a wrong shape, and content in anything but JSON: a pickle is never opened."""
        self._refuse(message, "not allowed", exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._refuse(message, "unreadable", exc)

    def _refuse(self, message: Any, reason: str, error: Exception | None = None) -> None:
        headers = message.headers
        messages.refuse(reason, task=headers.get("task") if isinstance(headers, dict) else None, error=error)
        if not message.acknowledged:
            message.reject_log_error(_plain_log, self.connection_errors)
