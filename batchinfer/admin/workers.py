"""Workers: hosts with their devices, the processes on them, and what happened in the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flask import Blueprint, Response, request, url_for
from flask_babel import gettext as _

from batchinfer.admin.acting import ask, finish
from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.ids import DEFAULT_TENANT, EVENT, REPLICA, parse_id, show_id
from batchinfer.errors import BadRequest, NotFound
from batchinfer.services import fleet, hosts
from batchinfer.store.events import FLEET_SUBJECTS

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.services.context import Page
    from batchinfer.store.events import StoredEvent
    from batchinfer.store.fleet import Replica
    from batchinfer.store.hosts import Host
    from batchinfer.store.leases import Worker

#: Lines of what happened, a page.
EVENTS = 20


@dataclass(frozen=True)
class Row:
    """A process: its lease, its replica, or both. A replica without a lease does not take jobs (yet)."""

    worker: Worker | None
    replica: Replica | None
    total_mib: int | None

    @property
    def version(self) -> str | None:
        """Of batchinfer, where the process said so."""
        return ((self.replica.versions or {}) if self.replica else {}).get("batchinfer")

    @property
    def vitals(self) -> dict[str, Any]:
        """`rss_mib`, `cores_used` and `device_mib` of its last sign of life, None where one is not known; {} before it
        said any."""
        info = self.worker.info if self.worker else {}
        known = {name: value for name in ("rss_mib", "cores_used", "device_mib")
                 if isinstance(value := info.get(name), int | float)}  # fmt: skip
        return {name: known.get(name) for name in ("rss_mib", "cores_used", "device_mib")} if "rss_mib" in known else {}

    @property
    def can_drain(self) -> bool:
        """Whether a keeper could end it and load another one."""
        found = self.replica
        return found is not None and found.host is not None and found.ended_at is None and found.wanted != "drain"


@dataclass(frozen=True)
class HostRow:
    """A machine with a keeper: `silent_s` since its last sign of life, `replicas` those that live there."""

    host: Host
    silent_s: float
    replicas: int


def register(blueprint: Blueprint) -> None:
    """Add the page and its acts."""
    blueprint.add_url_rule("/workers", view_func=show_workers)
    for verb in ("drain", "resume"):
        blueprint.add_url_rule(f"/hosts/<host>/{verb}", f"ask_{verb}_host", ask_host, defaults={"verb": verb})
        blueprint.add_url_rule(
            f"/hosts/<host>/{verb}", f"take_{verb}_host", take_host, defaults={"verb": verb}, methods=["POST"]
        )
    blueprint.add_url_rule("/replicas/<replica_id>/drain", view_func=ask_drain_replica)
    blueprint.add_url_rule("/replicas/<replica_id>/drain", view_func=take_drain_replica, methods=["POST"])


def show_workers() -> Response:
    """The page. Raises BadRequest for a filter that cannot be."""
    context, caller = get_context(), get_caller()
    listed, replicas = hosts.list_hosts(context, caller), fleet.list_replicas(context, caller)
    totals = {(host.host, one.name): one.total_mib for host in listed for one in host.devices}
    now = datetime.now(UTC)
    subject, page = _read_subject(), _list_events()
    return render_live(
        "workers.html",
        "_workers.html",
        hosts=[
            HostRow(
                host,
                max(0.0, (now - host.heartbeat_at).total_seconds()),
                sum(one.host == host.host and one.ended_at is None for one in replicas),
            )
            for host in listed
        ],
        rows=_join(fleet.list_workers(context, caller), replicas, totals),
        silent_after_s=3 * context.settings.heartbeat_s,
        events=page.data,
        names={one.id: one.worker for one in replicas},
        subject=subject,
        subjects=FLEET_SUBJECTS,
        shows_actors=caller.tenant_id == DEFAULT_TENANT,
        newest=url_for("admin.show_workers", subject=subject) if request.args.get("after") else None,
        older=_find_older(page.data, subject) if page.has_more else None,
    )


def _read_subject() -> str | None:
    subject = request.args.get("subject") or None
    if subject is not None and subject not in FLEET_SUBJECTS:
        raise BadRequest(f"subject must be one of {', '.join(FLEET_SUBJECTS)}, or left out for all.", param="subject")
    return subject


def _list_events() -> Page[StoredEvent]:
    after = None
    if text := (request.args.get("after") or "").strip():
        try:
            after = parse_id(EVENT, text)
        except NotFound as error:
            raise BadRequest(f"after: {error.message}", param="after") from None
    return hosts.list_events(get_context(), get_caller(), subject=_read_subject(), after=after, limit=EVENTS)


def _find_older(events: list[StoredEvent], subject: str | None) -> str:
    return url_for("admin.show_workers", subject=subject, after=show_id(EVENT, events[-1].id))


def _join(workers: list[Worker], replicas: list[Replica], totals: dict[tuple[str, str], int | None]) -> list[Row]:
    """Processes alive, those that load among them, then those that ended in the last hour."""
    by_lease = {one.lease_id: one for one in replicas if one.lease_id is not None}
    leased = {worker.lease_id for worker in workers}
    rows = [
        Row(worker, by_lease.get(worker.lease_id), totals.get((worker.host, worker.device or ""))) for worker in workers
    ]
    alone = [
        Row(None, one, totals.get((one.host or "", one.device)))
        for one in replicas
        if one.lease_id not in leased and (one.ended_at is None or one.state == "failed")
    ]
    return sorted([*rows, *alone], key=_is_over)


def _is_over(row: Row) -> bool:
    if row.worker is not None:
        return row.worker.dead
    return row.replica is not None and row.replica.ended_at is not None


def ask_host(host: str, verb: str) -> Response:
    """What draining a host, or taking it back, will do. Raises NotFound."""
    context, caller = get_context(), get_caller()
    if all(known.host != host for known in hosts.list_hosts(context, caller)):
        raise NotFound(_("No host of this name has a keeper."), code="host_not_found")
    there = [one for one in fleet.list_replicas(context, caller) if one.host == host and one.ended_at is None]
    back = url_for("admin.show_workers")
    if verb == "drain":
        text = _(
            "Nothing is placed there any more. %(count)d replicas there end what runs and end; elsewhere they are "
            "loaded first where there is room.", count=len(there),
        )  # fmt: skip
        return ask(_("Drain %(host)s?", host=host), verb=_("Drain"), text=text, danger=True, back=back)
    text = _("Replicas may be placed there again.")
    return ask(_("Take %(host)s back?", host=host), verb=_("Take it back"), text=text, back=back)


def take_host(host: str, verb: str) -> BaseResponse:
    """Drain a host or take it back. Raises NotFound, Forbidden."""
    if verb == "drain":
        hosts.drain_host(get_context(), get_caller(), host)
        told = _("%(host)s is drained: what runs there ends first.", host=host)
    else:
        hosts.resume_host(get_context(), get_caller(), host)
        told = _("%(host)s takes replicas again.", host=host)
    return finish(told, url_for("admin.show_workers"))


def ask_drain_replica(replica_id: str) -> Response:
    """What draining one process will do. Raises NotFound."""
    found = _find_replica(parse_id(REPLICA, replica_id))
    text = _("It takes no more jobs, ends those that run, and ends. Where it is still wanted, another one is loaded.")
    title = _("Drain %(worker)s?", worker=found.worker)
    return ask(title, verb=_("Drain"), text=text, danger=True, back=url_for("admin.show_workers"))


def _find_replica(replica_id: UUID) -> Replica:
    for one in fleet.list_replicas(get_context(), get_caller()):
        if one.id == replica_id:
            return one
    raise NotFound(_("No replica with this id lives, or ended in the last hour."), code="replica_not_found")


def take_drain_replica(replica_id: str) -> BaseResponse:
    """Drain one process. Raises NotFound, Forbidden, Conflict where nobody keeps it."""
    found = hosts.drain_replica(get_context(), get_caller(), parse_id(REPLICA, replica_id))
    return finish(_("%(worker)s ends what runs, and ends.", worker=found.worker), url_for("admin.show_workers"))
