"""`batchinfer acts`: one act on many jobs, over HTTP: counted, asked for, followed, stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchinfer.cli.output import JSON, emit, say
from batchinfer.cli.remote import remote, show_time
from batchinfer.client.progress import make_plain
from batchinfer.domain.bulk_acts import BulkVerb
from batchinfer.domain.jobs import JobClass, JobState

if TYPE_CHECKING:
    from batchinfer.client import Client
    from batchinfer.client.acts import Act


@click.group()
def acts() -> None:
    """Acts on many jobs at once: try again, cancel, delete."""


@acts.command("start")
@click.argument("verb", type=click.Choice([verb.value for verb in BulkVerb]))
@click.argument("ids", metavar="[JOB]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All jobs, where no other condition is given.")
@click.option("--state", "status", type=click.Choice([state.value for state in JobState]), help="Those in this state.")
@click.option("--model", help="Those of this model.")
@click.option("--class", "class_", type=click.Choice([word.value for word in JobClass]), help="Those of this class.")
@click.option("--batch", help="Those of this batch.")
@click.option("--document", help="The pages of this document.")
@click.option("--custom-id", help="The line of this name.")
@click.option("--text", help="Those with this text in prompt or answer.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
@remote
def start_act(
    client: Client,
    /,
    verb: str,
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    as_json: bool,
    **conditions: str | None,
) -> None:
    """Do it to jobs by their ids, or to all that the options find. The number is asked about first."""
    search = {name.rstrip("_"): value for name, value in conditions.items() if value is not None}
    if bool(ids) is bool(search or everything):
        raise click.UsageError("Name jobs, or say what they have in common by options (--all for all jobs).")
    reach = client.acts.count(verb, jobs=ids, search=search)
    if not yes:
        left = f" {reach.others:,} more match and do not allow it." if reach.others else ""
        click.confirm(f"{verb} {reach.number:,} jobs?{left}", abort=True, err=True)
    _show(client.acts.start(verb, jobs=ids, search=search, up_to=reach.up_to), as_json=as_json)


@acts.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@JSON
@remote
def list_acts(client: Client, limit: int, as_json: bool) -> None:
    """Acts of late, newest first."""
    for act in client.acts.list(limit=limit):
        _show(act, as_json=as_json)


@acts.command("show")
@click.argument("act_id")
@JSON
@remote
def show_act(client: Client, act_id: str, as_json: bool) -> None:
    """How far an act is."""
    _show(client.acts.get(act_id), as_json=as_json)


@acts.command("stop")
@click.argument("act_id")
@JSON
@remote
def stop_act(client: Client, act_id: str, as_json: bool) -> None:
    """Stop an act half way; what it did stays done."""
    _show(client.acts.cancel(act_id), as_json=as_json)


def _show(act: Act, *, as_json: bool) -> None:
    if as_json:
        emit(act.as_dict())
        return
    others = [f"{number:,} {word}" for number, word in ((act.skipped, "left as they were"), (act.failed, "failed"))
              if number]  # fmt: skip
    told = ", ".join([f"{act.done:,} of {act.total:,} done", *others])
    why = f"  {make_plain(act.error.message)}" if act.error else ""
    say(f"{act.id}  {act.verb:<6}  {act.status:<9}  {show_time(act.created_at)}  {told}{why}")
