"""Who gets another try, and after how long: one rule a class of error.

A wait is drawn evenly between nothing and a ceiling that doubles with each try (exponential with full jitter: Brooker,
"Exponential Backoff And Jitter", 2015), so that what failed together does not come back together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from batchinfer.errors import BatchinferError, Failure, Internal, Unavailable

if TYPE_CHECKING:
    from batchinfer.settings import Settings


class RetryClass(StrEnum):
    """What kind of error ended a try."""

    #: The request is wrong and will always be.
    PERMANENT = "permanent"
    #: The model answered with something that is no answer; it may answer better another time.
    MODEL_OUTPUT = "model_output"
    #: Something failed that may pass, and the request may have been the reason.
    TRANSIENT = "transient"
    #: A part of ours was not there; the request had nothing to do with it.
    INFRASTRUCTURE = "infrastructure"
    #: A receiver outside did not take what was delivered to it.
    DELIVERY = "delivery"


@dataclass(frozen=True)
class RetryRule:
    """`tries` is the most that the row may have had for this error to be followed by another one; waits in seconds.

    `counted` says whether the try was one that the user counts.
    """

    tries: int
    first_wait_s: float
    longest_wait_s: float
    counted: bool = True

    def find_ceiling_s(self, tries: int) -> float:
        """The longest wait after so many tries, from 1."""
        doublings = min(max(tries, 1) - 1, 64)  # beyond that any ceiling is reached, and floats stay finite
        return float(min(self.longest_wait_s, self.first_wait_s * 2**doublings))

    def list_ceilings_s(self) -> list[float]:
        """The longest wait after one try, two, and so on, up to the first that no later one exceeds."""
        ceilings = [self.find_ceiling_s(1)]
        while ceilings[-1] < self.longest_wait_s and len(ceilings) < 64:
            ceilings.append(self.find_ceiling_s(len(ceilings) + 1))
        return ceilings


#: Uncounted tries that a missing part may cost a row before its error is final: half an hour and more.
_INFRASTRUCTURE_TRIES = 50
#: Tries of one delivery: more than its waits let into a day, so that its deadline ends it.
_DELIVERY_TRIES = 40
_DELIVERY_FIRST_S, _DELIVERY_LONGEST_S = 5.0, 4 * 3600.0

#: Rows of one claim while there are suspects, rows under which a worker was lost.
SUSPECT_GROUP = 8
#: Lost workers after which a suspect runs alone.
ALONE_FROM = 2

#: Codes of a job's error that say that the model's output, and no part around it, was at fault.
MODEL_OUTPUT_CODES = frozenset(
    {"invalid_output", "output_truncated", "output_repeats", "output_empty", "not_a_number", "grammar_limit"}
)
#: Codes of an engine whose server was not there, had too much to do, or is not the one that was meant.
UPSTREAM_CODES = frozenset(
    {
        "upstream_unreachable",
        "upstream_busy",
        "upstream_key_refused",
        "upstream_model_missing",
        "upstream_other_model",
    }
)


def find_rule(retry_class: RetryClass, settings: Settings) -> RetryRule:
    """The rule of a class, as the settings have it."""
    longest_s = settings.max_backoff_s
    first_s = min(1.0, longest_s)
    table = {
        RetryClass.PERMANENT: RetryRule(1, 0.0, 0.0),
        RetryClass.MODEL_OUTPUT: RetryRule(settings.max_output_attempts, first_s, longest_s),
        RetryClass.TRANSIENT: RetryRule(settings.max_attempts, first_s, longest_s),
        RetryClass.INFRASTRUCTURE: RetryRule(_INFRASTRUCTURE_TRIES, first_s, longest_s, counted=False),
        RetryClass.DELIVERY: RetryRule(_DELIVERY_TRIES, _DELIVERY_FIRST_S, _DELIVERY_LONGEST_S),
    }
    return table[retry_class]


def classify_error(error: BatchinferError) -> RetryClass:
    """The class of an error of our tree: by its kind, and for a Failure by its code."""
    if isinstance(error, Unavailable):
        return RetryClass.INFRASTRUCTURE
    if isinstance(error, Failure) and error.code in MODEL_OUTPUT_CODES:
        return RetryClass.MODEL_OUTPUT
    return RetryClass.TRANSIENT if isinstance(error, Internal) or error.retry_helps else RetryClass.PERMANENT


def classify_failure(code: str, *, transient: bool) -> RetryClass:
    """The class of an engine's failure: by its code, else by what the engine says of another try."""
    if code in MODEL_OUTPUT_CODES:
        return RetryClass.MODEL_OUTPUT
    if code in UPSTREAM_CODES:
        return RetryClass.INFRASTRUCTURE
    return RetryClass.TRANSIENT if transient else RetryClass.PERMANENT
