"""The model card: prose here, numbers from `evaluation.json` and `training.json`.

`python -m workers.models.card DIR` writes `README.md` into the folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from batchinfer.samples import FIELDS, PAGE_SIZE, SCAN_NOISE, SCAN_SKEW_DEGREES
from workers.models.evaluate import EVALUATION
from workers.models.package import TRAINING
from workers.models.train import DECAY_FROM, WARM_UP_STEPS

#: Shares of fields exact that the model was meant to reach.
GOALS = {"clean": 0.95, "noisy": 0.90}

_CARD = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
language: en
---

# docreader

A vision-language model of 6.0 million parameters which really reads the sample pages of this project: small
made-up invoices, receipts, orders and quotes. It has the architecture of Qwen3-VL
(`Qwen3VLForConditionalGeneration`), so the code that serves it is the code that serves the large ones.

**It is a fixture, not an OCR product.** It exists so that the demo, the tests and the documentation can run
from end to end without a download and compare its answers with a known truth.

## What it answers

- `Transcribe.`: the lines of the page from top to bottom.
- `What is the total?` (or type, vendor, number, date, currency): the value as printed; the type in small
  letters.
- `Extract.`: all six as compact JSON, always in this order:
  `{{"type":"…","vendor":"…","number":"…","date":"…","total":"…","currency":"…"}}`

Other questions are outside what it was trained on. One picture per question; system messages are left out by
the chat template.

## Measured

Pages that training never saw: vendors and items from lists of words that training cannot draw, whole layouts
kept back (their parts occur in training), seeds of their own. A field counts only if it is equal character by
character. *Clean* pages are as drawn; *noisy* pages have grey noise of standard deviation {noise:g}, a light
blur on every second one, and are turned by up to {skew:g} degrees. Decoding is greedy, in 32 bits.

{table}

{verdict}

To measure again: `python -m workers.models.evaluate DIR --pages {pages}`, and once more with `--noisy`. The
same numbers for programs, also in `{evaluation_file}`:

```json
{block}
```

## How it was made

- **Shape.** Text: 4 layers, hidden size 192, 4 heads of 48. Vision: 4 layers, hidden size 192, patches of 16
  pixels, 2 x 2 merged, so one visual token sees 32 x 32 pixels. One token a character: printable ASCII and
  the newline. Weights in half precision.
- **Data.** Pages of {size} x {size} pixels, drawn on the fly with the font bundled with Pillow at 20 to 22
  pixels (the earlier runs: 17 to 22, with somewhat longer numbers, amounts and vendors). Vendors and items
  are put together from syllables or single letters, numbers, dates and amounts are drawn at random: nothing
  can be guessed, it has to be read. {looked} % of the pictures of the last run were full pages of unrelated
  strings, shown to the vision half alone; of the others, one in eight held such strings too. About half of
  the pages are noisy, half are turned by up to 2 degrees, some are blurred or went through JPEG.
- **Loss.** Next token of the answer, plus two helpers that are dropped afterwards: each visual token names
  the character in each of its slots of 4 x 16 pixels, and each answer token says where the next character is
  printed.
- **Optimiser.** AdamW, weight decay 0.05, betas 0.9 and 0.98, gradients clipped at 1, bfloat16 autocast. The
  last run: rate {rate:g}, batches of {batch}, {warm_up} steps of warm-up, linear decay over the last {decay} %
  of the time.
- **Runs.** {runs}

To train again: `python -m workers.models.train --help`.

## Limits

- One font family, Latin letters, digits and ASCII signs. Accents are taken off user text, and any other
  character becomes `?`.
- Pages of about {size} x {size} pixels with letters of 20 to 22 pixels and at most eight lines. Larger
  pictures are scaled to that area by the image processor, and small print is then too small to read.
- Scans beyond 2 degrees of skew, photographs, handwriting and tables with more than two columns were never
  shown to it.
- Narrow letters side by side (`rn` and `m`, `l` and `i`) are often misread, so long words fail more often than
  numbers: compare the row of vendors above.
- It makes up an answer when a page lacks the field that is asked for.
"""


