"""What the contestants are asked is decided by seeds."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest

from bench import workloads
from bench.scale import SCALES
from bench.workloads import Studio, draw_arrivals, draw_lengths


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path, (64, 96))


def test_ragged_lengths_are_the_same_every_time_and_within_bounds() -> None:
    lengths = draw_lengths(2000)
    assert lengths == draw_lengths(2000)
    assert lengths != draw_lengths(2000, seed=1)
    assert min(lengths) >= 1
    assert max(lengths) == workloads.LONGEST
    assert statistics.mean(lengths) == pytest.approx(workloads.TOKENS, rel=0.1)
    assert statistics.median(lengths) < workloads.TOKENS


def test_a_longer_run_begins_with_the_lengths_of_a_shorter_one() -> None:
    assert draw_lengths(50)[:10] == draw_lengths(10)


def test_arrivals_come_in_order_at_the_rate_asked_for() -> None:
    due = draw_arrivals(4000, rate=50.0)
    assert due == draw_arrivals(4000, rate=50.0)
    assert all(earlier < later for earlier, later in itertools.pairwise(due))
    assert due[-1] == pytest.approx(4000 / 50, rel=0.1)


def test_pictures_are_distinct_and_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Studio(tmp_path / "one", (64, 96)), Studio(tmp_path / "two", (64, 96))
    first = [one.draw(number).sha256 for number in range(8)]
    assert first == [two.draw(number).sha256 for number in range(8)]
    assert len(set(first)) == 8
    later = Studio(tmp_path / "two", (64, 96), first=3)
    assert later.draw(0).sha256 == first[3]


@pytest.mark.parametrize("name", workloads.KINDS)
def test_a_workload_is_the_same_every_time(studio: Studio, name: str) -> None:
    one, two = workloads.KINDS[name](studio, 6), workloads.KINDS[name](studio, 6)
    assert one == two
    assert one.name == name
    assert len({request.id for request in one.requests}) == len({r.images[0].sha256 for r in one.requests}) == 6
    assert one.tokens == sum(request.max_tokens for request in one.requests)


def test_uniform_answers_have_one_length_and_ragged_ones_many(studio: Studio) -> None:
    assert {request.max_tokens for request in workloads.uniform(studio, 12).requests} == {workloads.TOKENS}
    assert len({request.max_tokens for request in workloads.ragged(studio, 12).requests}) > 5


def test_the_shared_prompt_is_one_and_comes_before_the_pictures(studio: Studio) -> None:
    requests = workloads.shared(studio, 4).requests
    systems = [request.messages[0] for request in requests]
    assert all(system == systems[0] and system["role"] == "system" for system in systems)
    assert len(systems[0]["content"][0]["text"]) > 1000


def test_warm_up_shows_nothing_that_a_workload_shows(studio: Studio) -> None:
    warm = workloads.warm_up(studio, 3)
    pictures = {request.images[0].sha256 for request in warm}
    texts = {request.messages[-1]["content"][1]["text"] for request in warm}
    for kind in workloads.KINDS.values():
        for request in kind(studio, 5).requests:
            assert request.images[0].sha256 not in pictures
            assert request.messages[-1]["content"][1]["text"] not in texts


def test_numbers_given_on_the_command_line_replace_those_of_the_size() -> None:
    scale = SCALES["large"]
    assert scale.changed(None, None) == scale
    changed = scale.changed(2, 10)
    assert (changed.repeats, changed.requests, changed.shared, changed.singles) == (2, 10, 10, scale.singles)
    with pytest.raises(ValueError, match="at least 1"):
        scale.changed(0, None)
