"""What each device of each host holds, replica by replica: the bars of the Models page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.memory import count_free, reserve_mib
from batchinfer.services.memory import count_held
from batchinfer.store import hosts, memory

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context
    from batchinfer.store.hosts import Device, DeviceLoad, Host
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Share:
    """What a device keeps for one replica, in MiB; `measured_mib` of it is what the replica really held."""

    replica_id: UUID
    deployment_id: UUID | None
    worker: str
    model: str
    state: str
    mib: int
    measured_mib: int | None
    pinned: bool


@dataclass(frozen=True)
class DeviceUse:
    """A device of a host that is alive. `reserved_mib` is left to the system and to processes of others; `free_mib` is
    None where nobody knows what the device has in all."""

    host: str
    device: Device
    draining: bool
    reserved_mib: int
    shares: tuple[Share, ...]
    free_mib: int | None
    #: With all processes on it, as its host measures.
    load: DeviceLoad

    @property
    def held_mib(self) -> int:
        """What all replicas on it take."""
        return sum(share.mib for share in self.shares)


def list_devices(ctx: Context, caller: Caller) -> list[DeviceUse]:
    """The devices of hosts that are alive, by host, each with its replicas, the largest first. Raises Forbidden."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        alive = [host for host in hosts.list_hosts(tx, silent_s=ctx.settings.lease_ttl_s) if host.alive]
        held: dict[tuple[str, str], list[Share]] = {}
        for one in memory.list_held(tx):
            held.setdefault((one.host, one.device), []).append(_share(tx, one))
    return [_use(host, device, held.get((host.host, device.name), [])) for host in alive for device in host.devices]


def _share(tx: Transaction, one: memory.Held) -> Share:
    mib = count_held(tx, one)
    return Share(one.id, one.deployment_id, one.worker, one.model, one.state, mib, one.memory_mib, one.pinned)


def _use(host: Host, device: Device, shares: list[Share]) -> DeviceUse:
    load = host.find_load(device.name)
    ordered = tuple(sorted(shares, key=lambda share: (-share.mib, share.worker)))
    if device.total_mib is None:
        return DeviceUse(host.host, device, host.draining, 0, ordered, None, load)
    free = count_free(device.kind, device.total_mib, [share.mib for share in ordered])
    reserved_mib = reserve_mib(device.kind, device.total_mib)
    return DeviceUse(host.host, device, host.draining, reserved_mib, ordered, free, load)
