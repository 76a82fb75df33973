"""How right a reader is: fields compared exactly, transcripts by character error rate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.samples import FIELDS, Page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Score:
    """Shares between 0 and 1 over one set of pages."""

    pages: int
    #: Mean over the six fields of `Extract.`
    fields_exact: float
    #: `Extract.`, each field on its own.
    per_field: dict[str, float]
    #: Pages with all six fields of `Extract.` right.
    all_six: float
    #: `What is the ...?`, each field on its own, and their mean.
    field_questions: dict[str, float]
    field_questions_exact: float
    #: Edits over characters of the truth, for `Transcribe.`
    character_error_rate: float


def score(
    pages: Sequence[Page],
    extracted: Sequence[str],
    transcripts: Sequence[str],
    asked: Mapping[str, Sequence[str]],
) -> Score:
    """Compare the answers of all three tasks with the truth; `asked` holds the answers field by field."""
    read = [parse_fields(answer) for answer in extracted]
    right = [
        {name: found.get(name) == page.fields[name] for name in FIELDS} for page, found in zip(pages, read, strict=True)
    ]
    per_field = {name: _mean([row[name] for row in right]) for name in FIELDS}
    questions = {
        name: _mean([answer == page.fields[name] for page, answer in zip(pages, answers, strict=True)])
        for name, answers in asked.items()
    }
    edits = sum(edit_distance(page.text, found) for page, found in zip(pages, transcripts, strict=True))
    return Score(
        pages=len(pages),
        fields_exact=_mean(list(per_field.values())),
        per_field=per_field,
        all_six=_mean([all(row.values()) for row in right]),
        field_questions=questions,
        field_questions_exact=_mean(list(questions.values())),
        character_error_rate=round(edits / sum(len(page.text) for page in pages), 4),
    )


def parse_fields(answer: str) -> dict[str, str]:
    """The fields of an `Extract.` answer; an answer that is no JSON object has none."""
    try:
        found = json.loads(answer)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def edit_distance(truth: str, answer: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions, one each."""
    previous = list(range(len(answer) + 1))
    for row, wanted in enumerate(truth, start=1):
        current = [row]
        for column, given in enumerate(answer, start=1):
            swap = previous[column - 1] + (wanted != given)
            current.append(min(swap, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)
