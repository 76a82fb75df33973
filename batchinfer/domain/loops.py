"""Whether an answer is caught in a loop: the same words after each other, more often than a page can have them.

The measure is exact repetition without a gap, as in vLLM's `repetition_detection` (vllm-project/vllm#35451,
`check_sequence_repetition`), and as engines here watch for while they decode; the numbers are chosen for documents. A
page has some 60 lines: rows of a table that are all alike, empty cells, rows of noughts and dotted lines come that
often and are right. So a unit has to come 64 times, and one longer than 32 pieces, as a sentence is, has to fill 2,048.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A word; a digit, or a sign of a script without spaces; a run of one and the same mark; the end of a line.
_PIECE = re.compile(r"[A-Za-z]{1,16}|[^\W_]|([^\w\s]|_)\1*|\n")
#: The longest unit, and the least and most that its repetitions have to cover, in pieces.
MAX_PERIOD, MIN_SPAN, MAX_SPAN = 256, 256, 2048
MIN_REPEATS, MAX_REPEATS = 8, 64
#: Every so many pieces it is looked whether a loop ends there.
_STEP = 32
#: A loop is looked for where these last pieces were said before.
_TAIL = 16


def has_loop(text: str) -> bool:
    """Whether some part of a text repeats itself too often."""
    pieces = [found[0] for found in _PIECE.finditer(text)]
    ends = [*range(MIN_SPAN, len(pieces), _STEP), len(pieces)]
    return any(_ends_in_loop(pieces, end) for end in ends)


def find_span(period: int) -> int:
    """How many pieces a loop of so long a unit covers at least."""
    return max(min(max(MAX_REPEATS * period, MIN_SPAN), MAX_SPAN), MIN_REPEATS * period)


def _ends_in_loop(pieces: Sequence[str], end: int) -> bool:
    if end < MIN_SPAN:
        return False
    tail = pieces[end - _TAIL : end]
    for period in range(1, min(MAX_PERIOD, end - _TAIL) + 1):
        if pieces[end - 1 - period] != tail[-1] or pieces[end - _TAIL - period : end - period] != tail:
            continue
        start = end - find_span(period)
        if start >= 0 and pieces[start : end - period] == pieces[start + period : end]:
            return True
    return False
