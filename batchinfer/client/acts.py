"""Acts on many jobs: count what one would touch, ask for it, follow it, stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from batchinfer.client.nouns import Noun, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchinfer.client.transport import Transport


class Act(Noun):
    """An act on many jobs. `total` was counted when it was asked for; `skipped` no longer allowed it."""

    id: str
    verb: str
    status: str
    actor: str = ""
    search: dict[str, Any] | None = None
    named: int = 0
    total: int
    done: int
    skipped: int
    failed: int
    reasons: dict[str, int] = Field(default_factory=dict)
    error: Problem | None = None
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None


class Reach(Noun):
    """What an act would touch now: `number`, and `others` that match and do not allow it."""

    number: int
    others: int
    up_to: str | None = None


class Acts:
    """`client.acts`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def count(self, verb: str, *, jobs: Sequence[str] = (), search: Mapping[str, Any] | None = None) -> Reach:
        """What a verb would touch of these jobs, or of those that `search` finds. Raises BadRequest."""
        return Reach.model_validate(self._transport.ask("POST", "/v1/acts/count", json=_make_body(verb, jobs, search)))

    def start(
        self,
        verb: str,
        *,
        jobs: Sequence[str] = (),
        search: Mapping[str, Any] | None = None,
        up_to: str | None = None,
        idempotency_key: str | None = None,
    ) -> Act:
        """Have it done; of a count, `up_to` leaves out what came after it. Raises BadRequest."""
        body = _make_body(verb, jobs, search) | ({"up_to": up_to} if up_to else {})
        return Act.model_validate(self._transport.create("/v1/acts", key=idempotency_key, json=body))

    def list(self, *, limit: int | None = None) -> Iterator[Act]:
        """Acts of late, newest first."""
        return map(Act.model_validate, self._transport.list("/v1/acts", {}, limit))

    def get(self, act_id: str) -> Act:
        """An act. Raises NotFound."""
        return Act.model_validate(self._transport.ask("GET", f"/v1/acts/{act_id}"))

    def cancel(self, act_id: str) -> Act:
        """Stop it half way; what it did stays done. Raises NotFound, Conflict."""
        return Act.model_validate(self._transport.ask("POST", f"/v1/acts/{act_id}/cancel"))


def _make_body(verb: str, jobs: Sequence[str], search: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"verb": verb, **({"jobs": list(jobs)} if jobs else {"search": dict(search or {})})}
