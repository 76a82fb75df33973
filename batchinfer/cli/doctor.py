"""`batchinfer doctor`: what is wrong here, why it matters, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from batchinfer.cli.local import HOME, load
from batchinfer.cli.output import FAILED, JSON, emit, remark, say
from batchinfer.doctor.findings import Finding, Level, Look, find_worst
from batchinfer.doctor.mounts import find_mount
from batchinfer.doctor.storage import LEAST_MIB, MOST_MIB, measure
from batchinfer.errors import StartError

_MARKS = {Level.OK: "ok", Level.SKIPPED: "-", Level.WARNING: "warning", Level.ERROR: "ERROR"}


@click.group(invoke_without_command=True)
@click.pass_context
@HOME
@JSON
def doctor(context: click.Context, home: Path | None, as_json: bool) -> None:
    """Look at the service, at storage and at this host. Ends with 1 where something is an error."""
    if context.invoked_subcommand is not None:
        return
    findings = []
    group = ""
    for finding in _examine_all(home):
        findings.append(finding)
        if as_json:
            emit(asdict(finding))
            continue
        if finding.group != group:
            group = finding.group
            say(f"{group}")
        _show(finding)
    if find_worst(findings) is Level.ERROR:
        context.exit(FAILED)


@doctor.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--mib",
    type=click.IntRange(LEAST_MIB, MOST_MIB),
    default=1024,
    show_default=True,
    help="How much is written and read.",
)
@JSON
def storage(folder: Path, mib: int, as_json: bool) -> None:
    """Measure how fast DIR is read, cold and warm, and what that makes of a cold start. Removes what it wrote."""
    found = measure(folder, mib=mib, tell=lambda line: remark(f"  {line} …"))
    mount = find_mount(Look.of_host(load(None)), folder)
    if as_json:
        emit({**asdict(found), "file_system": mount.kind if mount else None})
        return
    say(f"{folder}{f': {mount.kind} at {mount.point}' if mount else ''}, files of {mib} MiB in all")
    for what, cold, warm in (
        ("one after the other", found.cold, found.warm),
        ("8 at once", found.cold_shards, found.warm_shards),
    ):
        say(f"  {what:<20} cold {cold:>9,.0f} MiB/s   page cache {warm:>9,.0f} MiB/s")
    say(f"  {'written':<20}      {found.written:>9,.0f} MiB/s")
    for gib in (5, 60, 130):
        say(f"  weights of {gib:>3} GiB: {found.estimate_load_s(gib * 1024):,.0f} s to read from cold")


def _examine_all(home: Path | None) -> list[Finding]:
    """Every check that can be made: without a running service those of the host and of storage."""
    from batchinfer.doctor.everything import examine_all
    from batchinfer.services.context import open_context
    from batchinfer.stack.running import find_servers

    settings = load(home)
    try:
        servers = find_servers(settings)
    except StartError as error:
        remark(f"The service is left out: {error.message}")
        return list(examine_all(Look.of_host(settings)))
    ctx = open_context(servers, name="batchinfer-doctor", pool_size=1)
    try:
        return list(examine_all(Look.of_host(servers, ctx)))
    finally:
        ctx.close()


def _show(finding: Finding) -> None:
    say(f"  {_MARKS[finding.level]:<8} {finding.check}: {finding.message}")
    if finding.level in {Level.WARNING, Level.ERROR}:
        say(f"           why: {finding.why}")
        if finding.remedy:
            say(f"           do:  {finding.remedy}")
