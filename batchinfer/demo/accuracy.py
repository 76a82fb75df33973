"""How many fields were read rightly, and how many the model's card promises. Fields are compared exactly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.samples import FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.demo.ledger import PageRow

#: How far, as a share, the demo may fall below the card: two dozen documents are a small sample.
TOLERANCE = 0.05
_BUNDLED = "docreader"


@dataclass(frozen=True)
class Accuracy:
    """Shares between 0 and 1 of the pages whose truth is known. `expected` is None where there is no card."""

    per_field: dict[str, float]
    #: Pages with every field right.
    whole_pages: float
    expected_per_field: dict[str, float] | None

    @property
    def overall(self) -> float:
        """The mean over all fields."""
        return sum(self.per_field.values()) / len(self.per_field)

    @property
    def expected(self) -> float | None:
        """What the card measured on pages of the same kind."""
        found = self.expected_per_field
        return sum(found.values()) / len(found) if found else None

    @property
    def good(self) -> bool:
        """At most `TOLERANCE` under the card; without a card there is nothing to hold it to."""
        return self.expected is None or self.overall >= self.expected - TOLERANCE - 1e-9


def measure(rows: Sequence[PageRow], card: dict[str, Any] | None) -> Accuracy | None:
    """None where no page has a truth. `card` is the model's evaluation.json."""
    known = [row for row in rows if row.truth is not None]
    if not known:
        return None
    wrong = [find_wrong(row) for row in known]
    per_field = {name: sum(name not in fields for fields in wrong) / len(known) for name in FIELDS}
    whole = sum(not fields for fields in wrong) / len(known)
    return Accuracy(per_field, whole, _expect(known, card))


def find_wrong(row: PageRow) -> dict[str, tuple[str, str | None]]:
    """The fields of a page that are wrong: what is true, and what was read (None: nothing)."""
    read = read_fields(row.job)
    truth = row.truth or {}
    return {name: (value, read.get(name)) for name, value in truth.items() if read.get(name) != value}


def read_fields(job: dict[str, Any]) -> dict[str, str]:
    """The fields in a job's answer; none where it is no JSON object."""
    try:
        found = json.loads((job["result"] or {}).get("text", ""))
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def find_card(model: str | None, home: Path) -> dict[str, Any] | None:
    """The `evaluation.json` of the model that `up --model` was given; None where there is none."""
    for folder in _list_folders(model, home):
        try:
            found = json.loads((folder / "evaluation.json").read_text())
        except (OSError, ValueError):
            continue
        return found if isinstance(found, dict) else None
    return None


def _list_folders(model: str | None, home: Path) -> list[Path]:
    # The folder of the data plane is found without importing it.
    spec = find_spec("workers")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    bundled = [place / "models" / _BUNDLED for place in places]
    if model is None or model == _BUNDLED:
        return bundled
    return [Path(model).expanduser().absolute(), home / "models" / model]


def _expect(rows: Sequence[PageRow], card: dict[str, Any] | None) -> dict[str, float] | None:
    """The card's figures for clean and for noisy pages, mixed as these pages are."""
    try:
        clean = card["clean"]["per_field"] if card else None
        noisy = (card.get("noisy") or card["clean"])["per_field"] if card else None
        if not clean or not noisy:
            return None
        share = sum(row.scanned for row in rows) / len(rows)
        return {name: float(clean[name]) * (1 - share) + float(noisy[name]) * share for name in FIELDS}
    except (KeyError, TypeError, ValueError):
        return None
