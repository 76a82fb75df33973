"""`batchinfer plan night`: how long a night takes, with what is here or before anything is bought."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchinfer.cli.local import HOME
from batchinfer.cli.output import JSON, emit, remark, say
from batchinfer.cli.remote import open_client
from batchinfer.client.progress import make_plain
from batchinfer.domain.fields import decode_json, read_object
from batchinfer.domain.model_shapes import read_shape
from batchinfer.domain.nights import DEVICES, Basis, Measured, Night, plan_night
from batchinfer.errors import BatchinferError, SettingsError

if TYPE_CHECKING:
    from batchinfer.domain.model_shapes import ModelShape
    from batchinfer.domain.nights import Plan

#: Fewer answers say nothing.
LEAST_PAGES = 20


@click.group()
def plan() -> None:
    """What a task needs, before it is done."""


@plan.command()
@click.option("--pages", type=click.IntRange(1, 10**10), required=True, help="Pages of the night.")
@click.option(
    "--model", metavar="NAME|DIR", required=True, help="A model of the service, or a folder with a config.json."
)
@click.option(
    "--devices", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Devices that read them."
)
@click.option("--device-kind", type=click.Choice(sorted(DEVICES)), help="For the arithmetic: which card.")
@click.option("--hours", type=click.FloatRange(0.01, 720), default=8.0, show_default=True, help="Length of the night.")
@click.option("--output-tokens", type=click.IntRange(1, 1_000_000), help="Tokens of an answer.")
@click.option("--pages-per-second", type=click.FloatRange(1e-6), help="What one device reads, where you know it.")
@click.option("--url", help="Address of the service that has measured the model.")
@HOME
@JSON
def night(
    pages: int,
    model: str,
    devices: int,
    device_kind: str | None,
    hours: float,
    output_tokens: int | None,
    pages_per_second: float | None,
    url: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Pages a second, cores, disk and the time it takes. Each number says where it comes from."""
    kind = DEVICES[device_kind] if device_kind else None
    asked = Night(pages, devices, hours, output_tokens, kind, pages_per_second)
    shape = _read_config(model)
    measured = None if shape is not None and url is None else _ask_service(model, url, home)
    found = plan_night(asked, shape, measured)
    if as_json:
        emit(asdict(found))
        return
    _show(asked, found)
    if found.hours_needed is None:
        remark(
            "Nothing says how fast a device reads: name a service that has read pages with this model, a folder with "
            "the model's config.json and --device-kind, or --pages-per-second."
        )


def _read_config(model: str) -> ModelShape | None:
    path = Path(model).expanduser() / "config.json"
    if not path.is_file():
        return None
    return read_shape(read_object(decode_json(path.read_bytes()), "config.json"))


def _ask_service(model: str, url: str | None, home: Path | None) -> Measured | None:
    """What answers with pictures used in the last 30 days; None where there are too few, or no service."""
    try:
        client = open_client(url, home)
    except SettingsError:
        if url is not None:
            raise
        return None
    with client:
        try:
            total = client.usage.get(group_by=("model",), model=model).total
        except BatchinferError as error:
            if url is not None:
                raise
            remark(f"The service did not say what it measured: {error.message}")
            return None
    if total.images < LEAST_PAGES:
        return None
    share = total.jobs or 1
    return Measured(
        total.images, total.device_seconds / total.images, total.prompt_tokens / share, total.completion_tokens / share
    )


def _show(asked: Night, found: Plan) -> None:
    say(f"{asked.pages:,} pages, {asked.devices:,} device{'s' * (asked.devices > 1)}, {asked.hours:g} hours")
    width = max(len(number.name) for number in found.numbers)
    for number in found.numbers:
        value = f"{_round(number.value):>12} {number.unit:<8}"
        note = f"  {make_plain(number.note, 120)}" if number.note else ""
        mark = "" if number.basis is Basis.GIVEN else f" [{number.basis}]"
        say(f"  {number.name:<{width}} {value}{mark}{note}")
    if found.hours_needed is not None:
        word = "fits" if found.fits else "does not fit"
        say(
            f"It {word}: {_span(found.hours_needed)} of {asked.hours:g} h; {found.devices_needed:,} device(s) would do."
        )


def _round(value: float) -> str:
    if value >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
