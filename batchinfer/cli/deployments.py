"""`batchinfer models launch|ensure|swap|rollback|cancel|resume|stop|list` and `batchinfer workers`, over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchinfer.cli.models import models
from batchinfer.cli.output import FAILED, JSON, emit, remark, say
from batchinfer.cli.remote import read_pairs, remote, show_time
from batchinfer.client.progress import make_plain
from batchinfer.domain.deployments import ENGINES
from batchinfer.domain.launches import DTYPES, QUANTISATIONS
from batchinfer.media.golden_files import read_golden_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.client import Client
    from batchinfer.client.deployments import Deployment, Host, Replica

#: Of a start, in their order.
_PHASES = ("start", "read", "copy", "warm_up", "verify")
_NAME = click.argument("name", metavar="MODEL|ID")
_DEVICE = click.option("--device", help="Which of the model's deployments, where there are several.")
_WAIT = click.option("--wait", is_flag=True, help="Wait for its end, and say how it went.")
_TIMEOUT = click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Wait no longer than that.")
_DRAIN = click.option("--drain-first", is_flag=True, help="Drain the old revision first where both do not fit.")
_WITHIN = click.option(
    "--within", "within_s", metavar="TIME", help="The swap has failed after so long: 30m, 8h; 2h if left out."
)
_SPEC = (
    click.option("--device", help="auto, cpu, cuda, or one such as cuda:1; auto if left out."),
    click.option("--revision", help="A fetched revision; the model's own if left out."),
    click.option("--replicas", type=int, help="How many processes serve it."),
    click.option("--engine", type=click.Choice(ENGINES)),
    click.option("--dtype", type=click.Choice(DTYPES)),
    click.option("--quantisation", type=click.Choice(QUANTISATIONS)),
    click.option("--memory-mib", type=int, help="The most that a replica may take of its device."),
    click.option("--slots", type=int, help="Requests that run at once in a replica."),
    click.option("--class", "class_", help="The class of jobs that it is for."),
    click.option("--pinned/--not-pinned", default=None, help="Never unload it for another model, or for being idle."),
    click.option("--idle", "idle_s", metavar="TIME", help="Unload it after so long without a job: 30m, 8h."),
    click.option("--priority", type=int, help="Who is placed first: the larger number."),
    click.option("--label", "labels", multiple=True, metavar="NAME=TEXT", help="What its host's labels must hold."),
    click.option("--options", metavar="JSON", help="Of the engine, as an object of JSON."),
    click.option(
        "--golden",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Golden prompts, a line of JSON each, to which the engine auto holds vLLM before it serves.",
    ),
)


def _spec(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a deployment's spec; those that are left out are None."""
    for option in reversed(_SPEC):
        command = option(command)
    return command


def _read_spec(given: dict[str, Any]) -> dict[str, Any]:
    """What was said, under the names of the API."""
    spec = {name.removesuffix("_"): value for name, value in given.items() if value not in (None, ())}
    if "labels" in spec:
        spec["labels"] = read_pairs(spec["labels"], "--label")
    if "golden" in spec:
        spec["golden"] = read_golden_file(spec["golden"])
    if "options" in spec:
        try:
            spec["options"] = json.loads(spec["options"])
        except ValueError:
            raise click.BadParameter("is not JSON", param_hint="--options") from None
    return spec


@models.command("launch")
@click.argument("name", metavar="MODEL")
@_spec
@_WAIT
@_TIMEOUT
@JSON
@remote
def launch(client: Client, /, name: str, wait: bool, timeout_s: float | None, as_json: bool, **spec: Any) -> None:
    """Want a model on a device; after every restart it comes back by itself."""
    made = client.deployments.launch(name, **_read_spec(spec))
    _settle(client, made, wait=wait, timeout_s=timeout_s, as_json=as_json)


