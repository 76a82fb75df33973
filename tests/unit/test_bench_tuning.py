"""The bench of host tuning: each way is undone, what is not allowed is left out, ratios are of one round."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch

from bench import tuning

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("way", tuning.WAYS[:3], ids=lambda way: way.name)
def test_a_way_is_undone(way: tuning.Way) -> None:
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    try:
        with tuning.in_this_way(way):
            assert torch.get_num_threads() == way.threads
            assert len(os.sched_getaffinity(0)) == (1 if way.core else len(cores))
        assert os.sched_getaffinity(0) == cores
    finally:
        torch.set_num_threads(threads)


def test_what_is_not_allowed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    threads = torch.get_num_threads()
    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(tuning, "LAYERS", 1)
    try:
        assert tuning.main(["--rounds", "2", "--seconds", "0.01", "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)
    page = (tmp_path / "tuning.md").read_text()
    assert "| alone | 1 thread |" in page
    assert "busy processes | 1 thread, bound to a core |" in page
    assert "SCHED_FIFO" not in page
    assert "Nice" not in page


def test_ratios_are_of_one_round() -> None:
    assert tuning.compare([10.0, 30.0], [20.0, 20.0]) == [0.5, 1.5]
