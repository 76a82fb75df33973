"""docs/troubleshooting.md has what the doctor can find, as the doctor says it."""

from __future__ import annotations

import re

import pytest

from batchinfer.doctor.everything import HOST, SERVICE
from batchinfer.doctor.findings import Check, Look, Said, fail, fine, warn
from batchinfer.doctor.remedies import list_said, put_findings, render_findings
from tests.docs.conftest import ROOT

LEAST = 3


def _hand_over(share: float) -> Said:
    return warn(f"{share:.0f} % are used.", "Use less.")


def look_somewhere(look: Look) -> Said:
    remedy = f"Take {LEAST} or more."
    if look.ctx is None:
        return fail("There are too few.", remedy)
    return _hand_over(0.5) if look.root else fine("Good.")


def test_the_page_says_what_the_doctor_says() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert put_findings(page) == page, "run `make pages`"


def test_every_check_is_told_with_its_reason() -> None:
    told = render_findings()
    for check in (*SERVICE, *HOST):
        assert f"### {check.name}\n\n{check.why}\n" in told


def test_every_finding_of_the_sources_is_told_with_a_remedy() -> None:
    """As many as the modules of the checks write down."""
    written = 0
    for file in (ROOT / "batchinfer" / "doctor").glob("*_checks.py"):
        written += len(re.findall(r"\b(?:warn|fail)\(", file.read_text()))
    told = [said for check in (*SERVICE, *HOST) for said in list_said(check)]
    assert len(told) == written
    assert all(message and remedy for _, message, remedy in told)


def test_what_a_run_alone_can_know_is_an_ellipsis_and_constants_are_written_out() -> None:
    check = Check("somewhere", "host", "Why not.", look_somewhere)
    assert list(list_said(check)) == [
        ("error", "There are too few.", "Take 3 or more."),
        ("warning", "… % are used.", "Use less."),
    ]


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        put_findings("# Troubleshooting\n")
