"""Jobs, their tries, and documents, whose pages are jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.client.nouns import Attempt, Document, Job
from batchinfer.client.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchinfer.client.transport import Transport

#: The longest poll, in seconds; the service may answer sooner.
_HOLD_S = 25.0


class Jobs:
    """`client.jobs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, job_id: str, *, wait_s: float = 0.0) -> Job:
        """A job; with `wait_s`, as soon as it has ended, after so many seconds, or when the service will not wait
        longer. Raises NotFound."""
        query = {"wait": wait_s} if wait_s > 0 else {}
        return Job.model_validate(self._transport.ask("GET", f"/v1/jobs/{job_id}", params=query))

    def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """The job once it has ended, however it did. Raises Overrun after `timeout_s` seconds."""
        return wait_for(lambda held_s: self.get(job_id, wait_s=held_s), timeout_s, hold_s=_HOLD_S, longest_s=2.0)

    def list(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        document: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, fetched page by page; `after` begins below that id."""
        query = {"status": status, "model": model, "document": document, "after": after}
        return map(Job.model_validate, self._transport.list("/v1/jobs", query, limit))

    def list_attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """The ended tries of a job, oldest first."""
        answer = self._transport.ask("GET", f"/v1/jobs/{job_id}/attempts")
        return tuple(Attempt.model_validate(attempt) for attempt in answer["data"])

    def cancel(self, job_id: str) -> Job:
        """End a job. Raises Conflict where it ended otherwise before."""
        return Job.model_validate(self._transport.ask("POST", f"/v1/jobs/{job_id}/cancel"))

    def release(self, job_id: str) -> Job:
        """Let a quarantined job run once more, alone. Needs the scope `admin`. Raises Conflict for any other job."""
        return Job.model_validate(self._transport.ask("POST", f"/v1/jobs/{job_id}/release", again=False))


class Documents:
    """`client.documents`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, document_id: str) -> Document:
        """A document with the ids of its page jobs. Raises NotFound."""
        return Document.model_validate(self._transport.ask("GET", f"/v1/documents/{document_id}"))

    def wait(
        self, document_id: str, timeout_s: float | None = None, *, tell: Callable[[Document], None] = lambda _: None
    ) -> Document:
        """The document once every page has ended. Raises Overrun after `timeout_s` seconds."""
        return wait_for(lambda _: self.get(document_id), timeout_s, tell=tell, longest_s=2.0)

    def list(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Document]:
        """Documents, newest first, without the ids of their jobs."""
        return map(Document.model_validate, self._transport.list("/v1/documents", {"after": after}, limit))

    def cancel(self, document_id: str) -> Document:
        """End what has not ended of a document; pages that are done stay."""
        return Document.model_validate(self._transport.ask("POST", f"/v1/documents/{document_id}/cancel"))
