"""Answers against what their prompt asks for, and the ladder of a page."""

from __future__ import annotations

import json
import random
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.domain.limits import Limits
from batchinfer.domain.loops import MAX_SPAN, find_span, has_loop
from batchinfer.domain.pipelines import parse_pipeline
from batchinfer.domain.quality import (
    begin_again,
    climb,
    find_documents,
    find_fault,
    make_quality,
    make_seed,
    read_quality,
)
from batchinfer.domain.reuse import make_key
from batchinfer.domain.schemas import find_violation
from batchinfer.samples.vocabulary import HELD_OUT_ITEMS, HELD_OUT_VENDOR_WORDS
from batchinfer.settings import Settings

JOB, DOCUMENT = UUID(int=7), UUID(int=8)
NORMAL = {"sha256": "1" * 64, "media_type": "image/png", "width": 8, "height": 8}
ERROR = {"code": "output_empty", "message": "It is empty."}


def make_prompt(*, blank: bool = False, **pipeline: Any) -> dict[str, Any]:
    """A page's prompt as it is stored."""
    given = {"model": "small", "prompt": "read it", **pipeline}
    parsed = parse_pipeline(given, Limits.of(Settings(_env_file=None)))
    return {
        "messages": [], "max_tokens": 100, "stop": [], "sampling": parsed.sampling,
        "images": [{"page": 3, "sha256": "1" * 64, "media_type": "image/png", "normal": NORMAL}],
        "response_format": parsed.response_format, "quality": make_quality(parsed, blank=blank),
    }  # fmt: skip


def find_code(prompt: dict[str, Any], text: str, finish: str = "stop") -> str | None:
    fault = find_fault(prompt, text, finish)
    return None if fault is None else fault.code


# The checks


@pytest.mark.parametrize(
    ("text", "finish", "code"),
    [
        ("A page of text.", "stop", None),
        ("A page of tex", "length", "output_truncated"),
        ("", "stop", "output_empty"),
        (" \n|---|---|\n . ", "stop", "output_empty"),
        ("7", "stop", None),
        ("頁", "stop", None),
        ("no " * 300, "stop", "output_repeats"),
        ("no " * 300, "length", "output_repeats"),
    ],
)
def test_each_fault_has_its_code(text: str, finish: str, code: str | None) -> None:
    assert find_code(make_prompt(), text, finish) == code


def test_what_is_not_checked_is_not_found() -> None:
    prompt = make_prompt(checks=[])
    assert [find_code(prompt, text, "length") for text in ("", "no " * 300)] == [None, None]
    assert find_code(make_prompt(blank=True), "") is None, "nothing is on the page"
    assert find_fault({"messages": []}, "", "length") is None, "a job of no run"


SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "number"}, "items": {"type": "array", "items": {"$ref": "#/$defs/item"}}},
    "required": ["total"],
    "additionalProperties": False,
    "$defs": {"item": {"type": "object", "required": ["name"]}},
}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"total": 3.5, "items": [{"name": "a"}]}', None),
        ('{"total": "3.5"}', "`total` breaks the rule `type`"),
        ('{"items": []}', "the whole of it breaks the rule `required`"),
        ('{"total": 1, "items": [{"name": "a"}, {}]}', "`items.1` breaks the rule `required`"),
        ('{"total": 1, "more": 2}', "`additionalProperties`"),
        ('{"total": 1', "it is not JSON"),
        ('{"total": NaN}', "it is not JSON"),
        ("```json\n{}\n```", "it is not JSON"),
    ],
)
def test_an_answer_is_held_to_its_schema(text: str, where: str | None) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    fault = find_fault(make_prompt(generation={"response_format": form}), text, "stop")
    assert (fault is None) == (where is None)
    if fault is not None:
        assert fault.code == "invalid_output"
        assert str(where) in fault.message


