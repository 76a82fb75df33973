"""Loops found while they are decoded: the last tokens are one and the same sequence again and again.

As vLLM's `repetition_detection` (vllm-project/vllm#35451) it looks for exact repetition at the end of what was made;
the numbers are chosen for pages. Rows of a table that are all alike, empty cells and dotted lines repeat as often as a
page has lines, some 60, and are no loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers.engine.protocol import EngineFailure

#: Looked for after every so many tokens of a row, which costs some 20 microseconds.
EVERY = 16
#: The longest sequence, and the least and most tokens that its repetitions have to cover.
MAX_PERIOD, MIN_SPAN, MAX_SPAN = 256, 256, 2048
#: How often it has to come, as far as MAX_SPAN does not allow fewer; and the fewest times.
REPEATS, MIN_REPEATS = 64, 8
REPEATS_FAILURE = EngineFailure(
    "output_repeats", "The answer said the same over and over and was stopped; try another temperature or prompt."
)


def find_span(period: int) -> int:
    """How many tokens a loop of so long a sequence covers at least."""
    return max(min(max(REPEATS * period, MIN_SPAN), MAX_SPAN), MIN_REPEATS * period)


def ends_in_loop(tokens: Sequence[object]) -> bool:
    """Whether the last tokens repeat one sequence too often. In time and memory of the tail alone."""
    made = len(tokens)
    if made < MIN_SPAN:
        return False
    last, tail = tokens[-1], tokens[-EVERY:]
    for period in range(1, min(MAX_PERIOD, made - EVERY) + 1):
        if tokens[-1 - period] != last or tokens[-EVERY - period : -period] != tail:
            continue
        span = find_span(period)
        if span <= made and tokens[made - span : made - period] == tokens[made - span + period :]:
            return True
    return False


def has_to_stop(tokens: Sequence[object]) -> bool:
    """The same, looked at now and then."""
    return len(tokens) % EVERY == 0 and ends_in_loop(tokens)
