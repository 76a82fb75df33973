"""A long prompt goes in pieces, with steps of the others between them, and its answer is what it is in one piece."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.chunks import cut_features, find_end
from workers.engine.engine import TransformersEngine
from workers.engine.features import Budgets, Features
from workers.engine.protocol import Request, Sampling
from workers.engine.scheduler import LengthClass

sys.path.insert(0, str(Path(__file__).parent))
families: Any = importlib.import_module("families")

PATIENCE_S = 120.0
PIECE = 16
#: Attention that goes both ways, in a picture or in the whole prompt, makes pieces wrong; the self-test finds that
#: (test_verify.py, test_prefix.py).
BOTH_WAYS = {"gemma3", "paligemma"}
CLASSES = (LengthClass(2, 200), LengthClass(2, families.CONTEXT))


@given(st.lists(st.sampled_from([1, 2, 9]), min_size=1, max_size=40), st.data())
def test_a_piece_never_ends_inside_a_picture(ids: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(ids) - 1).filter(lambda place: place == 0 or ids[place - 1] != 9))
    tokens = data.draw(st.integers(1, 12))
    end = find_end(ids, frozenset({9}), start, tokens)
    assert start < end <= len(ids)
    assert end == len(ids) or not ids[end - 1] == ids[end] == 9
    assert end <= start + tokens or set(ids[start:end]) == {9}, "longer only where one picture is"


def test_encodings_are_cut_by_tokens() -> None:
    flat = torch.arange(12.0).reshape(6, 2)
    tiles = flat.reshape(3, 2, 2)
    found = cut_features({"type": dict, "pooler_output": [flat[:2], flat[2:]], "deepstack_features": [flat]}, 2, 5)
    assert torch.equal(torch.cat(found["pooler_output"]), flat[2:5])
    assert torch.equal(found["deepstack_features"][0], flat[2:5])
    assert torch.equal(cut_features({"pooler_output": tiles}, 2, 6)["pooler_output"], tiles[1:])
    with pytest.raises(ValueError, match="cannot be cut"):
        cut_features({"pooler_output": tiles}, 1, 4)


def draw_requests(name: str, count: int, seed: int = 4) -> list[Request]:
    """Pictures, texts before and behind them, and often a long common beginning."""
    dice, family = random.Random(seed), families.FAMILIES[name]
    common = [dice.randrange(20, families.VOCABULARY) for _ in range(70)]
    requests = []
    for number in range(count):
        shown = 1 if family.image_first else dice.choice([0, 1, 1, 2, 2])
        images = tuple(f"picture {dice.randrange(5)}" for _ in range(shown))
        ids = [dice.randrange(20, families.VOCABULARY) for _ in range(dice.randrange(5, 60))]
        ids = common + ids if dice.random() < 0.4 else ids
        before = 0 if family.image_first else dice.randrange(40)
        fields = {"before": before, "max_tokens": dice.randrange(2, 7)}
        requests.append(families.new_request(str(number), ids, images, **fields))
    return requests


def open_engine(name: str, *, piece: int = PIECE, **options: Any) -> TransformersEngine:
    loaded, budgets = families.load_family(name), Budgets(chunk_tokens=piece)
    return TransformersEngine(loaded, **{"classes": CLASSES, "budgets": budgets} | options)


@pytest.mark.parametrize("name", sorted(set(families.FAMILIES) - BOTH_WAYS))
def test_a_family_is_exact_in_pieces(name: str) -> None:
    requests = draw_requests(name, 8)
    expected = [families.generate(families.load_family(name), request) for request in requests]
    engine = open_engine(name)
    pieces = count_pieces(engine)
    handles = [engine.submit(request) for request in requests]
    answers = [handle.result(PATIENCE_S) for handle in handles]
    engine.close()
    assert [(list(done.token_ids), done.error) for done in answers] == [(tokens, None) for tokens in expected]
    assert len(pieces) > 2 * len(set(pieces)) > 0


def count_pieces(engine: TransformersEngine) -> list[str]:
    """The id of its request for every piece that runs from now on."""
    pieces, forwards = [], engine._forwards
    run = forwards.prefill_piece

    def counted(*given: Any, **named: Any) -> Any:
        pieces.append(named["request_id"])
        return run(*given, **named)

    forwards.prefill_piece = counted  # type: ignore[method-assign]
    return pieces


class Diary:
    """What the engine does, in order: a piece or prefill of whom, a step of whom. May raise."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, tuple[str, ...]]] = []
        self.rule: Any = lambda _stage, _ids: None

    def __call__(self, stage: str, ids: Sequence[str]) -> None:
        self.entries.append((stage, tuple(ids)))
        if error := self.rule(stage, ids):
            raise error

    def places(self, stage: str, request_id: str) -> list[int]:
        return [at for at, (what, ids) in enumerate(self.entries) if what == stage and request_id in ids]