def test_json_without_a_schema_need_only_be_json() -> None:
    prompt = make_prompt(generation={"response_format": {"type": "json_object"}})
    assert (find_code(prompt, '{"a": 1}'), find_code(prompt, "a: 1")) == (None, "invalid_output")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"items": {"pattern": "^(a+)+$"}}, json.dumps(["a" * 60 + "!"])),
        ({"patternProperties": {"^(a+)+$": False}, "additionalProperties": False}, json.dumps({"a" * 60 + "!": 1})),
        ({"allOf": [{"patternProperties": {"^(a+)+$": {}}}], "unevaluatedProperties": False},
         json.dumps({"a" * 60 + "!": 1})),
        ({"$ref": "http://127.0.0.1:9/schema"}, "{}"),
        ({"$ref": "#/nowhere"}, "{}"),
        ({"type": "no such type"}, "{}"),
        ({"uniqueItems": True}, json.dumps([{"a": number} for number in range(20_000)])),
    ],
)  # fmt: skip
def test_a_hostile_schema_neither_hangs_nor_asks_anybody(schema: dict[str, Any], text: str) -> None:
    begun = time.process_time()
    assert find_violation(schema, text) is None
    assert time.process_time() - begun < 20, "an expression would take longer than anybody waits"


def test_a_schema_that_doubles_at_every_step_is_given_up() -> None:
    doubling = {f"d{step}": {"allOf": [{"$ref": f"#/$defs/d{step + 1}"}] * 2} for step in range(60)}
    found = find_violation({"$defs": {**doubling, "d60": {}}, "$ref": "#/$defs/d0"}, "{}")
    assert "too deep" in str(found)
    deep = {"$ref": "#/$defs/list", "$defs": {"list": {"items": {"$ref": "#/$defs/list"}}}}
    assert "too deep" in str(find_violation(deep, "[" * 900 + "]" * 900))


# Loops

WORDS = (*HELD_OUT_ITEMS, *HELD_OUT_VENDOR_WORDS)
WORD = st.sampled_from(WORDS)


@given(st.lists(WORD, min_size=1, max_size=80), st.lists(WORD, max_size=200), st.lists(WORD, max_size=100))
@settings(max_examples=60)
def test_words_that_come_too_often_are_a_loop_wherever_they_are(
    unit: list[str], before: list[str], after: list[str]
) -> None:
    times = MAX_SPAN // len(unit) + 40
    assert has_loop(" ".join([*before, *unit * times, *after]))


@given(st.lists(st.sampled_from(["0", "", "N/A", "-", "yes", "12.50", "x"]), min_size=1, max_size=6))
@settings(max_examples=60)
def test_a_page_of_equal_rows_is_a_table(cells: list[str]) -> None:
    """Some 60 lines are on a page; as Markdown and as HTML."""
    row = "| " + " | ".join(cells) + " |\n"
    assert not has_loop(f"| {' | '.join('abcdef'[: len(cells)])} |\n|{'---|' * len(cells)}\n" + row * 60)
    assert not has_loop("<table>" + f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells[:2])}</tr>\n" * 55 + "</table>")


@pytest.mark.parametrize(
    "text",
    [
        "Contents\n" + "\n".join(f"{number} A chapter {'.' * 120} {number * 7}" for number in range(1, 60)),
        "\n".join("_" * 100 for _ in range(60)),
        "|" + "-" * 5000 + "|\n",
        "\n".join(f"{number:03} 0.00 0.00 0.00 0.00" for number in range(200)),
        "[" + ", ".join("0" for _ in range(120)) + "]",
    ],
)
def test_dotted_lines_and_noughts_are_none(text: str) -> None:
    assert not has_loop(text)


def test_pages_of_text_are_none() -> None:
    draw = random.Random(3)
    assert not has_loop(" ".join(draw.choice(WORDS) for _ in range(6000)))


def test_other_scripts_loop_too() -> None:
    assert has_loop("很好" * 400)
    assert not has_loop("很好" * 30)


def test_the_spans_are_bounded() -> None:
    assert [find_span(period) for period in (1, 4, 10, 32, 64, 256)] == [256, 256, 640, 2048, 2048, 2048]


# The ladder


