"""A key's requests a minute: counted in Redis for every process, and locally while Redis is away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.bus import rates
from batchinfer.bus.rates import RateMeter, judge
from batchinfer.services.context import open_context
from batchinfer.services.keys import create_key
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context
    from batchinfer.settings import Settings


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock that requests are counted by, in seconds; it starts in the middle of a minute."""

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(rates.time, "time", lambda: 6_000_000.0 + seconds)

    set_to(30.0)
    return set_to


def test_over_its_rate_a_key_is_told_when(client: FlaskClient, context: Context, make_client: Any, at: Any) -> None:
    slow = make_client(create_key(context, "slow", ["read"], requests_per_minute=3)[1])
    told = [slow.get("/v1/jobs") for _ in range(4)]
    assert [answer.status_code for answer in told] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in told] == ["2", "1", "0", "0"]
    refused = told[-1]
    assert refused.json["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["x-should-retry"] == "true"
    wait_s = int(refused.headers["Retry-After"])
    assert 1 <= wait_s <= 120
    at(30.0 + wait_s - 2)
    assert slow.get("/v1/jobs").status_code == 429, "refused requests do not count, nor does waiting less help"
    at(30.0 + wait_s)
    assert slow.get("/v1/jobs").status_code == 200
    assert client.get("/v1/jobs").status_code == 200, "a key's rate is its own"
    assert "x-ratelimit-limit-requests" not in client.get("/v1/jobs").headers


def test_the_setting_is_for_keys_without_their_own(settings: Settings, api_key: str, at: Any) -> None:
    context = open_context(settings.model_copy(update={"key_requests_per_minute": 2}))
    one = create_app(context=context).test_client()
    sent = {"Authorization": f"Bearer {api_key}"}
    assert [one.get("/v1/jobs", headers=sent).status_code for _ in range(3)] == [200, 200, 429]
    context.close()


def test_processes_count_together_and_alone_without_redis(settings: Settings, context: Context, at: Any) -> None:
    other = open_context(settings)
    assert context.rates.take("k", 3).remaining == 2
    assert other.rates.take("k", 3).remaining == 1
    assert context.rates.take("k", 3).remaining == 0
    assert not other.rates.take("k", 3).allowed
    other.close()
    away = RateMeter(open_context(settings.model_copy(update={"redis_url": _nobody()})).redis)
    assert [away.take("k", 3).allowed for _ in range(4)] == [True, True, True, False]
    at(150.0)
    assert away.take("k", 3).allowed


def test_what_was_counted_still_holds_when_redis_goes(context: Context, at: Any, monkeypatch: Any) -> None:
    meter = RateMeter(context.redis)
    assert [meter.take("k", 2).allowed for _ in range(2)] == [True, True]
    gone = RateMeter(open_context(context.settings.model_copy(update={"redis_url": _nobody()})).redis)
    monkeypatch.setattr(meter, "_redis", gone._redis)
    assert not meter.take("k", 2).allowed


@given(st.integers(1, 500), st.integers(0, 500), st.integers(0, 500), st.floats(0, 0.999))
def test_who_waits_as_long_as_told_fits(limit: int, before: int, during: int, elapsed: float) -> None:
    """For any counts that can be: `during` holds this request, and the others were all within the limit."""
    before, during = min(before, limit), min(during, limit) + 1
    taken = judge(limit, before, during, elapsed)
    if taken.allowed:
        assert 0 <= taken.remaining < limit
        return
    assert 0 <= taken.wait_s <= 120
    later = elapsed + taken.wait_s / rates.WINDOW_S + 1e-6
    again = judge(limit, before, during, later) if later < 1 else judge(limit, during - 1, 1, later - 1)
    assert again.allowed


def _nobody() -> Any:
    from pydantic import SecretStr

    return SecretStr("redis://127.0.0.1:1/0")
