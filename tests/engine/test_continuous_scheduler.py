"""Budgets, places and length classes, with numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.scheduler import (
    LengthClass,
    Places,
    PrefillBudget,
    plan_classes,
    split_by_length,
    split_evenly,
)


@dataclass(frozen=True)
class Sized:
    prompt_tokens: int
    pixels: int = 0


def take(budget: PrefillBudget, *items: Sized) -> list[bool]:
    return [budget.try_add(item) for item in items]


def test_a_prefill_is_counted_as_it_is_padded() -> None:
    assert take(PrefillBudget(100, 10**6, 8), Sized(20), Sized(30), Sized(30), Sized(30)) == [True, True, True, False]


def test_the_first_always_fits() -> None:
    budget = PrefillBudget(100, 10, 8)
    assert take(budget, Sized(5000, 10**9), Sized(1)) == [True, False]


def test_pixels_and_rows_are_bounded() -> None:
    assert take(PrefillBudget(10**6, 100, 8), Sized(5, 60), Sized(5, 41), Sized(5, 40)) == [True, False, True]
    assert take(PrefillBudget(10**6, 100, 2), Sized(5), Sized(5), Sized(5)) == [True, True, False]


def test_a_group_is_not_mostly_padding() -> None:
    assert take(PrefillBudget(10**6, 100, 8), Sized(10), Sized(10), Sized(200)) == [True, True, False]


def test_tokens_that_are_copied_are_held_and_not_computed() -> None:
    budget = PrefillBudget(100, 10**6, 8, held=1000)
    assert [budget.try_add(Sized(320), reused=300) for _ in range(4)] == [True, True, True, False]
    assert [PrefillBudget(100, 10**6, 8).try_add(Sized(320), reused=300) for _ in range(2)] == [True, True]
    computing = PrefillBudget(50, 10**6, 8, held=10**6)
    assert [computing.try_add(Sized(320), reused=300) for _ in range(3)] == [True, True, False]


def test_the_shortest_class_that_holds_a_request_takes_it() -> None:
    places = Places([(100, 1), (400, 2)])
    assert [places.find(size) for size in (100, 101, 401)] == [0, 1, None]
    places.take(0)
    assert places.find(50) == 1, "a short one overflows into a long slot"


def test_nobody_overtakes_into_a_slot_that_an_earlier_one_waits_for() -> None:
    places = Places([(100, 1), (400, 0), (900, 0)])
    assert places.find(300) is None
    places = Places([(100, 1), (400, 1)])
    places.hold(300)
    assert (places.find(50), places.find(150)) == (0, None)


def test_all_slots_hold_the_context_where_memory_allows() -> None:
    assert plan_classes(16, 1024, bytes_per_token=10, limit_bytes=16 * 1024 * 10) == (LengthClass(16, 1024),)


def test_long_slots_become_few_where_memory_is_short() -> None:
    classes = plan_classes(16, 8192, bytes_per_token=10, limit_bytes=5 * 8192 * 10)
    assert classes[-1].length == 8192
    assert sum(one.slots for one in classes) > 5
    assert classes[0].slots > classes[-1].slots


def test_the_context_is_cut_only_in_the_end() -> None:
    assert plan_classes(16, 8192, bytes_per_token=10, limit_bytes=8192 * 10)[-1] == LengthClass(1, 8192)
    assert plan_classes(16, 8192, bytes_per_token=10, limit_bytes=1000 * 10) == (LengthClass(1, 1000),)


@given(
    slots=st.integers(1, 300),
    context=st.integers(1, 300_000),
    token=st.integers(0, 200_000),
    limit=st.integers(0, 10**11),
)
def test_classes_stay_within_their_bytes(slots: int, context: int, token: int, limit: int) -> None:
    classes = plan_classes(slots, context, bytes_per_token=token, limit_bytes=limit)
    held = sum(one.slots * one.length for one in classes)
    assert held * max(1, token) <= max(limit, token, 1)
    assert 1 <= sum(one.slots for one in classes) <= slots
    assert all(1 <= one.length <= context for one in classes)


@pytest.mark.parametrize(
    ("count", "most", "runs"),
    [
        (0, 4, []),
        (4, 4, [(0, 4)]),
        (5, 4, [(0, 2), (2, 3)]),
        (9, 3, [(0, 3), (3, 3), (6, 3)]),
        (3, 0, [(0, 1), (1, 1), (2, 1)]),
    ],
)
def test_rows_are_split_evenly(count: int, most: int, runs: list[tuple[int, int]]) -> None:
    assert split_evenly(count, most) == runs


def test_prompts_of_like_length_go_together() -> None:
    assert split_by_length([10, 300, 12, 290], 64) == [[0, 2], [3, 1]]
    assert split_by_length([10, 20, 30], 64) == [[0, 1, 2]], "a forward of its own would cost more than the padding"
    assert split_by_length([], 64) == []


@given(st.lists(st.integers(1, 400), max_size=7), st.integers(0, 300))
def test_no_other_grouping_costs_less(lengths: list[int], overhead: int) -> None:
    def cost(groups: list[list[int]]) -> int:
        return sum(overhead + len(group) * max(lengths[index] for index in group) for group in groups)

    def partitions(items: list[int]) -> list[list[list[int]]]:
        if not items:
            return [[]]
        rest = partitions(items[1:])
        joined = [[*p[:at], [items[0], *p[at]], *p[at + 1 :]] for p in rest for at in range(len(p))]
        return [*joined, *([[items[0]], *p] for p in rest)]

    found = split_by_length(lengths, overhead)
    assert sorted(index for group in found for index in group) == list(range(len(lengths)))
    assert cost(found) == min(cost(one) for one in partitions(list(range(len(lengths)))))