def test_every_rung_differs_from_the_first_try_alone() -> None:
    prompt = make_prompt(
        generation={"temperature": 0.1, "seed": 5}, render={"dpi": 90, "lossless": True},
        ladder=[{"temperature": 0.5}, {"rotate": 90}, {"model": "large"}, {"max_side": 900, "temperature": 0.7}],
    )  # fmt: skip
    model, seen = "small", []
    for _ in range(4):
        step = climb(prompt, job_id=JOB, model=model, document_id=DOCUMENT, error=ERROR)
        assert step is not None
        (image,) = step.prompt["images"]
        sampling = step.prompt["sampling"]
        seen.append((step.model, sampling["temperature"], sampling["seed"], image.get("render"), step.prepares))
        assert image["normal"] == (None if step.prepares else NORMAL)
        prompt, model = json.loads(json.dumps(step.prompt)), step.model
    drawn = {"dpi": 90, "lossless": True}
    assert seen == [
        ("small", 0.5, make_seed(JOB, 1), None, False),
        ("small", 0.1, 5, drawn | {"rotate": 90}, True),
        ("large", 0.1, 5, None, False),
        ("small", 0.7, make_seed(JOB, 4), drawn | {"max_side": 900}, True),
    ]


def test_the_last_step_is_the_pages_own_text_and_then_nothing() -> None:
    prompt = make_prompt(ladder=[])
    step = climb(prompt, job_id=JOB, model="small", document_id=DOCUMENT, error=ERROR)
    assert step is not None
    quality = read_quality(step.prompt)
    assert quality is not None
    assert (step.prepares, quality.falls_back, quality.error) == (True, True, ERROR)
    assert find_documents(step.prompt) == [DOCUMENT.hex]
    assert climb(step.prompt, job_id=JOB, model="small", document_id=DOCUMENT, error=ERROR) is None


@pytest.mark.parametrize(
    ("change", "document_id"),
    [({"fallback": "none"}, DOCUMENT), ({}, None)],
)
def test_without_a_text_to_read_there_is_no_last_step(change: dict[str, Any], document_id: UUID | None) -> None:
    prompt = make_prompt(ladder=[], **change)
    assert climb(prompt, job_id=JOB, model="small", document_id=document_id, error=ERROR) is None


def test_a_prompt_without_pages_has_none_to_read_or_draw() -> None:
    """As the one that merges the answers of all pages."""
    prompt = make_prompt(ladder=[{"rotate": 90}]) | {"images": []}
    step = climb(prompt, job_id=JOB, model="small", document_id=DOCUMENT, error=ERROR)
    assert step is not None
    assert not step.prepares
    assert climb(step.prompt, job_id=JOB, model="small", document_id=DOCUMENT, error=ERROR) is None


def test_a_page_begins_again_as_it_was() -> None:
    prompt = make_prompt(ladder=[{"temperature": 0.5, "rotate": 90}])
    step = climb(prompt, job_id=JOB, model="small", document_id=DOCUMENT, error=ERROR)
    assert step is not None
    assert begin_again(step.prompt) == prompt
    assert begin_again(prompt) == prompt
    assert begin_again({"images": []}) == {"images": []}


def test_seeds_are_the_same_each_time_and_differ_by_job_and_rung() -> None:
    seeds = {make_seed(UUID(int=job), rung) for job in range(20) for rung in range(1, 9)}
    assert len(seeds) == 160
    assert make_seed(JOB, 2) == make_seed(UUID(int=7), 2)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_what_is_checked_is_part_of_what_an_answer_is_kept_under() -> None:
    plain = make_prompt()
    checked, other = make_prompt(), make_prompt(ladder=[{"temperature": 0.3}])
    del plain["quality"]
    keys = [make_key("small", prompt) for prompt in (plain, checked, other)]
    assert len(set(keys)) == 3
    step = climb(checked | {"quality": checked["quality"] | {"ladder": []}}, job_id=JOB, model="small",
                 document_id=DOCUMENT, error=ERROR)  # fmt: skip
    assert step is not None
    kept = make_key("small", checked | {"quality": checked["quality"] | {"ladder": []}})
    assert make_key("small", step.prompt) == kept, "how far it has come is not"
