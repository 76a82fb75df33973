"""Whose turn it is: what a claimer remembers between two claims, so that small claims are as fair as large ones.

Within a class tenants take turns in the order of their ids, round and round. A claimer keeps for each class the tenant
at which it stopped, so a tenant with one row waits for one round of the others, whatever they have queued. Beside that
a share of what is claimed is kept for rows that waited long in the classes after the first: no class starves.
Every claimer has turns of its own and none writes them down: what is lost with a process is a place in a round.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from batchinfer.domain.jobs import JobClass

if TYPE_CHECKING:
    from collections.abc import Sequence

RANKS = tuple(job_class.rank for job_class in JobClass)
#: Below and above every tenant.
_LOWEST, _HIGHEST = UUID(int=0), UUID(int=2**128 - 1)
#: Lanes (tenants with something queued) that a claim steps through in a class, more than it may take rows; and after a
#: claim that found too little, when what is due may lie behind many lanes with nothing due.
_SPARE_LANES, _MOST_LANES = 8, 1024


@dataclass(frozen=True)
class Place:
    """Where a round stands: the tenant served last, and how many rows it has had of its unfinished turn."""

    tenant_id: UUID = _LOWEST
    served: int = 0

    @property
    def before(self) -> UUID:
        """The next round begins above this id: at the tenant itself while its turn is unfinished."""
        return UUID(int=self.tenant_id.int - 1) if self.served else self.tenant_id


@dataclass(frozen=True)
class Taken:
    """A claimed row as turns see it, in the order in which it was taken."""

    rank: int
    tenant_id: UUID
    #: Rows that this tenant gets in each of its turns.
    weight: int
    #: Taken on the share of those that waited long.
    aged: bool


class Turns:
    """The rounds of one claimer. For one thread.

    `ageing_s`: seconds after which a row of a later class has waited long; `aged_share`: the share of claimed rows
    that is kept for such rows, while there are any.
    """

    def __init__(self, *, ageing_s: float = 60.0, aged_share: float = 0.125, places: Sequence[Place] = ()) -> None:
        self._ageing_s, self._share = ageing_s, aged_share
        self._places = list(places) or [Place() for _ in RANKS]
        self._owed = 0.0
        #: Of the later classes, the one whose aged rows go first; they change places.
        self._first_aged = RANKS[-1]
        self._lanes_to_all = True
        self._cut_short = False

    @property
    def cut_short(self) -> bool:
        """Whether the last claim took too little though more may be due: of one tenant among several it takes no more
        than a few rows. The next claim finds out.
        """
        return self._cut_short

    @classmethod
    def scattered(cls, *, ageing_s: float, aged_share: float) -> Turns:
        """Turns that begin somewhere, so that claimers who begin together do not all serve the same tenants first."""
        return cls(ageing_s=ageing_s, aged_share=aged_share, places=[Place(uuid4()) for _ in RANKS])

    def values(self, limit: int) -> dict[str, Any]:
        """The parameters of a claim of up to `limit` rows."""
        found: dict[str, Any] = {
            "reserved": min(int(self._owed), limit),
            "first_aged": self._first_aged,
            "ageing_s": self._ageing_s,
            "lanes": limit + _SPARE_LANES,
            "least_lanes": _MOST_LANES if self._lanes_to_all else 1,
            "highest": _HIGHEST,
        }
        for rank, place in zip(RANKS, self._places, strict=True):
            found |= {f"before_{rank}": place.before, f"at_{rank}": place.tenant_id, f"served_{rank}": place.served}
        return found

    def advance(self, rows: Sequence[Taken], limit: int) -> None:
        """Go on behind what a claim of up to `limit` rows took."""
        self._lanes_to_all = len(rows) < limit
        by_tenant = Counter(row.tenant_id for row in rows)
        self._cut_short = len(rows) < limit and len(by_tenant) > 1 and max(by_tenant.values()) > 1
        aged = sum(row.aged for row in rows)
        # Kept for later while nobody was there for it, but never more than one claim's share: no burst after a lull.
        self._owed = min(self._owed - aged + len(rows) * self._share, max(1.0, limit * self._share))
        if aged:
            self._first_aged = RANKS[1] + (self._first_aged + 1 - RANKS[1]) % (len(RANKS) - 1)
        for rank in RANKS:
            of_rank = [row for row in rows if row.rank == rank]
            if of_rank:
                self._places[rank] = self._go_behind(self._places[rank], of_rank)

    @staticmethod
    def _go_behind(place: Place, rows: Sequence[Taken]) -> Place:
        last = rows[-1]
        number = sum(row.tenant_id == last.tenant_id for row in rows)
        if last.tenant_id == place.tenant_id:
            number += place.served
        return Place(last.tenant_id, number % last.weight)
