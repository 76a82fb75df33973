from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import workers.models
from batchinfer.samples import FIELDS, draw_page
from workers.models import alphabet
from workers.models.card import card
from workers.models.evaluate import EVALUATION, held_out_pages
from workers.models.practice import EXTRACT, TRANSCRIBE, field_question
from workers.models.reading import Reader
from workers.models.scoring import parse_fields

FOLDER = Path(workers.models.__file__).parent / "docreader"
#: A few pages may fall below the card by chance, by this much at most.
MARGIN = 0.10
#: Seeds that the card's own evaluation did not use.
FIRST_SEED = 900


@pytest.fixture(scope="module")
def reader():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Reader(FOLDER)
    torch.set_num_threads(before)


def test_the_folder_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) <= 16 * 2**20
    assert files["model.safetensors"] <= 14 * 2**20
    assert set(files) >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "evaluation.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("condition", ["clean", "noisy"])
def test_it_reads_held_out_pages_about_as_well_as_the_card_says(reader, condition):
    pages = held_out_pages(16, noisy=condition == "noisy", first_seed=FIRST_SEED)
    answers = reader.answers([page.image for page in pages], [EXTRACT] * len(pages))
    read = [parse_fields(answer) for answer in answers]
    right = [found.get(name) == page.fields[name] for page, found in zip(pages, read, strict=True) for name in FIELDS]
    said = json.loads((FOLDER / EVALUATION).read_text())[condition]["fields_exact"]
    assert sum(right) / len(right) >= said - MARGIN


def test_it_answers_the_other_two_kinds_of_question(reader):
    page = draw_page(FIRST_SEED)
    transcript, kind = reader.answers([page.image] * 2, [TRANSCRIBE, field_question("type")])
    assert len(transcript.splitlines()) == len(page.text.splitlines())
    assert kind == page.fields["type"]


def test_an_answer_does_not_depend_on_its_batch(reader):
    pages = held_out_pages(3, noisy=False, first_seed=FIRST_SEED)
    questions = [TRANSCRIBE, EXTRACT, field_question("date")]
    together = reader.answers([page.image for page in pages], questions)
    alone = [reader.answers([page.image], [question])[0] for page, question in zip(pages, questions, strict=True)]
    assert together == alone


def test_the_card_was_written_from_the_numbers_beside_it():
    assert (FOLDER / "README.md").read_text() == card(FOLDER)


def test_the_tokenizer_gives_one_known_id_a_character(reader):
    tokenizer = reader.processor.tokenizer
    ids = tokenizer.encode(alphabet.CHARACTERS)
    assert ids == alphabet.encode(alphabet.CHARACTERS)
    assert tokenizer.decode(ids) == alphabet.CHARACTERS == alphabet.decode([*ids, alphabet.END])


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("Zürich", "Zurich"),
        ("東京 5 €", "?? 5 ?"),
        ("a\tb\r\nc", "a b\nc"),
        ("😀", "?"),
        ("\u0000\ud7ff", "??"),
        ("", ""),
    ],
)
def test_any_text_becomes_known_characters(reader, text, known):
    tokenizer = reader.processor.tokenizer
    ids = tokenizer.encode(text)
    assert all(alphabet.FIRST_CHARACTER <= token < alphabet.VIDEO for token in ids)
    assert tokenizer.decode(ids) == known


def test_several_pictures_are_bracketed_one_by_one(reader):
    content = [{"type": "image"}, {"type": "text", "text": "Extract."}, {"type": "image"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    text = reader.processor.apply_chat_template(messages)
    bracketed = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == f"<|begin|>{bracketed}{bracketed}Extract.\n"


@pytest.mark.parametrize(("size", "cells"), [((256, 256), 64), ((255, 257), 64), ((1240, 1754), 54), ((100, 40), 60)])
def test_other_sizes_are_scaled_to_about_the_trained_area(reader, size, cells):
    image = draw_page(1).image.resize(size)
    inputs = reader.prepare([image], [EXTRACT])
    assert int(inputs["image_grid_thw"].prod()) // 4 == cells
