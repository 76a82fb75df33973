"""The threads around one station, started and ended in order: lease, committer, heart, feeder, watchdog."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import DOCUMENT, JOB, show_id
from batchinfer.errors import Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.store.claims import RENDER, Claim
from workers.consumer import messages
from workers.feeder import Feeder
from workers.gate import Gate
from workers.heart import Heart
from workers.insist import insist
from workers.task_events import TaskEvents
from workers.ticking import Reaper
from workers.vitals import Vitals
from workers.watchdog import Watchdog

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection
    from uuid import UUID

    from batchinfer.observe.metrics import Sheet
    from batchinfer.services.context import Context
    from workers.committer import Committer
    from workers.lease import Lease
    from workers.station import Station

#: Time for the last results and the end of the lease, after the drain.
LAST_WRITES_S = 5.0

_log = get_logger(__name__)


class Crew:
    """Works until `drain`. The committer exists before the station, which hands over to it."""

    def __init__(self, ctx: Context, lease: Lease, committer: Committer, station: Station) -> None:
        self.lease, self.committer, self.station = lease, committer, station
        self.events = committer.events = TaskEvents(
            ctx.announcer.celery if ctx.settings.task_events else None, lease.worker
        )
        self.gate = Gate(ctx.settings)
        self.feeder = Feeder(ctx, lease, station, committer, self.gate)
        self.heart = Heart(ctx, lease, station, committer, self.describe)
        self.gate.on_turn = self.heart.beat_soon  # it is told now, not with the next sign of life
        self._vitals = Vitals()
        self.watchdog = Watchdog(station.progress, ctx.settings.watchdog_s)
        #: What else `describe` tells: what stays as it is as long as the process lives.
        self.about: dict[str, Any] = {}
        self._ctx = ctx
        committer.on_written = self.feeder.wake
        #: Where this process tells its metrics; empty where it does not.
        self.metrics_address = ""

    def start(self, quit_: threading.Event) -> UUID:
        """Open the lease, however long the database takes, and begin. Raises Stopped."""
        lease_id = insist(lambda: self.lease.open(self.describe()), quit_, what="a lease")
        _log.info("lease opened", lease_id=str(lease_id))
        self.events.start()
        self.committer.start()
        self.heart.start()
        self.watchdog.start()
        self.feeder.start()
        Reaper(self._ctx, quit_).start()
        return lease_id

    def drain(self, drain_s: float, reason: str) -> None:
        """Claim nothing more, give what runs `drain_s` seconds, write what ended, give back the rest
        unharmed."""
        started = time.monotonic()
        self.feeder.stop()
        # The heart beats on: what ends in the drain is written under a living lease.
        self.station.drain(drain_s)
        self.watchdog.stop()
        written = self.committer.flush(LAST_WRITES_S)
        self.heart.stop()
        left = self.lease.held.list_all()
        try:
            self.lease.end(reason)
        except Unavailable as error:
            _log.warning("the lease could not be ended; its time will run out", code=error.code)
        self.events.give_back(left)
        self.events.stop()
        self.station.close()
        _log.info("drained", seconds=round(time.monotonic() - started, 2), released=len(left), all_written=written)

    def list_jobs(self) -> list[dict[str, Any]]:
        """What this process holds, for `celery inspect jobs`: what is worked on, and what is being stored."""
        held = [(claim, self.station.find_stage(claim)) for claim in self.lease.held.list_all()]
        shown = {claim.id: _show(claim, stage) for claim, stage in held}
        shown |= {claim.id: _show(claim, "storing") for claim in self.committer.list_storing()}
        return list(shown.values())

    def cancel(self, ids: Collection[UUID]) -> list[UUID]:
        """Cancel those of these jobs that this process holds, soon. Answers which."""
        claims = [claim for claim in self.lease.held.list_all() if claim.kind != RENDER and claim.subject_id in ids]
        self.heart.cancel_soon(claims)
        return [claim.subject_id for claim in claims]

    def describe(self) -> dict[str, Any]:
        """What `celery inspect stats` and the list of workers show."""
        lease_id, counts = self.lease.id, self.committer.counts
        return {
            **self.station.info(),
            **self.about,
            "paused": self.gate.cause,
            **self._vitals.look(),
            "lease_id": str(lease_id) if lease_id else None,
            "lease_age_s": round(self.lease.age_s, 1),
            "lost_leases": self.heart.lost_leases,
            "held": len(self.lease.held),
            "claims": self.feeder.claims,
            "claimed": self.feeder.rows,
            "isolating": self.feeder.isolating,
            "groups": counts.groups,
            "completed": counts.completed,
            "failed": counts.failed,
            "retried": counts.retried,
            "released": counts.released,
            "fenced": counts.fenced,
            "dropped": counts.dropped,
            "landed": counts.landed,
            "messages": messages.as_dict(),
            "announcements": self._ctx.announcer.counts(),
            "task_events": self.events.counts(),
            "metrics": self.metrics_address,
        }

    def tell(self, sheet: Sheet) -> None:
        """Put the numbers of all its parts on a page of metrics."""
        self.station.tell(sheet)
        self.committer.tell(sheet)
        sheet.add("batchinfer_worker_held_rows", len(self.lease.held))
        sheet.add("batchinfer_worker_silent_seconds", self.lease.silent_s if self.lease.id else None)
        sheet.add("batchinfer_worker_leases_lost_total", self.heart.lost_leases)
        taken = messages.as_dict()
        sheet.add("batchinfer_worker_messages_total", taken["announcements"], "taken")
        sheet.add("batchinfer_worker_messages_total", sum(taken["refused"].values()), "refused")


def _show(claim: Claim, stage: str) -> dict[str, Any]:
    return {
        "id": show_id(DOCUMENT if claim.kind == RENDER else JOB, claim.subject_id),
        "kind": claim.kind,
        "stage": stage,
        "model": claim.model,
        "class": claim.job_class.value,
        "attempt": claim.attempt,
        "age_s": round(claim.age_s(), 1),
        "lease_id": str(claim.lease_id),
    }
