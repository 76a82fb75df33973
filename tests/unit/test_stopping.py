"""When a run stops itself, held against a count of every page in its order."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.domain.stopping import MAX_GROUPS, add_group, has_to_stop

#: (share, window), groups of pages that ended together: True failed.
SHARES = st.sampled_from([0.0, 0.02, 0.1, 0.2, 0.29, 0.5, 0.9])
GROUPS = st.lists(st.lists(st.booleans(), min_size=1, max_size=40), max_size=60)


def play(groups: list[list[bool]], share: float, pages: int):
    """After each group: the pages so far, what is kept, and whether the run has to stop."""
    rule, recent, seen = {"share": share, "pages": pages}, [], []
    for group in groups:
        recent = add_group(recent, len(group), sum(group), rule, said=True)
        seen += group
        yield seen, recent, has_to_stop(recent, rule, said=True)


def exceeds(pages: list[bool], share: float) -> bool:
    return sum(pages) > Fraction(str(share)) * len(pages)


@given(GROUPS, SHARES, st.integers(1, 500))
def test_it_stops_only_where_a_window_or_more_failed_too_often(groups, share, pages) -> None:
    for seen, _, cause in play(groups, share, pages):
        if cause is not None:
            assert len(seen) >= pages
            assert any(exceeds(seen[-last:], share) for last in range(pages, len(seen) + 1))
            assert (cause["code"], cause["failed"] <= cause["ended"]) == ("too_many_failures", True)


@given(st.lists(st.booleans(), max_size=200), SHARES, st.integers(1, MAX_GROUPS))
def test_page_by_page_every_window_is_seen(pages, share, window) -> None:
    """As long as each page is a group, it stops exactly where the last window failed too often."""
    for seen, _, cause in play([[page] for page in pages], share, window):
        assert (cause is not None) == (len(seen) >= window and exceeds(seen[-window:], share))


@given(GROUPS, SHARES, st.integers(1, 500))
def test_a_window_that_is_worse_by_its_oldest_group_stops_it(groups, share, pages) -> None:
    for seen, recent, cause in play(groups, share, pages):
        if len(seen) >= pages and sum(seen[-pages:]) - recent[0] > Fraction(str(share)) * pages:
            assert cause is not None


@given(GROUPS, st.integers(1, 500))
def test_what_is_kept_is_the_window_and_no_more(groups, pages) -> None:
    for seen, recent, _ in play(groups, 0.2, pages):
        ended = sum(recent[::2])
        assert len(recent) <= 2 * MAX_GROUPS
        assert ended == len(seen) if len(seen) < pages else pages <= ended < pages + recent[0]
        assert sum(recent[1::2]) == sum(seen[len(seen) - ended :])


@pytest.mark.parametrize("size", [1, 2, 7, 64, 256])
def test_a_good_beginning_of_any_length_is_forgotten(size) -> None:
    """Whatever the size of its groups, it stops about when the 101st of 500 pages has failed."""
    share, pages, good, draw = 0.2, 500, 5000, random.Random(1)
    order = [False] * good + [draw.random() < 0.5 for _ in range(1500)]
    groups = [order[at : at + size] for at in range(0, len(order), size)]
    stopped = next(len(seen) for seen, _, cause in play(groups, share, pages) if cause is not None)
    should = next(end for end in range(pages, len(order)) if exceeds(order[end - pages : end], share))
    assert should <= stopped <= should + max(2 * size, 4 * pages // MAX_GROUPS)
    for _, recent, _ in play(groups, share, pages):
        assert max(recent[::2]) <= max(2 * size, 4 * pages // MAX_GROUPS)


def test_the_share_is_that_which_was_written() -> None:
    """29 of 100 are not more than 0.29, though no float says so."""
    rule = {"share": 0.29, "pages": 100}
    assert has_to_stop([100, 29], rule, said=True) is None
    assert has_to_stop([100, 30], rule, said=True) is not None


def test_without_a_word_the_usual_rule_holds_and_null_is_never() -> None:
    assert has_to_stop([500, 101], None, said=False) is not None
    assert has_to_stop([500, 100], None, said=False) is None
    assert has_to_stop([500, 500], None, said=True) is None
    assert add_group([1, 1], 1, 1, None, said=True) == []
