"""Windows, dialects, answers and choices, with numbers and bytes alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.remote.conftest import ask
from workers.engine.chat_answers import Answer, Lines
from workers.engine.choice import Agreement, VllmFacts, choose_engine
from workers.engine.dialects import DIALECTS, find_dialect
from workers.engine.looking import read_metric
from workers.engine.protocol import ModelError, Refused, Sampling
from workers.engine.remote_options import RemoteOptions, read_options
from workers.engine.upstream import UpstreamError, read_address, read_wait
from workers.engine.window import FIRST_LIMIT, LONGEST_ASKED_S, LONGEST_HOLD_S, Window

REGEX = {"type": "regex", "regex": "a+"}
CHOICE = {"type": "choice", "choice": ["a", "b.c"]}


def test_a_fixed_window_never_moves() -> None:
    window = Window(8)
    window.note_busy(0.0, None)
    window.note_waiting(100, 8)
    window.note_answer(full=True)
    assert window.limit == 8


def test_an_adaptive_window_falls_at_once_and_grows_slowly() -> None:
    window = Window(64, adaptive=True)
    assert window.limit == FIRST_LIMIT
    for _ in range(2000):
        window.note_answer(full=True)
    assert 50 < window.limit <= 64
    window.note_busy(0.0, None)
    assert window.limit <= 32
    window.note_waiting(40, 32)
    assert window.limit < 20
    for _ in range(200):
        window.note_waiting(0, 64)
    assert window.limit == 64


def test_a_server_that_is_gone_is_asked_by_one_after_longer_and_longer() -> None:
    window, now, waits = Window(8), 100.0, []
    for _ in range(12):
        window.note_gone(now)
        window.note_gone(now)  # the others that failed with it say nothing new
        waits.append(window.find_hold(now))
        now += waits[-1]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_HOLD_S
    assert (window.limit, window.gone_since, window.gone_s) == (1, 100.0, now - waits[-1] - 100.0)
    window.note_answer(full=False)
    assert (window.limit, window.gone_s, window.find_hold(now)) == (8, 0.0, 0.0)


@given(st.lists(st.tuples(st.sampled_from(["answer", "busy", "gone", "waiting"]), st.floats(0, 1e6)), max_size=60))
def test_a_window_stays_within_its_bounds(events: list[tuple[str, float]]) -> None:
    window, now = Window(16, adaptive=True), 0.0
    for kind, number in events:
        now += 0.1
        if kind == "answer":
            window.note_answer(full=True)
        elif kind == "busy":
            window.note_busy(now, number)
        elif kind == "gone":
            window.note_gone(now)
        else:
            window.note_waiting(int(number), 4)
        assert 1 <= window.limit <= 16
        assert 0 <= window.find_hold(now) <= LONGEST_ASKED_S


@pytest.mark.parametrize(
    ("name", "regex", "choice"),
    [
        ("vllm", {"structured_outputs": {"regex": "a+"}}, {"structured_outputs": {"choice": ["a", "b.c"]}}),
        ("vllm-guided", {"guided_regex": "a+"}, {"guided_choice": ["a", "b.c"]}),
        ("xinference", {"guided_regex": "a+"}, {"guided_choice": ["a", "b.c"]}),
        ("sglang", {"regex": "a+"}, {"regex": r"(a|b\.c)"}),
        (
            "tgi",
            {"response_format": {"type": "regex", "value": "a+"}},
            {"response_format": {"type": "regex", "value": r"(a|b\.c)"}},
        ),
        ("batchinfer", {"response_format": REGEX}, {"response_format": CHOICE}),
    ],
)
def test_each_dialect_has_its_words(name: str, regex: dict[str, Any], choice: dict[str, Any]) -> None:
    assert find_dialect(name).write_format(REGEX) == regex
    assert find_dialect(name).write_format(CHOICE) == choice


def test_what_a_server_has_no_word_for_is_refused_and_not_dropped() -> None:
    plain = find_dialect("openai")
    for fields, code in [
        ({"response_format": REGEX}, "unsupported_response_format"),
        ({"response_format": {"type": "poem"}}, "invalid_response_format"),
        ({"response_format": {"type": "json_schema"}}, "invalid_response_format"),
        ({"sampling": Sampling(top_k=3)}, "bad_sampling"),
        ({"sampling": Sampling(repetition_penalty=1.2)}, "bad_sampling"),
    ]:
        with pytest.raises(Refused) as refused:
            plain.check(ask(**fields))
        assert refused.value.code == code
    plain.check(ask(sampling=Sampling(temperature=0.3, top_p=0.5, seed=1)))
    with pytest.raises(Refused):
        find_dialect("vllm").check(ask(response_format={"type": "choice", "choice": []}))


def test_every_dialect_takes_json() -> None:
    schema = {"type": "object"}
    for dialect in DIALECTS.values():
        assert dialect.write_format({"type": "json_object"}) == {"response_format": {"type": "json_object"}}
        assert json.dumps(schema) in json.dumps(dialect.write_format({"type": "json_schema", "schema": schema}))
        assert dialect.write_format(None) == dialect.write_format({"type": "text"}) == {}


def refusal_of(take: Callable[[bytes], object], data: bytes) -> str | None:
    """The code with which it is refused; None where it is taken. Nothing but UpstreamError may leave."""
    try:
        take(data)
    except UpstreamError as error:
        return error.failure.code
    return None


@given(st.binary(max_size=300))
def test_rubbish_is_refused_in_words(data: bytes) -> None:
    for take in (Answer().take_whole, Answer().take_line):
        assert refusal_of(take, data) in (None, "upstream_garbled")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "message", "content", "usage", "error", "logprobs", "model", "code"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_json_of_any_shape_is_an_answer_or_refused(body: Any) -> None:
    content = json.dumps(body).encode()
    for take in (Answer().take_whole, lambda data: Answer().take_line(b"data: " + data)):
        assert refusal_of(take, content) != ""


@given(st.lists(st.text("ab\n\r", max_size=6)), st.integers(1, 5))
def test_lines_are_cut_alike_wherever_the_pieces_end(texts: list[str], size: int) -> None:
    data = "".join(texts).encode() + b"\n"
    lines = Lines()
    found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
    assert found == [line.rstrip(b"\r") for line in data.split(b"\n")[:-1]]


def test_a_line_without_an_end_is_refused() -> None:
    lines = Lines()
    for _ in range(8):
        assert list(lines.feed(b"x" * 2**20)) == []
    with pytest.raises(UpstreamError):
        list(lines.feed(b"x"))


def test_addresses() -> None:
    assert read_address("http://here:8000") == "http://here:8000/v1"
    assert read_address("https://here/v1/") == "https://here/v1"
    assert read_address("http://here/models/a") == "http://here/models/a/v1"
    for wrong in ("here:8000", "http://", "http://here?x=1", "http://a@here", "file:///etc"):
        with pytest.raises(ModelError):
            read_address(wrong)


def test_small_readers() -> None:
    assert [read_wait(value) for value in ("3", "0.5", None, "soon", "-1", "nan", "1e9")] == [
        3.0, 0.5, None, None, None, None, None,
    ]  # fmt: skip
    page = '# HELP q\nq{a="1"} 2.0\nq{a="2"} 3.0\nq_other 9\nrest'
    assert (read_metric(page, "q"), read_metric(page, "nothing")) == (5, None)
    assert read_options(RemoteOptions, {"silence_s": 3, "concurrency": None, "extra": {"a": [1]}}).silence_s == 3


def test_auto_takes_vllm_only_where_everything_speaks_for_it() -> None:
    knows = VllmFacts("0.32.0", frozenset({"Qwen3VLForConditionalGeneration"}), "")
    name = "Qwen3VLForConditionalGeneration"

    def choose(**changed: Any) -> Any:
        return choose_engine(**({"device": "cuda:0", "vllm": knows, "architecture": name} | changed))

    assert choose().kind == "vllm"
    assert choose(agreement=Agreement(5, 5)).kind == "vllm"
    assert choose(agreement=Agreement(0, 0)).kind == "vllm"
    against = {
        "CUDA": choose(device="cpu"),
        "no Python": choose(vllm=VllmFacts()),
        "does not know": choose(architecture="Other"),
        "no architecture": choose(architecture=None),
        "4 of 5": choose(agreement=Agreement(4, 5)),
        "vllm_ended": choose(failed="vllm_ended"),
    }
    for why, choice in against.items():
        assert choice.kind == "ours"
        assert why in choice.reason
