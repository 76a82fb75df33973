"""Results that are taken in several sittings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import machine
from bench.sittings import DifferentResultsError, Sitting, digest_code, join_answers, join_runs, open_results


def _fresh(**more: Any) -> dict[str, Any]:
    described = machine.describe_machine(1, 1)
    return {"size": "tiny", "machine": described, "model": {"parameters": 3, "dtype": "float32"}, **more}


def _keep(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results))


def test_the_digest_follows_the_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    first = digest_code(tmp_path)
    assert first == digest_code(tmp_path)
    (tmp_path / "notes.md").write_text("not code")
    assert digest_code(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2\n")
    assert digest_code(tmp_path) != first


def test_results_begin_anew_unless_they_are_added_to(tmp_path: Path) -> None:
    path = tmp_path / "engine-tiny.json"
    _keep(path, {**open_results(path, _fresh(), add=True), "workloads": {"uniform": {}}})
    assert "workloads" not in open_results(path, _fresh(), add=False)
    assert open_results(path, _fresh(), add=True)["workloads"] == {"uniform": {}}


@pytest.mark.parametrize(("key", "value"), [("code", "0" * 12), ("model", {"parameters": 4}), ("size", "large")])
def test_figures_of_something_else_are_not_added_to(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "engine-tiny.json"
    _keep(path, {**open_results(path, _fresh(), add=False), key: value})
    with pytest.raises(DifferentResultsError, match=f"another {key}; run without --add"):
        open_results(path, _fresh(), add=True)


def test_figures_of_another_machine_are_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "engine-tiny.json"
    held = open_results(path, _fresh(), add=False)
    _keep(path, {**held, "machine": {**held["machine"], "cpu": "Another", "cores_used": 99}})
    with pytest.raises(DifferentResultsError, match="another cores_used, cpu"):
        open_results(path, _fresh(), add=True)


def test_runs_and_answers_of_sittings_are_joined() -> None:
    assert join_runs({"a": [1.0]}, {"a": [2.0], "b": [3.0]}) == {"a": [1.0, 2.0], "b": [3.0]}
    tie = {"place": 1, "gap": 0.0, "tie": True}
    one = {"a": {"of": 5, "equal": 4, "differences": {"r1": tie}}}
    two = {"a": {"of": 5, "equal": 4, "differences": {"r2": tie}}, "b": {"of": 1, "equal": 1, "differences": {}}}
    joined = join_answers(one, two)
    assert joined["a"] == {"of": 10, "equal": 8, "differences": {"r1": tie, "r2": tie}}
    assert joined["b"]["of"] == 1
    assert list(join_answers(one, two, most=1)["a"]["differences"]) == ["r1"]
    assert join_answers(one, {}) == one


def test_a_sitting_says_when_and_how_long() -> None:
    entry = Sitting.begin().end("uniform")
    assert entry["part"] == "uniform"
    assert entry["seconds"] >= 0
    assert entry["date"].endswith("+00:00")
