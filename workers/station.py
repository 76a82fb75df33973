"""What a worker does with claims, seen from the threads around it: the model worker answers, the CPU worker
prepares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.observe.metrics import Sheet
    from batchinfer.services.work import Work
    from batchinfer.store.claims import Claim


class Station(Protocol):
    """Takes work in and ends each piece through the committer. Every method may be called from any thread."""

    #: The model whose rows are claimed (None: of every model).
    model: str | None
    slots: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of rows that are claimed now."""

    def count_inside(self) -> int:
        """Pieces of work that were taken and have not ended."""

    def count_room(self) -> int:
        """How many more pieces may be claimed now."""

    def count_urgent_room(self) -> int:
        """How many interactive pieces may be claimed where there is no room for others."""

    def take(self, pieces: Sequence[Work]) -> None:
        """Start each piece. What is wrong with one is its own end, and never raised."""

    def find_stage(self, claim: Claim) -> str:
        """What is being done with a piece that was claimed: preparing, waiting, prefill or decoding."""

    def cancel(self, claims: Sequence[Claim]) -> None:
        """Stop working on these, soon; their results are no longer wanted."""

    def progress(self) -> float:
        """`time.monotonic()` of the last sign that work moves on, or of now where there is none."""

    def drain(self, deadline_s: float) -> None:
        """Take no more, and give what is inside `deadline_s` seconds to end. What does not is stopped."""

    def info(self) -> dict[str, Any]:
        """Small JSON for people: what this station is and how it stands."""

    def tell(self, sheet: Sheet) -> None:
        """Put its numbers on a page of metrics."""

    def close(self) -> None:
        """Stop at once and let go of everything. Safe to call twice."""
