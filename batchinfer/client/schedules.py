"""Schedules: apply a declaration, look at what comes, steer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.client.nouns import Instant, Run, Schedule
from batchinfer.domain.ids import SCHEDULE
from batchinfer.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchinfer.client.transport import Transport


class Schedules:
    """`client.schedules`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, declared: Mapping[str, Any], *, idempotency_key: str | None = None) -> Schedule:
        """Keep a schedule. Raises BadRequest, NotFound, Conflict (the name is taken)."""
        made = self._transport.create("/v1/schedules", key=idempotency_key, json=dict(declared))
        return Schedule.model_validate(made)

    def apply(self, declared: Mapping[str, Any]) -> Schedule:
        """Create the schedule of this name, or make it what is declared; `applied` says which. Twice is as once."""
        return Schedule.model_validate(self._transport.ask("POST", "/v1/schedules/apply", json=dict(declared)))

    def get(self, schedule_id: str) -> Schedule:
        """A schedule as it stands. Raises NotFound."""
        return Schedule.model_validate(self._transport.ask("GET", self._path(schedule_id)))

    def find(self, name: str) -> Schedule:
        """A schedule by its id or its name. Raises NotFound."""
        if name.startswith(SCHEDULE):
            return self.get(name)
        for schedule in self.list():
            if schedule.name == name:
                return schedule
        raise NotFound(f"There is no schedule named '{name}'. List them to see those there are.")

    def list(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Schedule]:
        """Schedules, newest first."""
        return map(Schedule.model_validate, self._transport.list("/v1/schedules", {"after": after}, limit))

    def change(self, schedule_id: str, **changes: Any) -> Schedule:
        """Change what is given; None takes a field away. Raises NotFound, BadRequest."""
        return Schedule.model_validate(self._transport.ask("PATCH", self._path(schedule_id), json=changes))

    def pause(self, schedule_id: str) -> Schedule:
        """Let its instants pass. Raises NotFound."""
        return Schedule.model_validate(self._transport.ask("POST", f"{self._path(schedule_id)}/pause"))

    def resume(self, schedule_id: str) -> Schedule:
        """Fire again, from the next instant on. Raises NotFound."""
        return Schedule.model_validate(self._transport.ask("POST", f"{self._path(schedule_id)}/resume"))

    def delete(self, schedule_id: str) -> None:
        """Fire it no more; its runs stay. Raises NotFound."""
        self._transport.ask("DELETE", self._path(schedule_id), again=False)

    def run(self, schedule_id: str, *, idempotency_key: str | None = None) -> Run:
        """Begin a run of it now. Raises NotFound, Conflict (the run before it works)."""
        return Run.model_validate(self._transport.create(f"{self._path(schedule_id)}/run", key=idempotency_key))

    def list_next(self, schedule_id: str, n: int = 5) -> tuple[Instant, ...]:
        """Its next instants. Raises NotFound."""
        answer = self._transport.ask("GET", f"{self._path(schedule_id)}/next", params={"n": n})
        return tuple(Instant.model_validate(one) for one in answer["data"])

    def list_runs(self, schedule_id: str, *, limit: int | None = None) -> Iterator[Run]:
        """What was made of its instants, newest first. Raises NotFound."""
        return map(Run.model_validate, self._transport.list(f"{self._path(schedule_id)}/runs", {}, limit))

    @staticmethod
    def _path(schedule_id: str) -> str:
        return f"/v1/schedules/{schedule_id}"
