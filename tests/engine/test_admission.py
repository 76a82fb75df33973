"""When a prefill of few rows is put off for company, and for how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from workers.engine.admission import Admission
from workers.engine.features import ALL_OFF, Budgets
from workers.engine.prefix import PrefixStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.engine.tickets import Ticket

SLOTS = 64


@pytest.fixture
def admission() -> Admission:
    return Admission(ALL_OFF, Budgets(), PrefixStore(0), slots=SLOTS, slides=False, can_cut=lambda _: False)


def line_up(count: int, job_class: str = "batch") -> Sequence[Ticket]:
    waiting: Any = [SimpleNamespace(request=SimpleNamespace(job_class=job_class)) for _ in range(count)]
    return cast("Sequence[Ticket]", waiting)


def count_waits(admission: Admission, ready: Sequence[Ticket], free: int) -> int:
    """Steps for which they are put off, until they are taken."""
    waits = 0
    while admission.may_wait(ready, free):
        waits += 1
        assert waits <= Budgets().gather_steps
    return waits


@pytest.mark.parametrize(("free", "waits"), [(64, 0), (60, 0), (48, 2), (32, 4), (16, 6), (2, 7)])
def test_one_waits_the_longer_the_more_slots_are_in_use(admission: Admission, free: int, waits: int) -> None:
    """A step of few rows costs nearly as much as one of many: slots that are free are filled at once."""
    assert count_waits(admission, line_up(1), free) == waits
    assert count_waits(admission, line_up(1), free) == waits, "each time anew"


def test_enough_of_them_and_the_interactive_go_at_once(admission: Admission) -> None:
    assert not admission.may_wait(line_up(10), 16)
    assert admission.may_wait(line_up(9), 16)
    assert not admission.may_wait(line_up(1, "interactive"), 16)
