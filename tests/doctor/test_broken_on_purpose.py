"""Every warning and error of every check, brought about on purpose; a finding without such a test fails here."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from batchinfer.doctor.everything import HOST, SERVICE
from batchinfer.doctor.findings import Check, Look, Said, examine, fail, fine, warn
from batchinfer.doctor.remedies import list_said
from tests.doctor.broken_hosts import BROKEN_HOSTS, TELLS_ONLY
from tests.doctor.broken_services import BROKEN_SERVICES
from tests.doctor.stage import Broken, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CHECKS = (*SERVICE, *HOST)
BROKEN = (*BROKEN_HOSTS, *BROKEN_SERVICES)


def list_unbroken(checks: Iterable[Check], broken: Sequence[Broken]) -> list[str]:
    """Findings that the sources of the checks hold and no entry brings about."""
    return [
        f"{check.name}: {message}"
        for check in checks
        for _, message, remedy in list_said(check)
        if not any(one.check == check.name and one.says in f"{message} {remedy}" for one in broken)
    ]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.check}: {broken.says}")
def test_what_is_broken_is_told_with_what_to_do(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, broken: Broken
) -> None:
    check = next(check for check in CHECKS if check.name == broken.check)
    meant = [level for level, message, remedy in list_said(check) if broken.says in f"{message} {remedy}"]
    assert len(meant) == 1, f"{broken.says!r} is to be in one finding of the check, and in no other"
    with ExitStack() as after:
        (found,) = examine([check], broken.break_it(Stage(request, monkeypatch, after)))
    assert (found.level, broken.says in f"{found.message} {found.remedy}") == (meant[0], True), found
    assert found.remedy
    assert found.why
    assert "hush" not in found.message + found.remedy


def test_every_finding_is_brought_about() -> None:
    assert list_unbroken(CHECKS, BROKEN) == []


def test_every_check_is_broken_or_only_tells() -> None:
    assert {check.name for check in CHECKS} - {one.check for one in BROKEN} == TELLS_ONLY
    assert all(not list(list_said(check)) for check in CHECKS if check.name in TELLS_ONLY)


def _judge(look: Look) -> Said:
    if look.limits:
        return fail("It is worse.", "Do this.")
    return warn("It is bad.", "Do that.") if look.environment else fine("Good.")


def test_a_finding_that_nobody_brings_about_is_named() -> None:
    new = Check("new", "host", "Why not.", _judge)
    assert list_unbroken([new], [Broken("new", "It is bad", lambda stage: stage.service)]) == ["new: It is worse."]
    assert list_unbroken([new], BROKEN) == ["new: It is worse.", "new: It is bad."]
