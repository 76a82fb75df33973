"""A shared beginning is computed once, and two pictures never pass for one another."""

from __future__ import annotations

import importlib
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from workers.engine.engine import TransformersEngine
from workers.engine.features import Budgets, Features
from workers.engine.prefix import PrefixStore
from workers.engine.prepared import BLOCK_TOKENS, Prepared
from workers.engine.protocol import Request
from workers.engine.scheduler import LengthClass
from workers.engine.verify import verify_model

sys.path.insert(0, str(Path(__file__).parent))
families: Any = importlib.import_module("families")

PATIENCE_S = 60.0
COMMON = list(range(20, 120))


def prepare(name: str, ids: list[int], images: tuple[str, ...] = (), before: int = 2) -> Prepared:
    loaded = families.load_family(name)
    request = families.new_request("x", ids, images, before=before, max_tokens=4)
    item: Prepared = loaded.processing.prepare(request, loaded.processing.render(request), 0.0)
    return item


def test_keys_are_the_same_up_to_the_first_difference() -> None:
    one, other = prepare("llava", [*COMMON, 1]), prepare("llava", [*COMMON[:70], 2, *COMMON[71:], 1])
    assert len(one.block_keys) == 100 // BLOCK_TOKENS
    assert one.block_keys[:2] == other.block_keys[:2]
    assert one.block_keys[2] != other.block_keys[2]


def test_another_picture_gives_other_keys() -> None:
    one, same, other = (prepare("llava", COMMON, (image,)) for image in ("cat", "cat", "dog"))
    assert one.prompt_ids == other.prompt_ids, "the tokens alone do not tell the pictures apart"
    assert one.block_keys == same.block_keys
    assert not set(one.block_keys) & set(other.block_keys) - {b""}


def test_pictures_in_another_order_give_other_keys() -> None:
    one, other = prepare("llava", COMMON, ("cat", "dog")), prepare("llava", COMMON, ("dog", "cat"))
    assert not set(one.block_keys) & set(other.block_keys) - {b""}


def test_no_prefix_ends_inside_a_picture_or_between_two() -> None:
    item = prepare("llava", COMMON, ("cat", "dog"), before=30)
    places = [place for place, token in enumerate(item.prompt_ids) if token == families.IMAGE]
    for index, key in enumerate(item.block_keys):
        end = (index + 1) * BLOCK_TOKENS
        assert bool(key) == (end <= places[0] or end > places[-1])


def test_one_token_is_left_to_be_computed() -> None:
    assert len(prepare("llava", COMMON[:64]).block_keys) == 1


def fill(tokens: int, rows: int = 1) -> DynamicCache:
    cache = DynamicCache()
    states = torch.arange(rows * tokens, dtype=torch.float32).reshape(rows, 1, tokens, 1)
    cache.update(states, -states, 0)
    return cache


def test_a_beginning_is_kept_when_it_comes_a_second_time() -> None:
    store, keys = PrefixStore(10**6), [b"a", b"b", b"c"]
    store.learn(keys, fill(100), 0, 4)
    assert store.find(keys) is None
    store.learn([b"a", b"b", b"z"], fill(100), 0, 4)
    found = store.find([b"a", b"b", b"y"])
    assert found is not None
    assert found.tokens == 2 * BLOCK_TOKENS
    assert found.layers[0][0].flatten().tolist() == list(range(4, 4 + found.tokens))


def test_a_longer_beginning_is_learnt_from_a_row_that_reused_a_shorter_one() -> None:
    store, keys = PrefixStore(10**6), [b"a", b"b", b"c"]
    store.learn(keys, fill(96), 0, 0)
    # 32 tokens reused, 8 columns of padding, the rest.
    store.learn(keys, fill(104), 0, 40, front=32)
    found = store.find(keys)
    assert found is not None
    assert found.layers[0][0].flatten().tolist() == [*range(32), *range(40, 104)]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3)), max_size=60))
def test_the_store_stays_within_its_bytes(learnt: list[tuple[int, int]]) -> None:
    bytes_each = 2 * BLOCK_TOKENS * 4
    store = PrefixStore(4 * bytes_each)
    for name, blocks in learnt:
        store.learn([f"{name}.{block}".encode() for block in range(blocks)], fill(100), 0, 0)
    held = sum(prefix.nbytes for prefix in store._kept.values())
    assert held == store._held <= 4 * bytes_each
    assert store.forget() == (held > 0)
    assert not store.forget()


def test_what_others_wait_for_is_kept_at_once_and_asked_for_once() -> None:
    store = PrefixStore(10**6)
    assert store.try_await(b"b")
    assert not store.try_await(b"b"), "a beginning that came to nothing is not waited for again"
    store.learn([b"a", b"b", b"c"], fill(100), 0, 0)
    found = store.find([b"a", b"b", b"y"])
    assert found is not None
    assert found.tokens == 2 * BLOCK_TOKENS
    store.forget()
    assert store.try_await(b"b"), "it was dropped since"


