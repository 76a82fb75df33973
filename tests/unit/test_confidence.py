"""Tokens against the fields of a JSON answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.api.bodies import show_job
from batchinfer.domain.confidence import Confidence, find_confidence
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import Job, JobClass, JobState


def make_tokens(*pairs):
    return [{"token": token, "logprob": math.log(probability)} for token, probability in pairs]


def test_each_field_has_the_mean_and_the_least_of_its_tokens() -> None:
    tokens = make_tokens(
        ('{"', 1.0), ("name", 0.5), ('": "', 1.0), ("Mu", 0.9), ("ster", 0.4), ('", "', 1.0), ("items", 1.0),
        ('": [', 1.0), ("{", 1.0), ('"price"', 1.0), (": ", 1.0), ("12", 0.25), (".50", 0.5), ("}, null", 0.8),
        ("]}", 1.0), ("<end>", 0.1),
    )  # fmt: skip
    text = '{"name": "Muster", "items": [{"price": 12.50}, null]}'
    assert find_confidence(text, tokens) == {
        "name": Confidence(0.6, 0.4),
        "items.0.price": Confidence(round(math.sqrt(0.125), 6), 0.25),
        "items.1": Confidence(0.8, 0.8),
    }


def test_a_token_over_a_border_counts_for_both_sides() -> None:
    tokens = make_tokens(('{"a":1', 0.5), (',"b":2', 0.25), ("}", 1.0))
    assert find_confidence('{"a":1,"b":2}', tokens) == {"a": Confidence(0.5, 0.5), "b": Confidence(0.25, 0.25)}


def test_an_empty_string_has_the_confidence_of_its_quotes() -> None:
    tokens = make_tokens(('{"a":', 1.0), ('""', 0.3), ("}", 1.0))
    assert find_confidence('{"a":""}', tokens) == {"a": Confidence(0.3, 0.3)}


def test_blanks_that_a_tokenizer_does_not_show_are_passed_over() -> None:
    tokens = make_tokens(('{"a":', 1.0), ('"x', 0.9), ("y", 0.4), ('"', 1.0), ("}", 1.0))
    assert find_confidence('{"a": "x y"}', tokens) == {"a": Confidence(0.6, 0.4)}


def test_tokens_of_parts_of_characters_are_found_again() -> None:
    tokens = make_tokens(('{"a":"', 1.0), ("\ufffd", 0.5), ("\ufffd", 0.5), ("ro", 0.5), ('","b":', 1.0), ("1", 0.25),
                         ("}", 1.0))  # fmt: skip
    found = find_confidence('{"a":"€ro","b":1}', tokens)
    assert found is not None
    assert found["b"] == Confidence(0.25, 0.25)
    assert found["a"] == Confidence(0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("no JSON", make_tokens(("no JSON", 1.0))),
        ('{"a": 1}', []),
        ('{"a": 1}', None),
        ('{"a": 1}', make_tokens(("something", 1.0), ("else", 1.0))),
        ('{"a": 1}', make_tokens(('{"a', 1.0))),
        ("[" * 5000 + "]" * 5000, make_tokens(("[" * 5000 + "]" * 5000, 1.0))),
    ],
)
def test_nothing_is_said_where_nothing_can_be_known(text, tokens) -> None:
    assert find_confidence(text, tokens) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("aé\"\\", max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def list_paths(value: object, path: tuple[str, ...] = ()) -> list[str]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in list_paths(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for at, inner in enumerate(value) for leaf in list_paths(inner, (*path, str(at)))]
    return [".".join(path)]


@settings(max_examples=40)
@given(VALUES, st.data())
def test_any_answer_cut_into_any_tokens(value, data) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 1])))
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=20))})
    tokens = [text[a:b] for a, b in pairwise(cuts)]
    chances = [data.draw(st.floats(0.01, 1.0)) for _ in tokens]
    found = find_confidence(text, make_tokens(*zip(tokens, chances, strict=True)))
    assert found is not None
    assert set(found) == set(list_paths(value))
    assert all(min(chances) - 1e-5 <= one.min <= one.mean + 1e-5 <= 1.0001 for one in found.values())


def test_a_job_shows_it() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    result = {
        "text": '{"a":1}', "finish_reason": "stop", "model": "m", "revision": "r", "engine": "fake",
        "versions": {"torch": "2.9"},
        "logprobs": make_tokens(('{"a":', 1.0), ("1", 0.5), ("}", 1.0)),
    }  # fmt: skip
    job = Job(
        new_id(), new_id(), JobState.SUCCEEDED, "m", JobClass.BATCH, {}, now, now, now, 1, 0, None, result=result
    )  # fmt: skip
    shown = json.loads(show_job(job).model_dump_json())["result"]
    assert shown["confidence"] == {"a": {"mean": 0.5, "min": 0.5}}
    assert "logprobs" not in shown
    assert shown["versions"] == {"torch": "2.9"}
    plain = {name: value for name, value in result.items() if name != "logprobs"}
    assert json.loads(show_job(replace(job, result=plain)).model_dump_json())["result"]["confidence"] is None
