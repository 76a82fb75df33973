"""The page that a bench writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.report import figure, number, render, table, write_results

_MACHINE = {
    "date": "2026-01-02T03:04:05+00:00",
    "cpu": "Some Processor",
    "cores": 2,
    "cores_used": 1,
    "memory_gib": 23.5,
    "system": "Linux",
    "load_average": 0.1,
    "threads": 1,
    "python": "3.11",
    "torch": "2.13",
    "transformers": "5.23",
}
_LATENCIES = {f"{what}_p{share}_s": share / 100 for what in ("first_token", "latency") for share in (50, 95, 99)}


def _rate(median: float) -> dict[str, float]:
    return {"median": median, "low": median - 1, "high": median + 1, "runs": 5}


def _results(**parts: Any) -> dict[str, Any]:
    model = {"parameters": 2_500_000, "dtype": "float32"}
    return {"size": "tiny", "machine": _MACHINE, "model": model, "code": "0123456789ab", **parts}


def _whole() -> dict[str, Any]:
    workload = {
        "about": "every answer 32 tokens",
        "requests": 96,
        "rates": {"generate, batch 64": _rate(1000), "ours": _rate(2500)},
        "best_static": "generate, batch 64",
        "ratios": {"generate, batch 64": 1.0, "ours": 2.5},
    }
    return _results(
        contestants={"ours": "our engine"},
        workloads={"uniform": workload},
        arrivals=[{"contestant": "ours", "about": "70 % of ours", "rate": 12.3, "requests": 9, **_LATENCIES}],
        occupancy={"ours": {"share": 0.9456, "requests": 160}},
        memory={
            "contestant": "ours",
            "cache_mib": 16,
            "requests": 10_000,
            "ended": {"answered": 9500, "cancelled": 500},
            "seconds": 100.0,
            "resident_mib": [500.0, 510.0],
            "growth_mib": -1.5,
        },
        answers={"ours": {"of": 9, "equal": 8, "differences": {"r1": {"place": 3, "gap": 1e-6, "tie": True}}}},
        goals=[{"name": "speed", "target": 2.0, "found": 2.5, "least": True, "met": True}],
        sittings=[{"part": "uniform", "date": "2026-01-02T03:04:05+00:00", "load_average": 0.25, "seconds": 12.3}],
    )


@pytest.mark.parametrize(
    ("value", "written"), [(1234.5, "1,234"), (99.99, "100.0"), (12.34, "12.3"), (0.456, "0.46"), (-250.0, "-250")]
)
def test_numbers_have_about_three_figures(value: float, written: str) -> None:
    assert number(value) == written


def test_a_figure_shows_its_range_where_there_is_one() -> None:
    assert figure({"median": 2.0, "low": 1.0, "high": 30.0}) == "2.00 (1.00-30.0)"
    assert figure({"median": 2.0, "low": 2.0, "high": 2.0}) == "2.00"


def test_a_table_has_as_many_cells_in_every_line() -> None:
    lines = table(["name", "a|b", "c"], [["x|y", "1", "2"]]).splitlines()
    assert lines[1] == "| --- | ---: | ---: |"
    assert lines[2] == "| x\\|y | 1 | 2 |"


def test_what_was_not_measured_is_not_on_the_page() -> None:
    page = render(_results())
    assert "##" not in page
    assert "Some Processor" in page
    assert "2.5 million" in page


def test_every_part_is_on_the_page_with_its_figures() -> None:
    page = render(_whole())
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert titles == [
        "uniform",
        "Open arrivals",
        "Slot occupancy under a backlog of ragged requests",
        "Memory over a long run",
        "Equal answers",
        "Goals",
        "When",
    ]
    for line in (
        "| ours | 2,500 (2,499-2,501) | 2.50 |",
        "| ours | 12.3/s: 70 % of ours | 0.500 | 0.950 | 0.990 | 0.500 | 0.950 | 0.990 |",
        "| ours | 0.946 | 160 |",
        "-1.5 MiB from the first fifth",
        "| ours | 8 of 9 | 1 of 1 looked into differ where two scores are as good as equal |",
        "96 requests, every answer 32 tokens; 5 runs of each.",
        "engine code 0123456789ab",
        "| speed | at least 2 | 2.5 | met |",
        "| uniform | 2026-01-02T03:04:05+00:00 | 0.25 | 12 |",
    ):
        assert line in page


def test_the_cells_of_every_table_match_its_head() -> None:
    for block in render(_whole()).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


@pytest.mark.parametrize("size", ["tiny", "large"])
def test_the_page_says_what_the_comparison_does_not_show(size: str) -> None:
    assert "nothing here says how any of these compare on a GPU" in render(_results() | {"size": size})


def test_results_are_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    data, page = write_results(_whole(), tmp_path / "new", "engine-tiny")
    assert json.loads(data.read_text()) == _whole()
    assert page.read_text() == render(_whole())