@models.command("ensure")
@click.argument("name", metavar="MODEL")
@_spec
@_WAIT
@_TIMEOUT
@JSON
@remote
def ensure(client: Client, /, name: str, wait: bool, timeout_s: float | None, as_json: bool, **spec: Any) -> None:
    """Launch it, or change what is there to what is said; what is left out stays. Twice is as once."""
    made = client.deployments.ensure(name, **_read_spec(spec))
    if not as_json:
        say(f"{made.id}  {made.done}")
    _settle(client, made, wait=wait, timeout_s=timeout_s, as_json=as_json)


def _settle(client: Client, made: Deployment, *, wait: bool, timeout_s: float | None, as_json: bool) -> None:
    if wait:
        made = client.deployments.wait_ready(made.id, timeout_s, tell=_remark_changes())
    _show(made, as_json=as_json)
    if wait and made.status in ("failed", "stopped"):
        raise SystemExit(FAILED)


@models.command("swap")
@_NAME
@click.argument("revision")
@_DEVICE
@click.option(
    "--golden",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Golden prompts, a line of JSON each: the revision must answer all of them rightly before it serves.",
)
@_DRAIN
@_WITHIN
@_WAIT
@_TIMEOUT
@JSON
@remote
def swap(
    client: Client, name: str, revision: str, device: str | None, golden: Path | None, drain_first: bool,
    within_s: str | None, wait: bool, timeout_s: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Let another revision take over, without a job failing; until it is tested, the old one serves."""
    lines = [] if golden is None else read_golden_file(golden)
    found = client.deployments.find(name, device)
    begun = client.deployments.swap(found.id, revision, golden=lines, drain_first=drain_first, within_s=within_s)
    _follow(client, begun, wait=wait, timeout_s=timeout_s, as_json=as_json)


@models.command("rollback")
@_NAME
@_DEVICE
@_DRAIN
@_WITHIN
@_WAIT
@_TIMEOUT
@JSON
@remote
def rollback(
    client: Client, name: str, device: str | None, drain_first: bool, within_s: str | None, wait: bool,
    timeout_s: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Swap back to the revision that served before."""
    found = client.deployments.find(name, device)
    begun = client.deployments.rollback(found.id, drain_first=drain_first, within_s=within_s)
    _follow(client, begun, wait=wait, timeout_s=timeout_s, as_json=as_json)


def _follow(client: Client, begun: Deployment, *, wait: bool, timeout_s: float | None, as_json: bool) -> None:
    ended = client.deployments.wait_swapped(begun.id, timeout_s, tell=_remark_changes()) if wait else begun
    _show(ended, as_json=as_json)
    if wait and ended.swap is not None and ended.swap.status not in ("switched", "rolled_back"):
        raise SystemExit(FAILED)


@models.command("cancel")
@_NAME
@_DEVICE
@JSON
@remote
def cancel(client: Client, name: str, device: str | None, as_json: bool) -> None:
    """End a swap; without one end the loads: what is ready stays, and no more is wanted."""
    _show(client.deployments.cancel(client.deployments.find(name, device).id), as_json=as_json)


@models.command("resume")
@_NAME
@_DEVICE
@JSON
@remote
def resume(client: Client, name: str, device: str | None, as_json: bool) -> None:
    """Try at once what failed to load, and wake up what sleeps."""
    _show(client.deployments.resume(client.deployments.find(name, device).id), as_json=as_json)


@models.command("stop")
@_NAME
@_DEVICE
@JSON
@remote
def stop(client: Client, name: str, device: str | None, as_json: bool) -> None:
    """Want it no more; what runs ends first."""
    _show(client.deployments.stop(client.deployments.find(name, device).id), as_json=as_json)


@models.command("list")
@JSON
@remote
def list_models(client: Client, as_json: bool) -> None:
    """Every model, what is wanted of it, and its replicas with the phases of their starts."""
    wanted = client.deployments.list()
    if as_json:
        for one in wanted:
            emit(one.as_dict())
        return
    for model in client.models.list():
        say(f"{make_plain(model.id)}  {model.status}  revision {make_plain(model.revision)}")
        for one in wanted:
            if one.model == model.id:
                _show(one, as_json=False)


def _show(deployment: Deployment, *, as_json: bool) -> None:
    if as_json:
        emit(deployment.as_dict())
        return
    one = deployment
    say(
        f"{one.id}  {one.status:<8}  {make_plain(one.model)}  revision {make_plain(one.revision)}  "
        f"{one.replicas} on {one.device}  engine {one.engine}"
    )
    if one.swap is not None:
        say(f"  swap to {make_plain(one.swap.to_revision)}: {one.swap.status}, by {make_plain(one.swap.by)} since "
            f"{show_time(one.swap.since)}")  # fmt: skip
        if one.swap.error is not None:
            remark(f"{one.swap.error.code}: {make_plain(one.swap.error.message)}")
    if one.error is not None:
        remark(f"{one.error.code}: {make_plain(one.error.message)}")
    for replica in one.placed:
        if replica.ended_at is None:
            _show_replica(replica)


def _show_replica(replica: Replica) -> None:
    found = sorted(
        (replica.phases or {}).items(), key=lambda phase: _PHASES.index(phase[0]) if phase[0] in _PHASES else 9
    )
    phases = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in found)
    memory = "" if replica.memory_mib is None else f"{replica.memory_mib:,} MiB"
    where = f"{make_plain(replica.worker)} on {replica.device}"
    say(f"  {replica.id}  {replica.status:<11}  {make_plain(replica.revision)}  {where}  {memory}  {phases}".rstrip())
    if replica.choice is not None:
        say(f"    {replica.engine}: {make_plain(replica.choice)}")


