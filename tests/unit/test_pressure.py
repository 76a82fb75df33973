"""Short memory: what the kernel's files say of it, and when a worker pauses and goes on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from batchinfer.domain.pressure import EASED, MOVES, STALLS, SWAP, Admission, PressureLimits, Watch, Weight
from batchinfer.observe.strain import Strain, read_strain
from batchinfer.settings import load_settings
from workers.gate import Gate

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = PressureLimits(some=40.0, full=10.0, swap_in_mib_s=32.0)
TEXT = "some avg10={some} avg60=1.00 avg300=0.50 total=1\nfull avg10={full} avg60=0.00 avg300=0.00 total=0\n"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_machine_is_asked_where_no_group_is_measured(tmp_path: Path) -> None:
    assert read_strain(tmp_path) == Strain()
    write(tmp_path / "proc/pressure/memory", TEXT.format(some="12.50", full="3.00"))
    write(tmp_path / "proc/vmstat", "pgpgin 7\npswpin 512\npswpout 9\n")
    found = read_strain(tmp_path)
    assert (found.some, found.full) == (12.5, 3.0)
    assert found.swapped_in_mib is not None
    assert found.swapped_in_mib > 0


def test_the_control_group_is_asked_first(tmp_path: Path) -> None:
    write(tmp_path / "proc/pressure/memory", TEXT.format(some="99.00", full="99.00"))
    write(tmp_path / "proc/self/cgroup", "0::/system.slice/worker.service\n")
    write(tmp_path / "sys/fs/cgroup/system.slice/worker.service/memory.pressure", TEXT.format(some="1.00", full="0.00"))
    assert read_strain(tmp_path) == Strain(1.0, 0.0)


@pytest.mark.parametrize(
    "text", ["", "\x00\xff", "some", "some avg10=", "some avg10=much", "some avg10=-1", "some avg10=nan"]
)
def test_a_broken_file_measures_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path / "proc/pressure/memory", text)
    write(tmp_path / "proc/vmstat", "pswpin\npswpin many\n")
    assert read_strain(tmp_path) == Strain()


def test_a_file_that_cannot_be_read_measures_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc/pressure/memory").mkdir(parents=True)
    (tmp_path / "proc/vmstat").mkdir()
    assert read_strain(tmp_path) == Strain()


def test_the_table_is_whole_and_only_the_ends_move() -> None:
    assert set(MOVES) == set(itertools.product(Admission, Weight))
    assert {move for move, to in MOVES.items() if move[0] is not to} == {
        (Admission.OPEN, Weight.HEAVY),
        (Admission.PAUSED, Weight.EASY),
    }


def test_a_pause_lasts_until_it_is_easy() -> None:
    watch = Watch(LIMITS)
    seen = [watch.judge(Strain(some=some), float(at)).admission for at, some in enumerate((10, 39, 40, 30, 20, 19, 39))]
    assert [state is Admission.PAUSED for state in seen] == [False, False, True, True, True, False, False]


def test_full_stalls_and_swap_pause_by_themselves() -> None:
    assert Watch(LIMITS).judge(Strain(some=11, full=10), 0.0).cause == STALLS
    watch = Watch(LIMITS)
    causes = [watch.judge(Strain(swapped_in_mib=mib), at).cause for at, mib in ((0, 5000), (1, 5000), (2, 5070))]
    assert causes == ["", "", SWAP]
    assert watch.judge(Strain(swapped_in_mib=5071), 30.0).cause == ""


def test_a_limit_of_nothing_and_what_is_not_measured_pause_nobody() -> None:
    watch = Watch(PressureLimits(0, 0, 0))
    assert watch.judge(Strain(100, 100, 0), 0.0).admission is Admission.OPEN
    assert watch.judge(Strain(100, 100, 10**6), 1.0).admission is Admission.OPEN
    assert Watch(LIMITS).judge(Strain(), 0.0).admission is Admission.OPEN


@given(shares=st.lists(st.floats(0, 100), max_size=40))
def test_it_never_turns_within_the_band(shares: list[float]) -> None:
    """Whatever comes: it pauses only at a limit, and goes on only below its half."""
    watch, before = Watch(LIMITS), Admission.OPEN
    for at, share in enumerate(shares):
        now = watch.judge(Strain(some=share), float(at)).admission
        if now is not before:
            assert share >= LIMITS.some if now is Admission.PAUSED else share < EASED * LIMITS.some
        before = now


def test_the_gate_tells_each_turn_once(tmp_path: Path) -> None:
    file, turns = tmp_path / "root/proc/pressure/memory", []
    gate = Gate(load_settings(home=tmp_path), root=tmp_path / "root", look_s=0.0)
    gate.on_turn = lambda: turns.append(gate.cause)
    assert gate.is_open()
    with capture_logs() as lines:
        for some, is_open in (("80.00", False), ("70.00", False), ("30.00", False), ("1.00", True), ("2.00", True)):
            write(file, TEXT.format(some=some, full="0.00"))
            assert gate.is_open() is is_open
    assert turns == [STALLS, None]
    assert [line["log_level"] for line in lines] == ["warning", "info"]
    assert gate.pauses == 1


def test_the_gate_looks_seldom(tmp_path: Path) -> None:
    gate = Gate(load_settings(home=tmp_path), root=tmp_path, look_s=3600.0)
    assert gate.is_open()
    write(tmp_path / "proc/pressure/memory", TEXT.format(some="90.00", full="0.00"))
    assert gate.is_open()
