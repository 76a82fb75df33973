from __future__ import annotations

import itertools
import random
import shutil

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from batchinfer.samples import PAGE_SIZE
from workers.models import alphabet, checkpoint
from workers.models.architecture import new_config
from workers.models.batches import collate, only_seen
from workers.models.checkpoint import TrainingState
from workers.models.package import package
from workers.models.practice import dense_pages, examples
from workers.models.reading import Reader
from workers.models.scoring import edit_distance, parse_fields
from workers.models.targets import CELLS, IGNORE, SLOT_COLUMNS, SLOTS, slot_classes
from workers.models.train import DECAY_FROM, looking_share, rate
from workers.models.training_pass import TrainingPass


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Two threads that wait for one another on a busy machine are slower than one.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def practised():
    drawn = list(itertools.islice(examples(3, 0, lines_share=0.3), 8))
    return drawn, collate(drawn)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untrained")
    training = checkpoint.start(None, seed=0)
    checkpoint.save(training, TrainingState(seed=0, minutes=0, batch_size=1, peak_rate=0.0), folder / "checkpoint")
    package(folder / "checkpoint", folder / "packaged")
    return folder


def test_practice_is_the_same_for_the_same_seed():
    one, other = (list(itertools.islice(examples(8, 1, lines_share=0.5), 4)) for _ in range(2))
    assert [(a.question, a.answer, a.image.tobytes()) for a in one] == [
        (b.question, b.answer, b.image.tobytes()) for b in other
    ]


def test_each_printed_character_is_the_one_that_is_answered(practised):
    drawn, _ = practised
    for example in drawn:
        for char, place in zip(example.answer, example.printed, strict=True):
            if place is not None:
                assert example.glyphs[place].char.lower() == char.lower()


def test_slots_spell_the_page(practised):
    drawn, _ = practised
    for example in drawn:
        classes = slot_classes(example)
        assert classes.shape == (CELLS * CELLS, SLOTS)
        on_page = sum(glyph.char != " " for glyph in example.glyphs)
        # Two narrow letters may share a slot once in a while, more do not.
        assert 0.97 * on_page <= int((classes > 0).sum()) <= on_page
        assert SLOTS % SLOT_COLUMNS == 0


def test_labels_are_the_answer_and_the_end(practised):
    drawn, batch = practised
    for example, labels in zip(drawn, batch.labels, strict=True):
        asked = labels[labels != IGNORE].tolist()
        assert asked[-1] == alphabet.END
        assert alphabet.decode(asked) == example.answer


def test_the_training_pass_does_the_sums_of_the_model(practised):
    _, batch = practised
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(new_config()).eval()
    training = TrainingPass(model)
    with torch.no_grad():
        hidden, _ = training.write(batch.ids, *training.see(batch.pages))
        found = model.lm_head(hidden)
        wanted = model(
            input_ids=batch.ids,
            attention_mask=torch.ones_like(batch.ids),
            pixel_values=_pixel_values(batch.pages),
            image_grid_thw=torch.tensor([[1, PAGE_SIZE // 16, PAGE_SIZE // 16]] * len(batch.ids)),
            mm_token_type_ids=(batch.ids == alphabet.IMAGE).int(),
        ).logits
    assert torch.allclose(found, wanted, atol=1e-4)


def test_a_step_lowers_the_loss(practised):
    drawn, _ = practised
    batch = collate(drawn[:2])
    training = checkpoint.start(None, seed=0)
    totals = []
    for _ in range(3):
        total = training(batch).total(1.0, 0.5)
        total.backward()
        totals.append(total.item())
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        with torch.no_grad():
            for weights in training.parameters():
                weights.sub_(0.3 * weights.grad)
                weights.grad = None
    assert totals[-1] < totals[0]


def test_pages_that_are_only_seen_train_the_eyes_alone():
    batch = only_seen(list(itertools.islice(dense_pages(1, 0), 2)))
    training = checkpoint.start(None, seed=0)
    losses = training(batch)
    losses.total(1.0, 0.5).backward()
    assert losses.slots.item() > 0
    assert losses.tokens.item() == losses.pointer.item() == 0
    assert training.model.model.visual.blocks[0].attn.qkv.weight.grad is not None
    assert training.model.model.language_model.layers[0].mlp.up_proj.weight.grad is None


def test_a_checkpoint_can_be_gone_on_from(tmp_path):
    training = checkpoint.start(None, seed=1)
    state = TrainingState(seed=1, minutes=2.0, batch_size=3, peak_rate=0.1, pictures=6)
    checkpoint.save(training, state, tmp_path / "one")
    again = checkpoint.start(tmp_path / "one", seed=2)
    assert torch.equal(again.slot_head.weight, training.slot_head.weight)
    assert [run["pictures"] for run in checkpoint.history(tmp_path / "one")] == [6]
    (tmp_path / "packaged").mkdir()
    shutil.copy(tmp_path / "one" / checkpoint.STATE, tmp_path / "packaged" / "training.json")
    assert [run["pictures"] for run in checkpoint.history(tmp_path / "packaged")] == [6]
    assert checkpoint.history(None) == []


def test_the_loaded_processor_gives_what_training_used(packaged, practised):
    drawn, batch = practised
    reader = Reader(packaged / "packaged")
    inputs = reader.prepare([drawn[0].image], [drawn[0].question])
    ids = inputs["input_ids"][0]
    assert ids.tolist() == alphabet.prompt(drawn[0].question, CELLS * CELLS)
    assert torch.equal(ids, batch.ids[0, : len(ids)])
    assert torch.equal(inputs["pixel_values"], _pixel_values(batch.pages[:1]))


def test_the_rate_rises_stays_and_ends():
    assert rate(1.0, 0, 0.0) < 0.1
    assert rate(1.0, 1000, DECAY_FROM / 2) == 1.0
    assert rate(1.0, 1000, (1 + DECAY_FROM) / 2) == pytest.approx(0.5)
    assert rate(1.0, 1000, 0.9999) == pytest.approx(0.01)
    assert looking_share(0.0) > looking_share(0.6) > looking_share(0.9) > 0


@pytest.mark.parametrize(
    ("truth", "answer", "edits"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3)],
)
def test_edit_distance(truth, answer, edits):
    assert edit_distance(truth, answer) == edits


@pytest.mark.parametrize("answer", ["", "no", "[1]", '{"type":'])
def test_an_answer_that_is_no_object_has_no_fields(answer):
    assert parse_fields(answer) == {}


def test_examples_cover_every_task():
    rng = random.Random(0)
    stream = examples(rng.randint(0, 9), 0, lines_share=0.1)
    questions = {next(stream).question for _ in range(120)}
    assert {"Extract.", "Transcribe."} < questions
    assert any(question.startswith("What is the ") for question in questions)


def _pixel_values(pages):
    """Patches as the image processor orders them, three channels and two frames alike."""
    cells = PAGE_SIZE // 32
    split = pages.float().div(127.5).sub(1).view(len(pages), cells, 2, 16, cells, 2, 16)
    patches = split.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, 1, 1, 16, 16)
    return patches.expand(-1, 3, 2, 16, 16).reshape(len(patches), -1)
