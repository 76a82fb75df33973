"""When a run stops itself: more than a share of the pages that ended last have failed.

Pages end in groups, as results are written. The newest groups that together hold the window's pages are kept, as
numbers in turns: ended, failed, ended, failed; the order within a group is not known and does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.pipelines import StopAfter
from batchinfer.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
    while len(kept) > 2 and sum(kept[2::2]) >= rule.pages:
        del kept[:2]
    # Many small groups become one now and then, so that the row stays small.
    while len(kept) > 2 * MAX_GROUPS:
        kept[:4] = [kept[0] + kept[2], kept[1] + kept[3]]
    return kept


def has_to_stop(recent: Sequence[int], stop_after: Mapping[str, Any] | None, *, said: bool) -> dict[str, Any] | None:
    """The cause, where a whole window of pages has ended and too many of them failed; else None."""
    rule = read_rule(stop_after, said=said)
    ended, failed = sum(recent[::2]), sum(recent[1::2])
    if rule is None or ended < rule.pages or failed <= rule.share * ended:
        return None
    fault = Failure(
        f"{failed:,} of the last {ended:,} pages failed, more than the {rule.share:.0%} that `stop_after` allows. Look "
        "at its errors, mend the cause and resume it.",
        code="too_many_failures",
    )
    return fault.as_dict() | {"ended": ended, "failed": failed}


#: Groups that are kept apart.
MAX_GROUPS = 64
