"""Medians, percentiles, ratios and goals of the benches."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from bench.figures import Figure, find_best, percentile, ratios
from bench.goals import judge


def test_a_figure_is_the_median_with_its_range() -> None:
    assert Figure.of([3.0, 1.0, 10.0]) == Figure(3.0, 1.0, 10.0, 3)
    assert Figure.of([4.0, 2.0]).median == 3.0


def test_a_figure_needs_a_run() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        Figure.of([])


def test_percentiles_interpolate_between_the_values_seen() -> None:
    values = [float(value) for value in range(101)]
    assert [percentile(values, share) for share in (1, 50, 95, 99)] == [1.0, 50.0, 95.0, 99.0]
    assert percentile([1.0, 2.0], 50) == 1.5
    assert percentile([5.0, 1.0, 3.0], 50) == statistics.median([5.0, 1.0, 3.0])


def test_no_percentile_is_above_the_greatest_value() -> None:
    assert percentile([0.1, 0.2, 9.0], 99) <= 9.0
    assert percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(("values", "share"), [([], 50), ([1.0, 2.0], 0), ([1.0, 2.0], 100)])
def test_a_percentile_needs_values_and_a_share(values: list[float], share: int) -> None:
    with pytest.raises(ValueError, match="a percentile needs"):
        percentile(values, share)


def test_ratios_are_against_the_best_of_those_named() -> None:
    rates = {name: Figure(rate, rate, rate, 1) for name, rate in {"slow": 100.0, "fast": 200.0, "ours": 500.0}.items()}
    best = find_best(rates, ["slow", "fast", "absent"])
    assert best == "fast"
    assert ratios(rates, best) == {"slow": 0.5, "fast": 1.0, "ours": 2.5}


def test_without_somebody_to_compare_with_there_is_no_ratio() -> None:
    rates = {"ours": Figure(5.0, 5.0, 5.0, 1)}
    assert find_best(rates, ["absent"]) is None
    assert ratios(rates, None) == ratios(rates, "absent") == {}


def _results(**more: Any) -> dict[str, Any]:
    def workload(slots16: float, slots64: float) -> dict[str, Any]:
        return {
            "rates": {"c16": {"median": slots16}, "c64": {"median": slots64}},
            "ratios": {"c16": slots16 / 100, "c64": slots64 / 100},
        }

    return {"size": "tiny", "workloads": {"uniform": workload(110, 200), "ragged": workload(150, 160)}, **more}


def _judge(**more: Any) -> dict[str, dict[str, Any]]:
    return {goal["name"]: goal for goal in judge(_results(**more), ["c16", "c64"])}


def test_goals_take_the_better_of_ours_for_ratios_and_the_same_one_for_evenness() -> None:
    goals = _judge()
    assert goals["ragged, times the best static generate"]["found"] == 1.6
    assert goals["ragged, times the best static generate"]["met"] is False
    assert goals["uniform, times the best static generate"]["met"] is True
    assert goals["ragged, as a share of uniform"]["found"] == 160 / 200


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert _judge()["mean slot occupancy under backlog"]["met"] is None
    short = {"requests": 100, "growth_mib": 500.0, "resident_mib": [100.0]}
    assert _judge(memory=short)["memory growth over 10,000 requests"]["met"] is None


def test_the_least_occupancy_and_the_growth_of_a_long_run_are_judged() -> None:
    long = {"requests": 10_000, "growth_mib": 30.0, "resident_mib": [400.0, 500.0]}
    goals = _judge(occupancy={"c16": {"share": 0.97}, "c64": {"share": 0.90}}, memory=long)
    assert (
        goals["mean slot occupancy under backlog"] | {"met": False, "found": 0.90}
        == goals["mean slot occupancy under backlog"]
    )
    assert goals["memory growth over 10,000 requests"]["found"] == pytest.approx(0.06)
    assert goals["memory growth over 10,000 requests"]["met"] is False


def test_a_difference_at_a_tie_is_none_that_counts() -> None:
    def answers(*ties: bool) -> dict[str, Any]:
        return {"c16": {"differences": {str(n): {"tie": tie} for n, tie in enumerate(ties)}}}

    name = "answers that differ other than at a tie"
    assert _judge(answers=answers(True))[name]["met"] is True
    assert _judge(answers=answers(True, False))[name]["found"] == 1


def test_a_larger_model_has_no_goal_against_generate() -> None:
    names = [goal["name"] for goal in judge(_results() | {"size": "large"}, ["c16", "c64"])]
    assert not any("times the best" in name for name in names)
    assert "ragged, as a share of uniform" in names
