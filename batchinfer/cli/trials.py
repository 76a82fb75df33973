"""`batchinfer models warm` and `compare`: what is done with a model's folder by the data plane, as a process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from batchinfer.cli.local import HOME
from batchinfer.cli.models import find_folder
from batchinfer.domain.launches import DTYPES, QUANTISATIONS


@click.command("warm")
@HOME
@click.argument("model", metavar="NAME|DIR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def warm_model(home: Path | None, model: str, as_json: bool) -> None:
    """Read a model's weights into this machine's page cache, and say how much was there before and how fast it went.

    The next load then finds them in memory. Ends with 1 where they would not fit beside what runs.
    """
    command = ["workers.engine.warming", str(find_folder(home, model))]
    _become([*command, *(["--json"] if as_json else [])])


@click.command("compare")
@HOME
@click.argument("model", nargs=2, metavar="A B")
@click.option(
    "--golden",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Questions and their right answers, one JSON object a line.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--device", default="auto", show_default=True)
@click.option("--slots", type=click.IntRange(1, 4096), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(0), default=0, help="Cores to compute with; 0 is half of them.")
def compare_models(
    home: Path | None, model: tuple[str, str], golden: Path, as_json: bool, device: str, slots: int, threads: int
) -> None:
    """Ask two models the same questions: right answers, agreement, memory and speed side by side.

    A and B are NAME or DIR, with :DTYPE or :DTYPE:QUANTISATION behind it where wanted, as docreader:bfloat16:int8.
    """
    specs = [_find_spec(home, one) for one in model]
    command = ["workers.compare", *specs, "--golden", str(golden), "--device", device]
    command += ["--slots", str(slots), "--threads", str(threads)]
    _become([*command, *(["--json"] if as_json else [])])


def _find_spec(home: Path | None, spec: str) -> str:
    """The folder of a model, with the form that was said behind its name. Raises StartError."""
    name, form = split_spec(spec)
    return ":".join([str(find_folder(home, name)), *form])


def split_spec(spec: str) -> tuple[str, list[str]]:
    """A name and the words of its form: only known words are read as such, as a name may have colons."""
    name, form = spec, list[str]()
    for words in (QUANTISATIONS, DTYPES):
        head, _, last = name.rpartition(":")
        if head and last in words:
            name, form = head, [last, *form]
    return name, form


def _become(command: list[str]) -> None:
    """Go on as a module of the data plane, which this package never imports."""
    os.execv(sys.executable, [sys.executable, "-m", *command])  # noqa: S606 - no shell is wanted
