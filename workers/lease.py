"""The lease of a worker process, and the claims that it holds under it.

The database's clock judges leases; a worker only knows how long ago its last good sign of life was sent, on
a clock that nobody sets. Well before the time is up it stops claiming by itself.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.services import work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim

#: Part of the lease time in which a worker no longer claims: a beat and its answer take time.
MARGIN = 0.2

Key = tuple[UUID, int]


class Held:
    """The claims that this process works on, from the claim until the result is handed to the committer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[UUID, Claim] = {}

    def add(self, claims: Iterable[Claim]) -> list[Claim]:
        """Take claims in. Answers those that are new: one that is worked on already needs no second start."""
        with self._lock:
            fresh = [claim for claim in claims if not self._knows(claim)]
            self._claims.update((claim.id, claim) for claim in fresh)
        return fresh

    def pop(self, claim: Claim) -> bool:
        """Let a claim go. False where it is no longer held: cancelled, expired, or lost with its lease."""
        with self._lock:
            if not self._knows(claim):
                return False
            del self._claims[claim.id]
            return True

    def has(self, claim: Claim) -> bool:
        """Whether the claim is still this process's."""
        with self._lock:
            return self._knows(claim)

    def list_all(self) -> list[Claim]:
        """All claims now."""
        with self._lock:
            return list(self._claims.values())

    def clear(self) -> list[Claim]:
        """Let all go, and answer them."""
        with self._lock:
            dropped = list(self._claims.values())
            self._claims.clear()
        return dropped

    def _knows(self, claim: Claim) -> bool:
        known = self._claims.get(claim.id)
        return known is not None and (known.attempt, known.lease_id) == (claim.attempt, claim.lease_id)

    def __len__(self) -> int:
        with self._lock:
            return len(self._claims)


class Lease:
    """The right of this process to hold rows. A process has one at a time; a lost one is followed by a new
    one."""

    def __init__(
        self,
        ctx: Context,
        *,
        role: str,
        worker: str,
        model: str | None = None,
        device: str | None = None,
        slots: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.held = Held()
        self.worker = worker
        self._ctx = ctx
        self._identity: dict[str, Any] = {
            "role": role,
            "worker": worker,
            "host": ctx.settings.machine_name,
            "pid": os.getpid(),
            "model": model,
            "device": device,
            "slots": slots,
        }
        self._clock = clock
        self._lock = threading.Lock()
        self._id: UUID | None = None
        self._opened_at = self._good_at = clock()

    def open(self, info: dict[str, Any] | None = None) -> UUID:
        """Begin a new lease. Raises Unavailable; one opened unknowingly holds nothing and goes silent."""
        sent_at = self._clock()
        lease_id = work.open_lease(self._ctx, **self._identity, info=info)
        with self._lock:
            self._id, self._opened_at, self._good_at = lease_id, sent_at, sent_at
        return lease_id

    def find_sure(self) -> UUID | None:
        """The lease's id while it is certainly alive, else None: then nothing may be claimed."""
        limit_s = self._ctx.settings.lease_ttl_s * (1 - MARGIN)
        with self._lock:
            return self._id if self._clock() - self._good_at < limit_s else None

    @property
    def id(self) -> UUID | None:
        """The present lease, sure or not; None before the first and after a loss."""
        with self._lock:
            return self._id

    @property
    def age_s(self) -> float:
        """Seconds since it was opened."""
        with self._lock:
            return self._clock() - self._opened_at

    @property
    def silent_s(self) -> float:
        """Seconds since the last good sign of life was sent."""
        with self._lock:
            return self._clock() - self._good_at

    def beat(self, info: dict[str, Any] | None = None) -> work.Beat:
        """Give a sign of life. Raises Unavailable, and RuntimeError where there is no lease."""
        lease_id = self.id
        if lease_id is None:
            raise RuntimeError("there is no lease to give a sign of life for")
        sent_at = self._clock()
        answer = work.beat(self._ctx, lease_id, info)
        if answer.alive:
            with self._lock:
                # Counted from before it was sent: the server may have taken it at once or late.
                self._good_at = max(self._good_at, sent_at)
        return answer

    def lose(self) -> list[Claim]:
        """The lease is dead. Answers the claims that were held under it; nothing of them may be written any
        more."""
        with self._lock:
            self._id = None
        return self.held.clear()

    def end(self, reason: str) -> None:
        """Give back what is still held, and end the lease cleanly. Raises Unavailable."""
        lease_id = self.id
        if lease_id is not None:
            work.end_lease(self._ctx, lease_id, reason, clean=True)
            self.lose()
