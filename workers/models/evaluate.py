"""Measure a packaged `docreader` on held-out pages: `python -m workers.models.evaluate DIR [--noisy]`.

Vendors, layouts and seeds of these pages are never drawn in training. The result goes into the folder's
`evaluation.json`, under `clean` or `noisy`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from batchinfer.samples import FIELDS, SCAN_NOISE, SCAN_SKEW_DEGREES, Page, draw_page
from workers.models.practice import EXTRACT, TRANSCRIBE, field_question
from workers.models.reading import Reader
from workers.models.scoring import Score, score

EVALUATION = "evaluation.json"
#: The first of the seeds; the pages are drawn from consecutive ones.
FIRST_SEED = 70_000


def held_out_pages(count: int, *, noisy: bool, first_seed: int = FIRST_SEED) -> list[Page]:
    """The pages of an evaluation."""
    noise, skew = (SCAN_NOISE, SCAN_SKEW_DEGREES) if noisy else (0.0, 0.0)
    seeds = range(first_seed, first_seed + count)
    return [draw_page(seed, split="held_out", noise=noise, skew_degrees=skew) for seed in seeds]


def evaluate(reader: Reader, pages: list[Page]) -> Score:
    """Ask all three tasks about every page."""
    images = [page.image for page in pages]
    asked = {name: reader.answers(images, [field_question(name)] * len(pages)) for name in FIELDS}
    extracted = reader.answers(images, [EXTRACT] * len(pages))
    transcripts = reader.answers(images, [TRANSCRIBE] * len(pages))
    return score(pages, extracted, transcripts, asked)


def record(folder: Path, found: Score, *, noisy: bool) -> None:
    """Put a score into `evaluation.json`, beside the other condition if that is there."""
    path = folder / EVALUATION
    content = json.loads(path.read_text()) if path.exists() else {}
    content["noisy" if noisy else "clean"] = asdict(found) | {
        "split": "held_out",
        "first_seed": FIRST_SEED,
        "noise": SCAN_NOISE if noisy else 0.0,
        "skew_degrees": SCAN_SKEW_DEGREES if noisy else 0.0,
    }
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def table(found: Score) -> str:
    """The score for people."""
    rows = [f"{'field':10s} {'Extract.':>9s} {'question':>9s}"]
    rows += [f"{name:10s} {found.per_field[name]:9.3f} {found.field_questions[name]:9.3f}" for name in FIELDS]
    rows.append(f"{'mean':10s} {found.fields_exact:9.3f} {found.field_questions_exact:9.3f}")
    rows.append(f"all six right {found.all_six:.3f}, character error rate {found.character_error_rate:.4f}")
    return "\n".join(rows)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--noisy", action="store_true", help="pages as from a scanner: noise, blur, slight skew")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pages = held_out_pages(args.pages, noisy=args.noisy)
    began = time.monotonic()
    found = evaluate(Reader(args.folder), pages)
    seconds = time.monotonic() - began
    record(args.folder, found, noisy=args.noisy)
    shown = json.dumps(asdict(found)) if args.json else f"{table(found)}\n{len(pages)} pages, {seconds:.0f} s"
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    main()
