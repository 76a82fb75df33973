"""Changes of state in one order that everybody sees: an event's id is also where to go on behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from datetime import datetime

#: Bits of an id: the transaction, the row in it, the place in the row.
_SEQ_BITS, _PLACE_BITS = 48, 16
#: Most changes of one row.
MOST_PLACES = 10_000


@dataclass(frozen=True, order=True)
class Position:
    """A place in the order of changes."""

    xid: int
    seq: int
    place: int

    @classmethod
    def parse(cls, value: UUID) -> Position:
        """From the digits of an event's id."""
        rest, place = divmod(value.int, 1 << _PLACE_BITS)
        xid, seq = divmod(rest, 1 << _SEQ_BITS)
        return cls(min(xid, 2**63 - 1), seq, place)

    @classmethod
    def behind(cls, xid: int) -> Position:
        """Behind everything of a transaction."""
        return cls(xid, (1 << _SEQ_BITS) - 1, (1 << _PLACE_BITS) - 1)

    def as_id(self) -> UUID:
        """As the digits of an event's id."""
        return UUID(int=(self.xid << _SEQ_BITS | self.seq) << _PLACE_BITS | self.place)


@dataclass(frozen=True)
class Change:
    """`subject` (job or batch) `subject_id` came into `state`."""

    position: Position
    subject: str
    subject_id: UUID
    state: str
    created_at: datetime
