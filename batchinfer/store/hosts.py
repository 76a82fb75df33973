"""Machines with a keeper: what they have, and that they live."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.store.clean import as_jsonb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Device:
    """What a replica runs on. `kind` is cpu or cuda, `total_mib` what it has in all, None where nobody knows."""

    name: str
    kind: str
    total_mib: int | None = None
    title: str = ""


@dataclass(frozen=True)
class DeviceLoad:
    """How a device stood when its keeper last looked, with all processes on it: MiB that they take, and the part of the
    last minute in which it computed. None: it cannot be known there."""

    taken_mib: int | None = None
    use: float | None = None


@dataclass(frozen=True)
class Host:
    """A machine; not `alive` where its keeper was silent for longer than the lease time."""

    host: str
    keeper_id: UUID
    devices: tuple[Device, ...]
    labels: dict[str, str]
    draining: bool
    started_at: datetime
    heartbeat_at: datetime
    alive: bool
    #: By the device's name; one that nobody looked at is missing.
    loads: dict[str, DeviceLoad] = field(default_factory=dict)

    def find_load(self, device: str) -> DeviceLoad:
        """How a device stands now; of a host that is not alive, nothing is known."""
        return self.loads.get(device, DeviceLoad()) if self.alive else DeviceLoad()


# A keeper that starts takes its host over, whoever had it.
_OPEN = text("""
    INSERT INTO hosts (host, keeper_id, devices, labels) VALUES (:host, :keeper_id, :devices, :labels)
    ON CONFLICT (host) DO UPDATE SET keeper_id = excluded.keeper_id, devices = excluded.devices,
        labels = excluded.labels, loads = '{}', started_at = now(), heartbeat_at = now(), ended_at = NULL
""")
_BEAT = text("""
    UPDATE hosts SET heartbeat_at = now(), loads = coalesce(CAST(:loads AS jsonb), loads)
    WHERE host = :host AND keeper_id = :keeper_id AND ended_at IS NULL
""")
_END = text("UPDATE hosts SET ended_at = now() WHERE host = :host AND keeper_id = :keeper_id")
_DRAIN = text("UPDATE hosts SET draining = :draining WHERE host = :host")
_LIST = text("""
    SELECT host, keeper_id, devices, labels, loads, draining, started_at, heartbeat_at,
        ended_at IS NULL AND heartbeat_at > now() - make_interval(secs => :silent_s) AS alive
    FROM hosts ORDER BY host
""")


def open_host(
    tx: Transaction, host: str, keeper_id: UUID, devices: Sequence[Device], labels: dict[str, str] | None = None
) -> None:
    """A keeper begins: the host is its own from now on."""
    shown = [vars(device) for device in devices]
    values = {"host": host, "keeper_id": keeper_id, "devices": as_jsonb(shown), "labels": as_jsonb(labels or {})}
    tx.execute(_OPEN, values)


def beat_host(tx: Transaction, host: str, keeper_id: UUID, loads: Mapping[str, DeviceLoad] | None = None) -> bool:
    """The keeper lives, and its devices stand like this (None: as before). False where another one has the host now:
    this one must end what it started, and itself."""
    shown = None if loads is None else as_jsonb({name: vars(load) for name, load in loads.items()})
    return tx.execute(_BEAT, {"host": host, "keeper_id": keeper_id, "loads": shown}).rowcount == 1


def end_host(tx: Transaction, host: str, keeper_id: UUID) -> None:
    """The keeper ends in order."""
    tx.execute(_END, {"host": host, "keeper_id": keeper_id})


def set_draining(tx: Transaction, host: str, *, draining: bool) -> bool:
    """Place nothing on a host and drain what is there, or take it back. False where there is no such host."""
    return tx.execute(_DRAIN, {"host": host, "draining": draining}).rowcount == 1


def list_hosts(tx: Transaction, *, silent_s: float) -> list[Host]:
    """Every host that ever had a keeper, by name."""
    return [_read(row._mapping) for row in tx.execute(_LIST, {"silent_s": silent_s})]


def _read(row: Any) -> Host:
    devices = tuple(Device(**entry) for entry in row["devices"])
    loads = {name: DeviceLoad(entry.get("taken_mib"), entry.get("use")) for name, entry in row["loads"].items()}
    return Host(**{**row, "devices": devices, "loads": loads})
