"""The bench of cold starts: its folder is a model, its runs begin cold or say so, its goals are judged on medians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import loading
from bench.big_folder import build_folder
from workers.engine.loader import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("models"), 0.02)


@pytest.mark.long
def test_the_folder_is_a_model_in_shards_of_the_size_asked_for(folder: Path) -> None:
    files = loading.list_weights(folder)
    total = sum(path.stat().st_size for path in files)
    assert len(files) >= 4
    assert 0.8 < total / (0.02 * 2**30) < 1.25
    stamps = [path.stat().st_mtime_ns for path in files]
    assert build_folder(folder.parent, 0.02) == folder
    assert [path.stat().st_mtime_ns for path in files] == stamps
    loaded = load_model(folder, threads=1, dtype="bfloat16")
    assert 2 * sum(parameter.numel() for parameter in loaded.model.parameters()) == pytest.approx(total, rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("name", [loading.BYTES, loading.PARALLEL, loading.OURS])
def test_a_contestant_says_how_it_began(name: str, folder: Path) -> None:
    found = loading.run_alone(name, folder, "bfloat16")
    assert found["seconds"] > 0
    assert "resident_before" in found
    if name == loading.OURS:
        assert found["met_bytes"] > 0
        assert found["phases"]["copy"] > 0


def measured(ours: list[float], resident: float | None = 0.0) -> dict[str, Any]:
    def runs(*seconds: float) -> list[dict[str, Any]]:
        return [{"seconds": one, "resident_before": resident} for one in seconds]

    return {
        "bytes": 2**30,
        "shards": 4,
        "dtypes": ["bfloat16"],
        "runs": {
            loading.BYTES: runs(2.0, 2.2),
            loading.PARALLEL: runs(1.0, 1.1),
            f"{loading.PLAIN}, bfloat16": runs(4.0, 4.0),
            f"{loading.OURS}, bfloat16": runs(*ours),
        },
        "machine": {"load_average": 0.1, "cores": 2, "memory_gib": 8.0, "torch": "2", "transformers": "5"},
    }


@pytest.mark.parametrize(("ours", "met"), [([1.2, 1.3], True), ([2.0, 1.9], False)])
def test_the_goal_is_a_share_of_the_better_reader(ours: list[float], met: bool) -> None:
    found = measured(ours)
    judged = loading.judge(found)
    assert judged["disk"] == loading.PARALLEL
    assert judged["met"] == {"bfloat16": met}
    assert judged["not_cold"] == []
    page = loading.render({**found, "judged": judged})
    assert ("**missed**" in page) is not met
    assert "Every run began" in page


@pytest.mark.parametrize(("resident", "said"), [(0.4, "one reader, run 1: 40%"), (None, "not known")])
def test_a_run_that_began_warm_is_told(resident: float | None, said: str) -> None:
    found = measured([1.2], resident)
    page = loading.render({**found, "judged": loading.judge(found)})
    assert "did not begin cold" in page
    assert said in page
