"""Batches: create, watch, list, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.client.nouns import Batch
from batchinfer.client.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchinfer.client.transport import Transport


class Batches:
    """`client.batches`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        priority: str | None = None,
        cache: str | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Make jobs of the lines of a file. `completion_window` is 24h, or any time such as 90m or 7d; `priority` is
        low, normal or high, `cache` off, reuse, refresh or reuse_any. What is wrong with the file is told by the batch,
        later."""
        body = {"input_file_id": input_file_id, "endpoint": endpoint, "completion_window": completion_window}
        named = {"priority": priority, "cache": cache}
        wishes = {name: value for name, value in named.items() if value is not None}
        ours = {"batchinfer": wishes} if wishes else {}
        said = {"metadata": dict(metadata)} if metadata else {}
        return Batch.model_validate(
            self._transport.create("/v1/batches", key=idempotency_key, json={**body, **said, **ours})
        )

    def get(self, batch_id: str) -> Batch:
        """A batch as it stands. Raises NotFound."""
        return Batch.model_validate(self._transport.ask("GET", f"/v1/batches/{batch_id}"))

    def wait(
        self, batch_id: str, timeout_s: float | None = None, *, tell: Callable[[Batch], None] = lambda _: None
    ) -> Batch:
        """The batch once it has ended, however it did; `tell` hears how it stands. Raises Overrun."""
        return wait_for(lambda _: self.get(batch_id), timeout_s, tell=tell, longest_s=2.0)

    def list(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Batches, newest first."""
        return map(Batch.model_validate, self._transport.list("/v1/batches", {"after": after}, limit))

    def cancel(self, batch_id: str) -> Batch:
        """End what has not ended of a batch; its files hold what has."""
        return Batch.model_validate(self._transport.ask("POST", f"/v1/batches/{batch_id}/cancel"))
