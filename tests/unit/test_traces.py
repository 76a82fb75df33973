"""W3C Trace Context: the headers as the standard has them, and what is no such header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.observe import traces
from batchinfer.observe.traces import Trace, decode_trace, new_trace, parse_trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("flags", "sampled", "random"),
    [("00", False, False), ("01", True, False), ("02", False, True), ("03", True, True), ("ff", True, True)],
)
def test_a_header_is_read(flags: str, sampled: bool, random: bool) -> None:
    assert parse_trace(f"00-{TRACE}-{SPAN}-{flags}") == Trace(TRACE, SPAN, sampled, random)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        HEADER.upper(),
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00_{TRACE}_{SPAN}_01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"cc-{TRACE}-{SPAN}-0",
        f"{HEADER},{HEADER}",
        f"00-{TRACE}-{SPAN}-０１",
        HEADER + "\n",
        "00-" + "a" * 10_000,
    ],
)
def test_what_is_malformed_is_ignored(header: str | None) -> None:
    assert parse_trace(header, "vendor=1") is None


@pytest.mark.parametrize("header", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-the-future-brings"])
def test_later_versions_are_read_as_far_as_they_are_known(header: str) -> None:
    trace = parse_trace(header)
    assert trace is not None
    assert trace.parent == HEADER, "we hand on the version that we speak"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (" a=1 ,\t, b=2,,", "a=1,b=2"),
        ("tenant@vendor=x y", "tenant@vendor=x y"),
        ("A=1", ""),
        ("a=1,nonsense", ""),
        ("a=1,a=2", ""),
        ("a=1=2", ""),
        ("a=é", ""),
        (f"{'k' * 257}=1", ""),
        (f"a={'v' * 257}", ""),
        (",".join(f"k{number}=1" for number in range(32)), ",".join(f"k{number}=1" for number in range(32))),
        (",".join(f"k{number}=1" for number in range(33)), ""),
        (f"a=1,long={'v' * 250},other={'w' * 250},b={'x' * 100}", f"a=1,b={'x' * 100}"),
    ],
)
def test_the_state_is_handed_on_or_dropped_but_the_trace_goes_on(sent: str, kept: str) -> None:
    trace = parse_trace(HEADER, sent)
    assert trace == Trace(TRACE, SPAN, sampled=True, state=kept)
    assert trace.headers == {"traceparent": HEADER, **({"tracestate": kept} if kept else {})}
    assert decode_trace(trace.encode()) == trace


def test_a_state_that_is_too_long_is_cut_at_its_end() -> None:
    trace = parse_trace(HEADER, ",".join(f"k{number}={'v' * 60}" for number in range(20)))
    assert trace is not None
    assert len(trace.state) <= 512
    assert trace.state.startswith("k0=")


@given(st.text(max_size=80), st.text(max_size=80))
def test_nothing_raises(parent: str, state: str) -> None:
    trace = parse_trace(parent, state)
    assert trace is None or decode_trace(trace.encode()) == trace


def test_a_fresh_trace_is_one_that_others_take() -> None:
    for ratio, sampled in ((0.0, False), (1.0, True)):
        trace = new_trace(ratio)
        assert parse_trace(trace.parent) == trace
        assert (trace.sampled, trace.random) == (sampled, True)
    kept = sum(new_trace(0.5).sampled for _ in range(2000))
    assert 800 < kept < 1200


def test_span_ids_that_are_derived_stay_the_same() -> None:
    assert traces.derive_span_id("a", 1) == traces.derive_span_id("a", 1) != traces.derive_span_id("a", 2)
    assert len(traces.derive_span_id("a")) == 16


def test_work_follows_a_trace_and_leaves_it_again() -> None:
    trace = parse_trace(HEADER)
    assert traces.encode_current() is None
    with traces.following(trace):
        assert traces.encode_current() == HEADER
        with traces.following(None):
            assert traces.current_trace() is None
        assert traces.current_trace() == trace
    assert traces.current_trace() is None
