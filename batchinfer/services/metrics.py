"""What the installation tells machines that watch it, and who may read that."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.addresses import Reach, parse_networks, read_address
from batchinfer.domain.progress import PACE_MINUTES, is_at_risk
from batchinfer.errors import Forbidden, Unauthenticated
from batchinfer.services.upkeep import TICK
from batchinfer.services.work import ORDERLY_END
from batchinfer.store import metrics, ticks
from batchinfer.store.snapshots import list_snapshots

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.settings import Settings
    from batchinfer.store.metrics import Deliveries, DeviceLoad, Lane, RunningBatch, Target, Today

#: Where a request has one of these, a proxy asks for somebody whom we do not know.
PROXY_HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via")


@dataclass(frozen=True)
class Facts:
    """The installation as Postgres knows it, all tenants together, read in one transaction."""

    lanes: list[Lane]
    backlog_jobs: int
    today: list[Today]
    #: Role, model, workers, slots.
    leases: list[tuple[str, str, int, int]]
    lost: dict[str, int]
    targets: list[Target]
    #: Model, state, number.
    replicas: list[tuple[str, str, int]]
    hosts: dict[str, int]
    devices: list[DeviceLoad]
    deliveries: Deliveries
    batches: dict[str, int]
    running_batches: list[RunningBatch]
    #: None where nobody holds one of a known age.
    oldest_snapshot_s: float | None
    tick_age_s: float | None

    @property
    def batches_at_risk(self) -> int:
        """Batches in progress that will miss their deadline at their pace."""
        return sum(is_at_risk(**vars(batch)) for batch in self.running_batches)

    @property
    def deadline_s(self) -> float | None:
        """Seconds to the nearest deadline of one that has open lines."""
        return min((batch.left_s for batch in self.running_batches if batch.open_lines), default=None)


def read_facts(ctx: Context) -> Facts:
    """Ask Postgres; every statement has a time limit. Raises Unavailable."""
    with ctx.db.transaction() as tx:
        metrics.bound_statements(tx)
        ages = [held.age_s for held in list_snapshots(tx) if held.age_s is not None]
        return Facts(
            lanes=metrics.list_lanes(tx),
            backlog_jobs=metrics.count_backlog(tx),
            today=metrics.list_today(tx),
            leases=metrics.count_leases(tx),
            lost=metrics.count_lost(tx, orderly=ORDERLY_END),
            targets=metrics.list_targets(tx),
            replicas=metrics.count_replicas(tx),
            hosts=metrics.count_hosts(tx, silent_s=ctx.settings.lease_ttl_s),
            devices=metrics.list_device_loads(tx),
            deliveries=metrics.read_deliveries(tx),
            batches=metrics.count_batches(tx),
            running_batches=metrics.list_running_batches(tx, minutes=PACE_MINUTES),
            oldest_snapshot_s=max(ages, default=None),
            tick_age_s=ticks.find_seconds_since(tx, TICK),
        )


def check_reader(settings: Settings, address: str, authorization: str, *, proxied: bool) -> None:
    """Go on only for who may read metrics. `address`: of the connection; `proxied`: a header says that it is a proxy's,
    and then nothing is known of who asks.

    Raises Unauthenticated (code invalid_metrics_token), Forbidden (code metrics_forbidden).
    """
    if settings.metrics_token is not None:
        wanted = f"Bearer {settings.metrics_token.get_secret_value()}"
        if not hmac.compare_digest(authorization.encode(), wanted.encode()):
            raise Unauthenticated(
                "Metrics want the token of BATCHINFER_METRICS_TOKEN. Send it as `Authorization: Bearer ...`.",
                code="invalid_metrics_token",
            )
    elif proxied or not _is_within(address, settings.metrics_networks):
        raise Forbidden(
            "Metrics are told to the networks of BATCHINFER_METRICS_NETWORKS alone, and not by way of a proxy. Set "
            "BATCHINFER_METRICS_TOKEN and send it, or ask from there.",
            code="metrics_forbidden",
        )


def _is_within(address: str, networks: str) -> bool:
    found = read_address(address)  # a socket of the file system has none
    return found is not None and Reach(networks=parse_networks(networks)).includes(found)
