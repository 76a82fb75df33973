"""Ranges of time that charts show, each in steps that a screen can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Range:
    """So many seconds back, in steps of so many. From `hourly` on, the hours are read instead of the minutes."""

    name: str
    seconds: int
    step_s: int

    @property
    def hourly(self) -> bool:
        """Whether its steps are whole hours."""
        return self.step_s >= 3600

    def list_steps(self, now: datetime) -> list[datetime]:
        """The beginnings of its steps, oldest first. The last one may not be over; the present minute is in none."""
        until = self.find_end(now).timestamp()
        last = int((until - 1) // self.step_s) * self.step_s
        count = self.seconds // self.step_s
        return [datetime.fromtimestamp(last - back * self.step_s, UTC) for back in range(count - 1, -1, -1)]

    @staticmethod
    def find_end(now: datetime) -> datetime:
        """The beginning of the present minute."""
        return now.replace(second=0, microsecond=0)

    def find_covered_s(self, step: datetime, now: datetime) -> float:
        """The seconds of a step that are over."""
        end = min(step + timedelta(seconds=self.step_s), self.find_end(now))
        return max(60.0, (end - step).total_seconds())


RANGES = {
    found.name: found
    for found in (
        Range("15m", 15 * 60, 60),
        Range("1h", 3600, 60),
        Range("24h", 86_400, 600),
        Range("7d", 7 * 86_400, 3600),
    )
}
