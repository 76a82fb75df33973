"""What `docreader` practises on: a picture, a question, the answer, and where each of its characters lies."""

from __future__ import annotations

import json
import random
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.samples import FIELDS, PAGE_SIZE, Glyph, Page, degrade, draw_page
from batchinfer.samples.sheet import Sheet, text_width
from batchinfer.samples.vocabulary import COMPANY_FORMS, amount, date, digits, document_number, training_word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

TRANSCRIBE = "Transcribe."
EXTRACT = "Extract."
_RIGHT_EDGE = PAGE_SIZE - 6


@dataclass(frozen=True)
class Example:
    """One picture with one question about it."""

    image: Image.Image
    question: str
    answer: str
    glyphs: tuple[Glyph, ...]
    #: For each character of `answer` its place in `glyphs`, or None if it is not printed as such.
    printed: tuple[int | None, ...]


def field_question(field: str) -> str:
    """The question after one field."""
    return f"What is the {field}?"


def extract_answer(fields: dict[str, str]) -> str:
    """All six fields as compact JSON, in the order of `FIELDS`."""
    return json.dumps({name: fields[name] for name in FIELDS}, separators=(",", ":"))


def examples(seed: int, worker: int, *, lines_share: float) -> Iterator[Example]:
    """An endless stream; `lines_share` of it are pages of unrelated strings."""
    rng = random.Random(f"practice/{seed}/{worker}")
    while True:
        yield _lines_example(rng) if rng.random() < lines_share else _page_example(rng)


def dense_pages(seed: int, worker: int) -> Iterator[Example]:
    """An endless stream of full pages of unrelated strings, to practise seeing alone."""
    rng = random.Random(f"dense/{seed}/{worker}")
    while True:
        yield _lines_example(rng, most_lines=10, going_on=0.9)


def _page_example(rng: random.Random) -> Example:
    noise = rng.uniform(1, 12) if rng.random() < 0.5 else 0.0
    skew = 2.0 if rng.random() < 0.5 else 0.0
    page = draw_page(rng.getrandbits(48), split="train", noise=noise, skew_degrees=skew)
    image = degrade.jpeg_artefacts(page.image, rng.randint(60, 95)) if rng.random() < 0.2 else page.image
    task = rng.random()
    if task < 0.5:
        return _extract(page, image)
    if task < 0.82:
        return transcribe(image, page.text, page.glyphs)
    field = rng.choice(FIELDS)
    first, last = page.spans[field]
    return Example(image, field_question(field), page.fields[field], page.glyphs, tuple(range(first, last)))


def _extract(page: Page, image: Image.Image) -> Example:
    answer = extract_answer(page.fields)
    printed: list[int | None] = [None] * len(answer)
    for field in FIELDS:
        start = answer.index(f'"{field}":"') + len(field) + 4
        first, last = page.spans[field]
        printed[start : start + last - first] = range(first, last)
    return Example(image, EXTRACT, answer, page.glyphs, tuple(printed))


def transcribe(image: Image.Image, text: str, glyphs: tuple[Glyph, ...]) -> Example:
    """The whole text of a picture."""
    places = iter(range(len(glyphs)))
    printed = tuple(None if char == "\n" else next(places) for char in text)
    return Example(image, TRANSCRIBE, text, glyphs, printed)


def _lines_example(rng: random.Random, *, most_lines: int = 7, going_on: float = 0.6) -> Example:
    """Up to `most_lines` lines; after each string another follows with the chance `going_on`, if it fits."""
    sheet, size = Sheet(rng, PAGE_SIZE, PAGE_SIZE), rng.randint(20, 22)
    baseline = 4 + size + rng.uniform(0, 240 / most_lines)
    lines: list[str] = []
    while baseline < PAGE_SIZE - 8 and len(lines) < most_lines:
        x, text = rng.uniform(4, 60), _string(rng)
        while rng.random() < going_on and text_width(text, size) < _RIGHT_EDGE - x:
            text += " " + _string(rng)
        while x + text_width(text, size) > _RIGHT_EDGE:
            text = text[:-1]
        text = text.strip()
        sheet.write(x, baseline, text, size)
        lines.append(text)
        baseline += size + rng.uniform(4, 16)
    if rng.random() < 0.4:
        sheet.tilt(rng.uniform(-2, 2))
    image = degrade.blur(sheet.image, rng.uniform(0.2, 0.6)) if rng.random() < 0.2 else sheet.image
    image = degrade.add_noise(image, rng, rng.uniform(1, 12)) if rng.random() < 0.4 else image
    return transcribe(image, "\n".join(lines), tuple(sheet.glyphs))


def _string(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return digits(rng, rng.randint(1, 9))
    if kind < 0.4:
        return amount(rng)
    if kind < 0.5:
        return date(rng)
    if kind < 0.8:
        return training_word(rng)
    if kind < 0.93:
        return rng.choice(
            (training_word(rng, longest=7).upper(), rng.choice(COMPANY_FORMS), document_number(rng, "train"))
        )
    letters = string.ascii_letters + string.digits + string.punctuation
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 8)))
