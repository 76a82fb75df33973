"""The feeder: one thread that claims as many ready rows as fit and hands them to the station.

It looks when an announcement came, when there is room again, and in any case every `poll_s`. It claims
nothing while the lease is not certainly alive, nor while this host is short of memory.

Where there is no room, it still claims interactive rows, for which the station makes room: when one was announced,
and in any case every `poll_s`.

Suspects, rows whose worker was lost before, run apart (the lost worker may have been their doing): a claim
that meets one gives its suspects back, the station runs empty, and then claims come in small groups until
one has no suspect. Of a group with a row that was there at two losses, that row runs alone.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from batchinfer.domain.jobs import JobClass
from batchinfer.domain.retries import ALONE_FROM, SUSPECT_GROUP
from batchinfer.errors import Internal, Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.services import work
from batchinfer.store.claims import Claim, Ending
from workers.committer import Committer, Finished
from workers.gate import Gate
from workers.insist import pauses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.turns import Turns
    from workers.lease import Lease
    from workers.station import Station

_log = get_logger(__name__)


class Feeder(threading.Thread):
    """Wakes on `wake`; ends on `stop`. Counts claims that found something, and the rows in them."""

    def __init__(
        self, ctx: Context, lease: Lease, station: Station, committer: Committer, gate: Gate | None = None
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self._gate = gate or Gate(ctx.settings)
        self._events = committer.events
        self.claims = self.rows = 0
        self._ctx, self._lease, self._station, self._committer = ctx, lease, station, committer
        self._turns = work.make_turns(ctx)
        #: Rounds of their own: claims of interactive rows alone owe nothing to later classes.
        self._urgent_turns = work.make_turns(ctx)
        self._awake = threading.Event()
        #: Something interactive may be ready; without that word it is looked for from `_look_at` on.
        self._urgent = threading.Event()
        self._look_at = 0.0
        self._quit = threading.Event()
        self._isolating = False
        #: Claimed, not yet loaded: the database went away in between.
        self._unloaded: list[Claim] = []

    @property
    def isolating(self) -> bool:
        """Whether suspects are being run apart."""
        return self._isolating

    def wake(self, *, urgent: bool = False) -> None:
        """Look now: something may be ready (`urgent`: an interactive row), or there may be room."""
        if urgent:
            self._urgent.set()
        self._awake.set()

    def stop(self) -> None:
        """Claim nothing more, and wait for a claim under way."""
        self._quit.set()
        self._awake.set()
        self.join(10.0)

    def run(self) -> None:
        backoff: Iterator[float] = pauses()
        failures = 0
        while not self._quit.is_set():
            try:
                pause_s = self.turn()
                backoff, failures = pauses(), 0
            except Unavailable as error:
                pause_s, failures = next(backoff), failures + 1
                if failures == 1:
                    _log.warning("nothing can be claimed", code=error.code)
            except Exception:
                pause_s = next(backoff)
                _log.exception("a claim failed")
            if pause_s:
                self._awake.wait(pause_s)
            # Cleared before the next look: what is announced during it wakes us again.
            self._awake.clear()

    def turn(self) -> float:
        """Look once. Answers the longest pause before the next look, in seconds. Raises Unavailable."""
        poll_s = self._ctx.settings.poll_s
        lease_id = self._lease.find_sure()
        if lease_id is None:
            return poll_s
        if self._unloaded:
            self._load()
        if not self._gate.is_open():
            return poll_s
        limit, urgent_only = self._find_limit(), False
        if not limit:
            limit, urgent_only = self._find_urgent_limit(), True
        if not limit:
            left_s = self._look_at - time.monotonic()
            return min(left_s, poll_s) if left_s > 0 else poll_s
        turns = self._urgent_turns if urgent_only else self._turns
        claims = self._claim(lease_id, limit, turns, urgent_only=urgent_only)
        if not claims:
            self._isolating = False
            return poll_s
        self.claims += 1
        self.rows += len(claims)
        fresh = self._lease.held.add(claims)
        self._events.receive(fresh)
        # Noted before the others are given back: that may fail, and what may start must not be forgotten then.
        self._unloaded, others = self._part_suspects(fresh)
        self._give_back(others)
        self._load()
        return 0.0 if len(claims) == limit or turns.cut_short else poll_s

    def _claim(self, lease_id: UUID, limit: int, turns: Turns, *, urgent_only: bool) -> list[Claim]:
        self._urgent.clear()
        claims = work.claim(
            self._ctx,
            lease_id=lease_id,
            kinds=self._station.kinds,
            model=self._station.model,
            limit=limit,
            turns=turns,
            urgent_only=urgent_only,
        )
        self._look_at = time.monotonic() + self._ctx.settings.poll_s
        full = len(claims) == limit and all(claim.job_class is JobClass.INTERACTIVE for claim in claims)
        if full or turns.cut_short:  # there may be more
            self._urgent.set()
        return claims

    def _find_limit(self) -> int:
        """How many rows to claim: what fits, or a small group for an empty station while suspects are run
        apart."""
        if self._isolating:
            return min(SUSPECT_GROUP, self._station.count_room()) if self._is_alone() else 0
        return self._station.count_room()

    def _find_urgent_limit(self) -> int:
        """How many interactive rows to claim where nothing else fits; none while nothing speaks for there being one."""
        if self._isolating or not (self._urgent.is_set() or time.monotonic() >= self._look_at):
            return 0
        return self._station.count_urgent_room()

    def _is_alone(self) -> bool:
        """Whether nothing else would be taken for a suspect if this process were lost now: a result that is
        not written yet is still held."""
        return not self._station.count_inside() and not self._committer.list_pending()

    def _part_suspects(self, claims: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
        """What may start now, and the others, to be given back: they come again in the next claims."""
        suspects = [claim for claim in claims if claim.suspected]
        self._isolating = bool(suspects)
        if not suspects:
            return list(claims), []
        if not self._is_alone():
            start = [claim for claim in claims if not claim.suspected]
        else:
            alone = [claim for claim in suspects if claim.suspected >= ALONE_FROM]
            start = alone[:1] or suspects[:SUSPECT_GROUP]
            _log.info("rows of lost workers are run apart", rows=len(start), suspected=start[0].suspected)
        return start, [claim for claim in claims if claim not in start]

    def _give_back(self, claims: Sequence[Claim]) -> None:
        """At once, so that the next claim meets them. Where that fails the heart finds them and gives them
        back."""
        if claims:
            for claim in claims:
                self._lease.held.pop(claim)
            work.release(self._ctx, claims[0].lease_id, claims)
            self._events.give_back(claims)

    def _load(self) -> None:
        """Load what was claimed and hand it over. Raises Unavailable; then the claims stay for the next
        look."""
        claims = [claim for claim in self._unloaded if self._lease.held.has(claim)]
        if claims:
            pieces = self._load_each(claims)
            loaded = {piece.claim.id for piece in pieces}
            for claim in claims:
                if claim.id not in loaded:  # its job is gone: the services have ended it
                    self._lease.held.pop(claim)
            self._events.begin(piece.claim for piece in pieces)
            self._station.take(pieces)
        self._unloaded = []

    def _load_each(self, claims: Sequence[Claim]) -> list[work.Work]:
        """All together; where that fails for a fault of ours, one by one, so that the faulty one fails
        alone."""
        try:
            return work.load_claims(self._ctx, claims)
        except Unavailable:
            raise
        except Exception:
            _log.exception(
                "claims could not be loaded", rows=len(claims), **(claims[0].tags if len(claims) == 1 else {})
            )
            if len(claims) > 1:
                return [piece for claim in claims for piece in self._load_each([claim])]
            self._end_unreadable(claims[0])
            return []

    def _end_unreadable(self, claim: Claim) -> None:
        error = Internal("The job's stored prompt cannot be read. Submit it again.", code="prompt_unreadable")
        if self._lease.held.pop(claim):
            self._committer.put(Finished(claim, ending=Ending(claim.id, claim.attempt, error.as_dict())))
