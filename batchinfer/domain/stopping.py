"""When a run stops itself: more than a share of the pages that ended last have failed.

Pages end in groups, as results are written. The newest groups that together hold the window's pages are kept, as
numbers in turns: ended, failed, ended, failed; the order within a group is not known and does not matter. Where there
are many, neighbours become one, the smallest first, so that none comes to hold much of the window.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from batchinfer.domain.pipelines import StopAfter
from batchinfer.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Groups that are kept apart: the window is known to about two in so many of its pages.
MAX_GROUPS = 64


def read_rule(stop_after: Mapping[str, Any] | None, *, said: bool) -> StopAfter | None:
    """The rule of a stored pipeline: what it says, or where it says nothing the usual one. None: it never stops."""
    if not said:
        return StopAfter()
    return None if stop_after is None else StopAfter(**stop_after)


def add_group(
    recent: Sequence[int], ended: int, failed: int, stop_after: Mapping[str, Any] | None, *, said: bool
) -> list[int]:
    """The newest groups with one more, as few as hold the window's pages."""
    rule = read_rule(stop_after, said=said)
    if rule is None:
        return []
    kept = [*recent, ended, failed]
    total = sum(kept[::2])
    while total - kept[0] >= rule.pages:
        total -= kept[0]
        del kept[:2]
    while len(kept) > 2 * MAX_GROUPS:
        at = min(range(0, len(kept) - 2, 2), key=lambda place: kept[place] + kept[place + 2])
        kept[at : at + 4] = [kept[at] + kept[at + 2], kept[at + 1] + kept[at + 3]]
    return kept


def has_to_stop(recent: Sequence[int], stop_after: Mapping[str, Any] | None, *, said: bool) -> dict[str, Any] | None:
    """The cause, where a whole window of pages has ended and too many of them failed; else None.

    The oldest group may reach beyond the window. Then it counts with all of its pages, or with those of the window at
    their best: of its failed ones as many as can have ended before it.
    """
    rule = read_rule(stop_after, said=said)
    ended, failed = sum(recent[::2]), sum(recent[1::2])
    if rule is None or ended < rule.pages:
        return None
    at_best = failed - min(recent[1], ended - rule.pages)
    for pages, bad in ((ended, failed), (rule.pages, at_best)):
        # As it was written: 0.29 of 100 pages are 29, which no float of it says.
        if bad > Fraction(str(rule.share)) * pages:
            return _make_cause(rule, pages, bad)
    return None


def _make_cause(rule: StopAfter, ended: int, failed: int) -> dict[str, Any]:
    fault = Failure(
        f"{failed:,} of the last {ended:,} pages failed, more than the {rule.share:.0%} that `stop_after` allows. Look "
        "at its errors, mend the cause and resume it.",
        code="too_many_failures",
    )
    return fault.as_dict() | {"ended": ended, "failed": failed}
