"""Who gets another try, and after how long: the rules alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer import errors
from batchinfer.domain.retries import (
    MODEL_OUTPUT_CODES,
    UPSTREAM_CODES,
    RetryClass,
    RetryRule,
    classify_error,
    classify_failure,
    find_rule,
)
from batchinfer.settings import load_settings

RULES = st.builds(
    RetryRule,
    tries=st.integers(1, 100),
    first_wait_s=st.floats(0.001, 60),
    longest_wait_s=st.floats(0.001, 86_400),
)


@given(RULES, st.integers(1, 10_000))
def test_a_ceiling_doubles_up_to_the_longest(rule: RetryRule, tries: int) -> None:
    ceiling, following = rule.find_ceiling_s(tries), rule.find_ceiling_s(tries + 1)
    assert 0 < ceiling <= following <= rule.longest_wait_s
    assert following == rule.longest_wait_s or following == pytest.approx(2 * ceiling)
    assert rule.find_ceiling_s(1) == min(rule.first_wait_s, rule.longest_wait_s)


@given(RULES, st.integers(1, 200))
def test_the_list_of_ceilings_says_the_same(rule: RetryRule, tries: int) -> None:
    ceilings = rule.list_ceilings_s()
    assert 1 <= len(ceilings) <= 64
    assert ceilings[min(tries, len(ceilings)) - 1] == pytest.approx(rule.find_ceiling_s(tries))


def test_the_caps_are_those_of_the_settings() -> None:
    settings = load_settings(max_attempts=7, max_output_attempts=4, max_backoff_s=30)
    tries = {retry_class: find_rule(retry_class, settings).tries for retry_class in RetryClass}
    assert tries[RetryClass.PERMANENT] == 1
    assert (tries[RetryClass.TRANSIENT], tries[RetryClass.MODEL_OUTPUT]) == (7, 4)
    assert all(find_rule(c, settings).longest_wait_s <= 30 for c in RetryClass if c is not RetryClass.DELIVERY)
    assert [c for c in RetryClass if not find_rule(c, settings).counted] == [RetryClass.INFRASTRUCTURE]


def test_no_wait_at_all_can_be_asked_for() -> None:
    assert find_rule(RetryClass.TRANSIENT, load_settings(max_backoff_s=0)).list_ceilings_s() == [0.0]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (errors.BadImage("x"), RetryClass.PERMANENT),
        (errors.Failure("x", code="blob_missing"), RetryClass.PERMANENT),
        (errors.Failure("x", code="invalid_output"), RetryClass.MODEL_OUTPUT),
        (errors.Internal("x"), RetryClass.TRANSIENT),
        (errors.Unavailable("x", code="storage_full"), RetryClass.INFRASTRUCTURE),
    ],
)
def test_an_errors_class_follows_from_its_kind_and_code(error: errors.BatchinferError, wanted: RetryClass) -> None:
    assert classify_error(error) is wanted


def test_an_engines_failure_is_told_by_its_code_first() -> None:
    for code in MODEL_OUTPUT_CODES:
        assert classify_failure(code, transient=False) is RetryClass.MODEL_OUTPUT
    for code in UPSTREAM_CODES:
        assert classify_failure(code, transient=True) is RetryClass.INFRASTRUCTURE
    assert classify_failure("engine_failed", transient=True) is RetryClass.TRANSIENT
    assert classify_failure("out_of_memory", transient=False) is RetryClass.PERMANENT
