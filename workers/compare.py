"""Two models, or one in two forms, side by side on golden prompts, so that the choice is made on figures.

    python -m workers.compare A B --golden FILE [--json] [--slots 8] [--threads 0] [--device auto]

A and B are folders, each with `:dtype` or `:dtype:quantisation` behind it where wanted. Each is asked in a process of
its own, one after the other. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchinfer.errors import BatchinferError
from batchinfer.settings import load_settings
from workers.engine.quantising import KINDS
from workers.examine import read_prompts

DTYPES = ("auto", "float32", "bfloat16", "float16")
#: Rows of the table: what people read, key of the sheet, and how it is written.
_ROWS = (
    ("right answers", "accuracy", "{:.1%}"),
    ("tokens a second", "tokens_per_s", "{:,.1f}"),
    ("pages a second", "pages_per_s", "{:,.2f}"),
    ("resident memory, MiB", "resident_mib", "{:,}"),
    ("  at most, MiB", "peak_resident_mib", "{:,}"),
    ("memory of the GPU, MiB", "device_mib", "{:,}"),
    ("engine", "engine", "{}"),
    ("dtype", "dtype", "{}"),
    ("quantisation", "quantisation", "{}"),
    ("device", "device", "{}"),
)


class CompareError(Exception):
    """The models cannot be compared, and what to do about it."""


@dataclass(frozen=True)
class Spec:
    """A model and the form in which it is loaded."""

    folder: Path
    dtype: str = "auto"
    quantisation: str = "none"

    @property
    def label(self) -> str:
        """What people call it."""
        form = [part for part in (self.dtype, self.quantisation) if part not in ("auto", "none")]
        return ":".join([self.folder.resolve().name, *form])


def parse_spec(text: str) -> Spec:
    """`DIR`, `DIR:dtype` or `DIR:dtype:quantisation`. Raises CompareError.

    A folder's own name may have colons: only known words behind one are read as a form.
    """
    folder, dtype, quantisation = text, "auto", "none"
    head, _, last = folder.rpartition(":")
    if head and last in KINDS:
        folder, quantisation = head, last
        head, _, last = folder.rpartition(":")
    if head and last in DTYPES:
        folder, dtype = head, last
    if not Path(folder).is_dir():
        raise CompareError(
            f"There is no folder {folder}; say DIR, DIR:dtype or DIR:dtype:quantisation, with dtype "
            f"{', '.join(DTYPES)} and quantisation {', '.join(KINDS)}."
        )
    return Spec(Path(folder), dtype, quantisation)


def compare(specs: Sequence[Spec], golden: Path, extra: Sequence[str] = ()) -> dict[str, Any]:
    """Both sheets, their agreement and where they differ. Raises CompareError."""
    try:
        names = [prompt.name for prompt in read_prompts(golden, load_settings())]
    except BatchinferError as error:
        raise CompareError(error.message) from None
    except OSError as error:
        raise CompareError(f"{golden} cannot be read: {error.strerror}.") from None
    a, b = (_examine(spec, golden, extra) for spec in specs)
    differing = [
        {"prompt": name, "a": one, "b": two, "a_right": left is None, "b_right": right is None}
        for name, one, two, left, right in zip(names, a["answers"], b["answers"], a["faults"], b["faults"], strict=True)
        if one.strip() != two.strip()
    ]
    agreement = round(1 - len(differing) / len(names), 4)
    return {"prompts": len(names), "agreement": agreement, "a": a, "b": b, "differ": differing}


def _examine(spec: Spec, golden: Path, extra: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "workers.examine", str(spec.folder), str(golden), "--dtype", spec.dtype]
    command += ["--quantisation", spec.quantisation, *extra]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    try:
        sheet: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise CompareError(f"{spec.label} ended without an answer (status {done.returncode}).") from None
    if "error" in sheet:
        raise CompareError(f"{spec.label}: {sheet['error']['message']}")
    return {"label": spec.label, **sheet}


def describe(found: dict[str, Any]) -> str:
    """The table for people, and in how many answers the two agree."""
    a, b = found["a"], found["b"]
    rows: list[tuple[str, ...]] = [("", a["label"], b["label"])]
    for name, key, form in _ROWS:
        if a.get(key) is not None or b.get(key) is not None:
            rows.append((name, *("-" if one.get(key) is None else form.format(one[key]) for one in (a, b))))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}".rstrip() for row in rows]
    for one in (a, b):
        faults = [fault for fault in one["faults"] if fault]
        lines += [f"{one['label']}, first fault: {faults[0]}"] if faults else []
    lines.append(f"{found['agreement']:.1%} of {found['prompts']} answers are the same in both.")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 where both were asked, else 1."""
    parser = argparse.ArgumentParser(prog="python -m workers.compare", description="Two models on golden prompts.")
    parser.add_argument("models", nargs=2, metavar="DIR[:dtype[:quantisation]]")
    parser.add_argument("--golden", type=Path, required=True, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    for name in ("--device", "--engine", "--slots", "--threads"):
        parser.add_argument(name)
    given = parser.parse_args(arguments)
    extra = [
        word
        for name in ("device", "engine", "slots", "threads")
        if getattr(given, name) is not None
        for word in (f"--{name}", getattr(given, name))
    ]
    try:
        found = compare([parse_spec(text) for text in given.models], given.golden, extra)
    except CompareError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not given.json:
        sys.stdout.write(describe(found))
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