LONG = families.new_request("long", list(range(20, 220)), max_tokens=4)
SHORT = [families.new_request(f"short {number}", [30 + number] * 6, max_tokens=60) for number in range(2)]


def ask_beside_rows(engine: TransformersEngine, diary: Diary, *requests: Request) -> dict[str, Any]:
    """Answers by id, to requests that come while the short ones are under way."""
    handles = [engine.submit(request) for request in SHORT]
    while not diary.places("decode", "short 0"):
        assert not handles[0].done()
    handles += [engine.submit(request) for request in requests]
    return {handle.id: handle.result(PATIENCE_S) for handle in handles}


def expected(name: str, *requests: Request) -> dict[str, list[int]]:
    return {request.id: families.generate(families.load_family(name), request) for request in requests}


def test_rows_in_flight_step_between_the_pieces_of_a_long_prompt() -> None:
    diary = Diary()
    engine = open_engine("qwen3_vl", faults=diary)
    answers = ask_beside_rows(engine, diary, LONG)
    engine.close()
    assert {name: list(done.token_ids) for name, done in answers.items()} == expected("qwen3_vl", *SHORT, LONG)
    pieces = diary.places("prefill", "long")
    assert len(pieces) == -(-200 // PIECE)
    steps = [at for number in range(2) for at in diary.places("decode", f"short {number}")]
    assert all(any(one < at < other for at in steps) for one, other in itertools.pairwise(pieces))
    done = answers["long"]
    assert done.usage.prompt_tokens == 200
    assert done.timings["prefill"] > 0


def test_a_short_request_is_not_kept_waiting_by_a_long_one() -> None:
    diary = Diary()
    engine = open_engine("qwen3_vl", faults=diary, piece=8)
    late = families.new_request("late", [77] * 5, max_tokens=2)
    answers = ask_beside_rows(engine, diary, LONG, late)
    engine.close()
    assert {name: list(done.token_ids) for name, done in answers.items()} == expected("qwen3_vl", *SHORT, LONG, late)
    assert diary.places("prefill", "late")[0] < diary.places("prefill", "long")[-1]


@pytest.mark.parametrize("way", ["cancel", "deadline", "close"])
def test_a_long_prompt_is_given_up_between_two_pieces(way: str) -> None:
    diary = Diary()
    engine = open_engine("qwen3_vl", faults=diary, piece=8)
    handles = {}

    def rule(stage: str, ids: Sequence[str]) -> None:
        if stage != "prefill" or "long" not in ids or len(diary.places("prefill", "long")) != 3:
            return
        if way == "cancel":
            engine.cancel("long")
        elif way == "deadline":
            # As if its time had come.
            handles["long"].request = dataclasses.replace(LONG, deadline=0.0)
        else:
            engine.close()

    diary.rule = rule
    handles["long"] = engine.submit(LONG)
    done = handles["long"].result(PATIENCE_S)
    if way != "close":
        assert list(engine.submit(SHORT[0]).result(PATIENCE_S).token_ids) == expected("qwen3_vl", SHORT[0])["short 0"]
        assert engine._partial is None
    engine.close()
    assert done.finish == ("expired" if way == "deadline" else "cancelled")
    assert len(diary.places("prefill", "long")) == 3
    assert done.usage.completion_tokens == 0


def test_pieces_shrink_where_memory_is_short() -> None:
    diary, allowed = Diary(), []

    def rule(stage: str, ids: Sequence[str]) -> Exception | None:
        if stage == "prefill" and "long" in ids and not allowed:
            allowed.append(True)
            return torch.OutOfMemoryError("too large")
        return None

    engine = open_engine("qwen3_vl", faults=diary, piece=128)
    diary.rule = rule
    done = engine.submit(LONG).result(PATIENCE_S)
    again = engine.submit(dataclasses.replace(LONG, id="again")).result(PATIENCE_S)
    engine.close()
    truth = expected("qwen3_vl", LONG)["long"]
    assert [list(done.token_ids), list(again.token_ids)] == [truth, truth]
    assert len(diary.places("prefill", "long")) == 1 + -(-200 // 64)
    assert len(diary.places("prefill", "again")) == 2, "they grow again when it has been calm for a prompt"


def test_a_piece_that_fails_fails_its_request_alone() -> None:
    diary = Diary()
    diary.rule = lambda stage, ids: (
        ValueError("bad")
        if stage == "prefill" and len(diary.places("prefill", "long")) == 3 and "long" in ids
        else None
    )
    engine = open_engine("qwen3_vl", faults=diary)
    answers = ask_beside_rows(engine, diary, LONG)
    engine.close()
    assert answers.pop("long").error.code == "generation_failed"
    assert {name: list(done.token_ids) for name, done in answers.items()} == expected("qwen3_vl", *SHORT)


def test_what_fits_only_alone_goes_on_when_it_is_alone() -> None:
    diary, inside = Diary(), set()

    def rule(stage: str, ids: Sequence[str]) -> Exception | None:
        inside.update(ids)
        others = inside - {"long"} if len(diary.places("prefill", "long")) > 2 else set()
        return torch.OutOfMemoryError("not beside") if stage == "prefill" and "long" in ids and others else None

    engine = open_engine("qwen3_vl", faults=diary)
    diary.rule = rule
    handles = [engine.submit(request, on_done=lambda done: inside.discard(done.id)) for request in (*SHORT, LONG)]
    answers = {handle.id: list(handle.result(PATIENCE_S).token_ids) for handle in handles}
    engine.close()
    assert answers == expected("qwen3_vl", *SHORT, LONG)


def test_a_kept_beginning_is_not_computed_again_in_pieces() -> None:
    engine = open_engine("qwen3_vl")
    pieces = count_pieces(engine)
    requests = [families.new_request(str(number), [*range(20, 180), number], max_tokens=3) for number in range(4)]
    answers = [engine.submit(request).result(PATIENCE_S) for request in requests]
    engine.close()
    assert [list(done.token_ids) for done in answers] == list(expected("qwen3_vl", *requests).values())
    assert [done.usage.cached_tokens for done in answers] == [0, 0, 160, 160]
    assert [pieces.count(str(number)) for number in range(4)] == [11, 11, 0, 0]


ACTIONS = st.lists(st.tuples(st.sampled_from(["submit", "submit", "cancel", "wait"]), st.integers(0, 40)), max_size=20)


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(actions=ACTIONS, on=st.tuples(*[st.booleans()] * 3), seed=st.integers(0, 99))
def test_a_seed_gives_the_same_text_whatever_comes_and_goes(
    actions: list[tuple[str, int]], on: tuple[bool, ...], seed: int
) -> None:
    """Long and short prompts, sampled, cancelled in any order, in pieces or not."""
    features = Features(grouped_prefill=on[0], prefix_reuse=on[1], chunked_prefill=on[2])
    sampling = Sampling(temperature=1.0, top_p=0.95, seed=seed)
    pool = [dataclasses.replace(one, sampling=sampling, max_tokens=5) for one in draw_requests("qwen3_vl", 6, seed=5)]
    alone = TransformersEngine(families.load_family("qwen3_vl"), classes=[LengthClass(1, families.CONTEXT)])
    truth = [alone.submit(request).result(PATIENCE_S).token_ids for request in pool]
    alone.close()
    engine = open_engine("qwen3_vl", features=features)
    handles: list[tuple[int, Any]] = []
    for action, number in actions:
        if action == "submit":
            request = dataclasses.replace(pool[number % len(pool)], id=f"{len(handles)}")
            handles.append((number % len(pool), engine.submit(request)))
        elif handles and action == "cancel":
            engine.cancel(handles[number % len(handles)][1].id)
        elif handles:
            handles[number % len(handles)][1].result(PATIENCE_S)
    ends = [(place, handle.result(PATIENCE_S)) for place, handle in handles]
    engine.close()
    for place, done in ends:
        assert done.finish in {"length", "cancelled"}
        assert done.token_ids == truth[place][: len(done.token_ids)]
        assert done.finish == "cancelled" or done.token_ids == truth[place]