def test_of_many_that_begin_alike_at_once_one_computes_the_beginning() -> None:
    loaded = families.load_family("qwen3_vl")
    requests = [families.new_request(str(number), [*COMMON, 130 + number], max_tokens=4) for number in range(6)]
    expected = [families.generate(loaded, request) for request in requests]
    engine = TransformersEngine(loaded, classes=[LengthClass(8, 256)])
    together = threading.Event()
    # The engine's thread calls this after the first token of an unlike request; till then nobody else is admitted.
    engine.submit(
        families.new_request("first", [150, 151], max_tokens=4), on_token=lambda *_: together.wait(PATIENCE_S)
    )
    handles = [engine.submit(request) for request in requests]
    deadline = time.monotonic() + PATIENCE_S
    while len(engine._ready()) < len(requests) and time.monotonic() < deadline:
        time.sleep(0.01)
    together.set()
    answers = [handle.result(PATIENCE_S) for handle in handles]
    engine.close()
    assert [list(done.token_ids) for done in answers] == expected
    assert sorted(done.usage.cached_tokens for done in answers) == [0] + [96] * 5


def test_a_beginning_that_cannot_be_kept_holds_nobody_up() -> None:
    loaded = families.load_family("qwen3_vl")
    requests = [families.new_request(str(number), [*COMMON, 130 + number], max_tokens=4) for number in range(6)]
    engine = TransformersEngine(loaded, classes=[LengthClass(8, 256)], budgets=Budgets(prefix_cache_bytes=64))
    answers = [engine.submit(request) for request in requests]
    assert all(handle.result(PATIENCE_S).finish != "error" for handle in answers)
    engine.close()
    assert engine.prefixes.hits == 0


def ask(engine: TransformersEngine, requests: list[Request]) -> list[Any]:
    return [engine.submit(request).result(PATIENCE_S) for request in requests]


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_next", "llava"])
def test_the_same_text_with_another_picture_is_answered_for_that_picture(name: str) -> None:
    loaded = families.load_family(name)
    requests = [
        families.new_request(f"{number}", COMMON, (image,), before=before, max_tokens=8)
        for before in (2, 40)
        for number, image in enumerate(["cat", "cat", "dog", "cat", "dog", "cow", "dog"], start=10 * before)
    ]
    expected = [families.generate(loaded, request) for request in requests]
    engine = TransformersEngine(loaded, classes=[LengthClass(2, 512)])
    answers = ask(engine, requests)
    engine.close()
    assert [list(done.token_ids) for done in answers] == expected
    assert len({tuple(tokens) for tokens in expected}) == 6, "the pictures matter"
    cached = [done.usage.cached_tokens for done in answers]
    # Pictures near the front: a hit needs the picture to have come twice before. Behind 40 tokens a block is shared.
    assert [count > 0 for count in cached[:7]] == [False, False, False, True, False, False, True]
    assert [count > 0 for count in cached[7:]] == [False, False, False, True, True, True, True]


def test_reuse_where_prompts_attend_both_ways_is_wrong_and_the_self_test_finds_it() -> None:
    loaded, dice = families.load_family("paligemma"), random.Random(4)
    requests = [
        families.new_request(str(number), [*COMMON, *dice.sample(range(130, 300), 5)], ("cat",), before=0, max_tokens=8)
        for number in range(6)
    ]
    expected = [families.generate(loaded, request) for request in requests]
    engine = TransformersEngine(loaded, classes=[LengthClass(2, 512)], features=Features())
    wrong = [list(done.token_ids) for done in ask(engine, requests)]
    engine.close()
    assert engine.prefixes.hits > 0
    assert wrong != expected
    items = [loaded.processing.prepare(request, loaded.processing.render(request), 0.0) for request in requests]
    verdict = verify_model(loaded, items)
    assert verdict.engine == "transformers"
    assert not verdict.features["prefix_reuse"]
    assert "answers" in verdict.reasons["prefix_reuse"]
    assert not verdict.features["chunked_prefill"], "in pieces the beginning would not see the end either"
    assert verdict.exact == verdict.of == 6


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["", "cat", "dog"]), st.integers(0, 40)), max_size=12))
def test_any_mix_of_beginnings_is_exact(asked: list[tuple[int, str, int]]) -> None:
    loaded = families.load_family("qwen3_vl")
    requests = [
        families.new_request(
            str(number), [*COMMON[:shared], 200 + shared], (image,) if image else (), before=before, max_tokens=3
        )
        for number, (shared, image, before) in enumerate(asked)
    ]
    engine = TransformersEngine(loaded, classes=[LengthClass(3, 512)])
    handles = [engine.submit(request) for request in requests]
    answers = [list(handle.result(PATIENCE_S).token_ids) for handle in handles]
    engine.close()
    assert answers == [families.generate(loaded, request) for request in requests]
