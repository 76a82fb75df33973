"""The time of a load is split into phases that come to the whole."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from workers.engine.loader import load_model, open_engine
from workers.engine.phases import NAMES, Phases
from workers.engine.protocol import ModelError

DOCREADER = Path(__file__).resolve().parents[2] / "workers" / "models" / "docreader"


def test_seconds_add_up_and_none_are_negative() -> None:
    phases = Phases()
    phases.add("verify", 1.25)
    phases.add("verify", 0.5)
    phases.add("verify", -3.0)
    assert phases.as_json() == {"start": 0.0, "read": 0.0, "copy": 0.0, "warm_up": 0.0, "verify": 1.75}
    with pytest.raises(KeyError):
        phases.add("rest", 1.0)


def test_a_phase_counts_though_it_fails() -> None:
    phases = Phases()

    def fail() -> None:
        with phases.timed("copy"):
            time.sleep(0.01)
            raise ValueError("away")

    with pytest.raises(ValueError, match="away"):
        fail()
    assert phases.seconds["copy"] >= 0.01


@pytest.mark.parametrize(("turned", "read"), [(-5.0, 0.0), (-1.0, 1.0), (9.0, 2.0)])
def test_a_span_is_cut_where_the_reading_ended(turned: float, read: float) -> None:
    now, phases = time.monotonic(), Phases()
    phases.cut(now - 2.0, now + turned)
    assert phases.seconds["read"] == pytest.approx(read, abs=0.2)
    assert phases.seconds["read"] + phases.seconds["copy"] == pytest.approx(2.0, abs=0.2)


def test_a_load_tells_where_its_time_went() -> None:
    phases, began = Phases(), time.monotonic()
    engine = open_engine("auto", DOCREADER, slots=2, threads=1, phases=phases)
    took = time.monotonic() - began
    engine.close()
    assert all(phases.seconds[name] > 0 for name in NAMES if name != "read")
    assert 0.8 * took < sum(phases.seconds.values()) <= took


def test_a_load_that_fails_tells_it_too_and_reads_no_further(tmp_path: Path) -> None:
    for path in DOCREADER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").unlink()
    phases = Phases()
    with pytest.raises(ModelError):
        load_model(tmp_path, threads=1, phases=phases)
    assert phases.seconds["start"] > 0
    assert phases.seconds["copy"] == 0.0


def test_weights_are_the_same_without_reading_ahead() -> None:
    import torch

    one, two = (load_model(DOCREADER, threads=1, prewarm=ahead).model.state_dict() for ahead in (True, False))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