def card(folder: Path) -> str:
    """The card for the numbers that lie in a folder."""
    measured = json.loads((folder / EVALUATION).read_text())
    training = json.loads((folder / TRAINING).read_text())
    return _CARD.format(
        noise=SCAN_NOISE,
        skew=SCAN_SKEW_DEGREES,
        table=_table(measured),
        verdict=_verdict(measured),
        pages=measured["clean"]["pages"],
        evaluation_file=EVALUATION,
        block=json.dumps(_block(measured), indent=2),
        size=PAGE_SIZE,
        looked=round(100 * (1 - training["asked"] / training["pictures"])),
        rate=training["peak_rate"],
        batch=training["batch_size"],
        warm_up=WARM_UP_STEPS,
        decay=round(100 * (1 - DECAY_FROM)),
        runs=_runs(training),
    )


def _table(measured: dict[str, Any]) -> str:
    clean, noisy = measured["clean"], measured["noisy"]
    rows = [
        "| | clean, `Extract.` | clean, question | noisy, `Extract.` | noisy, question |",
        "|---|---|---|---|---|",
    ]
    for name in FIELDS:
        cells = [score[kind][name] for score in (clean, noisy) for kind in ("per_field", "field_questions")]
        rows.append(f"| {name} | " + " | ".join(f"{100 * cell:.1f} %" for cell in cells) + " |")
    means = [score[kind] for score in (clean, noisy) for kind in ("fields_exact", "field_questions_exact")]
    rows.append("| **mean** | " + " | ".join(f"**{100 * mean:.1f} %**" for mean in means) + " |")
    rows.append(f"| all six right | {100 * clean['all_six']:.1f} % | | {100 * noisy['all_six']:.1f} % | |")
    errors = [100 * score["character_error_rate"] for score in (clean, noisy)]
    rows.append(f"| character error rate, `Transcribe.` | {errors[0]:.2f} % | | {errors[1]:.2f} % | |")
    rows.append(f"| pages | {clean['pages']} | | {noisy['pages']} | |")
    return "\n".join(rows)


def _verdict(measured: dict[str, Any]) -> str:
    parts = []
    for condition, goal in GOALS.items():
        reached = measured[condition]["fields_exact"]
        word = "reached" if reached >= goal else "**missed**"
        parts.append(f"- {100 * goal:.0f} % of fields exact on {condition} pages: {word} ({100 * reached:.1f} %)")
    return "Goals:\n\n" + "\n".join(parts)


def _block(measured: dict[str, Any]) -> dict[str, Any]:
    conditions = list(GOALS)
    return {
        "fields_exact": {name: measured[name]["fields_exact"] for name in conditions},
        "per_field": {name: measured[name]["per_field"] for name in conditions},
        "character_error_rate": {name: measured[name]["character_error_rate"] for name in conditions},
        "pages": {name: measured[name]["pages"] for name in conditions},
    }


def _runs(training: dict[str, Any]) -> str:
    lines = [f"  {number}. {_run(run)}" for number, run in enumerate([*training["earlier"], training], start=1)]
    if not training["earlier"]:
        return f"From nothing: {_run(training)}."
    return "One after the other, each from the weights of the one before:\n" + "\n".join(lines)


def _run(run: dict[str, Any]) -> str:
    if "note" in run:
        return f"{run['note']} ({run['pictures']:,} pictures)"
    end = "" if run["finished"] else ", cut short"
    return (
        f"seed {run['seed']}: {run['pictures']:,} pictures in {run['elapsed_minutes']:.0f} minutes, "
        f"batches of {run['batch_size']}, rate {run['peak_rate']:g}{end}"
    )


def main() -> None:
    """Parse the command line and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    (args.folder / "README.md").write_text(card(args.folder))


if __name__ == "__main__":
    main()
