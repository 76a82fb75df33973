"""Runs over documents: start, watch, steer, and their documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.client.nouns import Run, RunDocument
from batchinfer.client.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchinfer.client.transport import Transport


class Runs:
    """`client.runs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def start(self, declared: Mapping[str, Any], *, idempotency_key: str | None = None) -> Run:
        """Begin a run; docs/api.md says what a declaration has. Raises BadRequest, NotFound (a model or template)."""
        return Run.model_validate(self._transport.create("/v1/runs", key=idempotency_key, json=dict(declared)))

    def preview(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        """What such a run would do. Raises as `start` does."""
        return self._transport.ask("POST", "/v1/runs/preview", json=dict(declared))

    def get(self, run_id: str) -> Run:
        """A run as it stands. Raises NotFound."""
        return Run.model_validate(self._transport.ask("GET", f"/v1/runs/{run_id}"))

    def wait(self, run_id: str, timeout_s: float | None = None, *, tell: Callable[[Run], None] = lambda _: None) -> Run:
        """The run once it has ended, however it did; `tell` hears how it stands. Raises Overrun."""
        return wait_for(lambda _: self.get(run_id), timeout_s, tell=tell, longest_s=2.0)

    def list(
        self, *, schedule_id: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[Run]:
        """Runs, newest first."""
        query = {"schedule_id": schedule_id, "after": after}
        return map(Run.model_validate, self._transport.list("/v1/runs", query, limit))

    def list_documents(
        self,
        run_id: str,
        *,
        stage: str | None = None,
        outcome: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[RunDocument]:
        """The documents of a run, in the order in which they were listed. Raises NotFound."""
        query = {"stage": stage, "outcome": outcome, "after": after}
        return map(RunDocument.model_validate, self._transport.list(f"/v1/runs/{run_id}/documents", query, limit))

    def pause(self, run_id: str) -> Run:
        """Begin no more of its pages; what runs ends. Raises NotFound, Conflict."""
        return self._steer(run_id, "pause")

    def resume(self, run_id: str) -> Run:
        """Let it go on, also where it paused itself. Raises NotFound, Conflict."""
        return self._steer(run_id, "resume")

    def cancel(self, run_id: str) -> Run:
        """End what has not ended of it. Raises NotFound, Conflict."""
        return self._steer(run_id, "cancel")

    def retry(self, run_id: str, codes: Sequence[str] = ()) -> Run:
        """Read documents with pages that failed again, as a new run; of `codes` alone where any are given. Raises
        NotFound, BadRequest."""
        body = {"codes": list(codes)} if codes else {}
        return Run.model_validate(self._transport.ask("POST", f"/v1/runs/{run_id}/retry", json=body))

    def _steer(self, run_id: str, verb: str) -> Run:
        return Run.model_validate(self._transport.ask("POST", f"/v1/runs/{run_id}/{verb}"))