def _remark_changes() -> Callable[[Deployment], None]:
    """Tells of each change of a deployment, on stderr."""
    last = [""]

    def tell(one: Deployment) -> None:
        states = ", ".join(f"{it.revision} {it.status}" for it in one.placed if it.ended_at is None)
        swapping = one.swap.status if one.swap is not None and one.next_revision is not None else one.status
        line = f"{swapping}: {make_plain(states) or 'no replica'}"
        if line != last[0]:
            remark(line)
            last[0] = line

    return tell


@click.group()
def workers() -> None:
    """Hosts and their replicas: list them, drain and resume."""


@workers.command("list")
@JSON
@remote
def list_workers(client: Client, as_json: bool) -> None:
    """Hosts with their devices, and the replicas that live."""
    hosts, replicas = client.hosts.list(), [one for one in client.hosts.list_replicas() if one.ended_at is None]
    for host in hosts:
        _show_host(host, as_json=as_json)
    for replica in replicas:
        emit(replica.as_dict()) if as_json else _show_replica(replica)


@workers.command("drain")
@click.argument("name", metavar="HOST|REPLICA")
@JSON
@remote
def drain(client: Client, name: str, as_json: bool) -> None:
    """Drain a host: nothing is placed there any more. Or one replica, which is then loaded anew where it is wanted."""
    if name.startswith("rep_"):
        replica = client.hosts.drain_replica(name)
        emit(replica.as_dict()) if as_json else _show_replica(replica)
    else:
        _show_host(client.hosts.drain(name), as_json=as_json)


@workers.command("resume")
@click.argument("host")
@JSON
@remote
def resume_host(client: Client, host: str, as_json: bool) -> None:
    """Take a drained host back."""
    _show_host(client.hosts.resume(host), as_json=as_json)


def _tell_device(device: dict[str, Any]) -> str:
    taken = "" if device.get("taken_mib") is None else f"{device['taken_mib']} of "
    use = "" if device.get("use") is None else f", {100 * device['use']:.0f} % in use"
    return f"{device['name']} {taken}{device['total_mib'] or '?'} MiB{use}"


def _show_host(host: Host, *, as_json: bool) -> None:
    if as_json:
        emit(host.as_dict())
        return
    devices = ", ".join(_tell_device(one) for one in host.devices)
    say(f"{make_plain(host.id)}  {'draining' if host.draining else host.status}  {make_plain(devices)}")
