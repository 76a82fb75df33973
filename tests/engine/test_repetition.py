"""Loops in tokens: found wherever they begin, and tables of a page are none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.repetition import EVERY, MAX_PERIOD, ends_in_loop, find_span, has_to_stop

TOKENS = st.integers(0, 40)


@given(st.lists(TOKENS, max_size=300), st.lists(TOKENS, min_size=1, max_size=MAX_PERIOD), st.data())
def test_a_sequence_that_comes_often_enough_is_a_loop(before: list[int], unit: list[int], data: st.DataObject) -> None:
    span = find_span(len(unit))
    loop = (unit * (span // len(unit) + 2))[: span + data.draw(st.integers(0, len(unit)))]
    assert ends_in_loop([*before, *loop])


@given(st.lists(TOKENS, max_size=300), st.lists(TOKENS, min_size=1, max_size=31))
def test_a_page_of_rows_that_are_alike_is_none(before: list[int], row: list[int]) -> None:
    """A page has some 60 lines."""
    assert not ends_in_loop([*before, -2, *[*row, -1] * 60])


@given(st.lists(TOKENS, max_size=300), st.lists(TOKENS, min_size=2, max_size=30, unique=True))
def test_a_loop_that_was_left_is_none(before: list[int], unit: list[int]) -> None:
    assert not ends_in_loop([*before, *unit * 80, *range(100, 100 + EVERY)])


def test_it_is_looked_for_now_and_then() -> None:
    loop = [1, 2, 3] * 200
    assert [end for end in range(400) if has_to_stop(loop[:end])] == list(range(256, 400, EVERY))


def test_spans_grow_with_the_unit_and_are_bounded() -> None:
    spans = [find_span(period) for period in range(1, MAX_PERIOD + 1)]
    assert spans == sorted(spans)
    assert (spans[0], spans[9], spans[31], spans[-1]) == (256, 640, 2048, 2048)
    assert all(span >= 8 * period for period, span in enumerate(spans, 1))
