from __future__ import annotations

import pytest

from batchinfer.samples import FIELDS, PAGE_SIZE, draw_page
from batchinfer.samples.layouts import HELD_OUT_LAYOUTS, TRAIN_LAYOUTS
from batchinfer.samples.vocabulary import HELD_OUT_ITEMS, HELD_OUT_VENDOR_WORDS, training_word

SEEDS = range(40)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_seed_draws_the_same_page_every_time(split):
    one = draw_page(3, split=split, noise=6.0, skew_degrees=2.0)
    other = draw_page(3, split=split, noise=6.0, skew_degrees=2.0)
    assert one.image.tobytes() == other.image.tobytes()
    assert (one.fields, one.text, one.glyphs) == (other.fields, other.text, other.glyphs)


def test_seeds_and_splits_differ():
    drawn = {draw_page(seed, split=split).text for seed in SEEDS for split in ("train", "held_out")}
    assert len(drawn) == 2 * len(SEEDS)


def test_noise_and_skew_change_the_picture_but_not_the_truth():
    clean, worn = draw_page(5), draw_page(5, noise=8.0, skew_degrees=1.5)
    assert clean.image.tobytes() != worn.image.tobytes()
    assert (clean.fields, clean.text) == (worn.fields, worn.text)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_truth_is_printed_on_the_page(seed):
    page = draw_page(seed)
    assert page.image.mode == "L"
    assert page.image.size == (PAGE_SIZE, PAGE_SIZE)
    assert tuple(page.fields) == FIELDS
    assert "".join(glyph.char for glyph in page.glyphs) == page.text.replace("\n", "")
    for name, (first, last) in page.spans.items():
        printed = "".join(glyph.char for glyph in page.glyphs[first:last])
        assert printed.lower() == page.fields[name].lower()


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_drawn_outside_the_page(seed):
    page = draw_page(seed, skew_degrees=2.0)
    assert all(0 < glyph.x < PAGE_SIZE and 0 < glyph.y < PAGE_SIZE for glyph in page.glyphs)


def test_glyph_positions_follow_the_ink_of_a_tilted_page():
    page = draw_page(11, skew_degrees=2.0)
    paper = page.image.getpixel((1, PAGE_SIZE // 2))
    inked = [glyph for glyph in page.glyphs if glyph.char.isalnum()]
    for glyph in inked:
        x, y = int(glyph.x), int(glyph.y)
        assert page.image.crop((x - 6, y - 8, x + 7, y + 9)).getextrema()[0] < paper - 60


def test_training_and_held_out_layouts_share_no_combination():
    def combination(layout):
        return (layout.head, layout.number_label, layout.date_label, layout.total_line)

    train = {combination(layout) for layout in TRAIN_LAYOUTS}
    held_out = {combination(layout) for layout in HELD_OUT_LAYOUTS}
    assert train
    assert held_out
    assert not train & held_out
    assert not {layout.name for layout in TRAIN_LAYOUTS} & {layout.name for layout in HELD_OUT_LAYOUTS}


def test_training_never_draws_a_held_out_word():
    import random

    rng = random.Random(0)
    drawn = {training_word(rng).lower() for _ in range(5000)}
    assert not drawn & {word.lower() for word in (*HELD_OUT_VENDOR_WORDS, *HELD_OUT_ITEMS)}


def test_pages_come_from_the_lists_of_their_split():
    train = {draw_page(seed, split="train").layout for seed in range(200)}
    held_out = {draw_page(seed).layout for seed in range(200)}
    assert train <= {layout.name for layout in TRAIN_LAYOUTS}
    assert held_out <= {layout.name for layout in HELD_OUT_LAYOUTS}
    vendors = {word for seed in range(50) for word in draw_page(seed).fields["vendor"].split()}
    assert vendors & set(HELD_OUT_VENDOR_WORDS)
