"""`batchinfer usage`: what results used, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchinfer.cli.output import JSON, emit, say
from batchinfer.cli.remote import remote
from batchinfer.client.progress import make_plain

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.client import Client
    from batchinfer.client.nouns import UsageNumbers

_DAY = click.DateTime(["%Y-%m-%d"])
_GROUPS = ("day", "model", "key", "schedule")


@click.command()
@click.option("--by", "groups", type=click.Choice(_GROUPS), multiple=True, help="By what; day if left out; several.")
@click.option("--from", "since", type=_DAY, help="The first day, as 2026-11-30; 30 days ago if left out.")
@click.option("--to", "until", type=_DAY, help="The last day; today if left out.")
@click.option("--model", help="Only of this model.")
@click.option("--key", help="Only of this key: its id.")
@JSON
@remote
def usage(
    client: Client,
    groups: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    model: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Jobs, tokens, pictures and seconds of the devices, by whole days of UTC."""
    asked = groups or ("day",)
    report = client.usage.get(
        group_by=asked,
        since=since.date() if since else None,
        until=until.date() if until else None,
        model=model,
        key=key,
    )
    if as_json:
        emit(report.as_dict())
        return
    columns = ("jobs", "tokens in", "tokens out", "pictures", "device s")
    rows = [(*asked, *columns)]
    rows += [(*(make_plain(str(row.as_dict()[group] or "-")) for group in asked), *_show(row)) for row in report.data]
    rows.append(("all", *("" for _ in asked[1:]), *_show(report.total)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        names = [text.ljust(width) for text, width in zip(row, widths, strict=True)][: len(asked)]
        numbers = [text.rjust(width) for text, width in zip(row, widths, strict=True)][len(asked) :]
        say("  ".join([*names, *numbers]))


def _show(numbers: UsageNumbers) -> tuple[str, ...]:
    whole = (numbers.jobs, numbers.prompt_tokens, numbers.completion_tokens, numbers.images)
    return (*(f"{number:,}" for number in whole), f"{numbers.device_seconds:,.1f}")
