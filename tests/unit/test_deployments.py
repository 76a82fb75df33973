"""What a deployment may say, golden prompts and how they are judged, and the steps of a swap."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.deployments import DEFAULTS, parse_deployment
from batchinfer.domain.goldens import GoldenPrompt, find_mismatch, parse_goldens
from batchinfer.domain.limits import Limits
from batchinfer.domain.swaps import MOVES, Step, SwapState, decide, parse_rollback, parse_swap
from batchinfer.errors import BadImage, BadRequest
from batchinfer.media.golden_files import read_golden_file

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = Limits(default_max_tokens=64, max_tokens=1000, max_prompt_chars=5000, max_images=4, max_body_bytes=2**20)
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32
URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def test_a_spec_keeps_what_is_said_and_takes_defaults_for_the_rest() -> None:
    spec = parse_deployment({"model": "m", "device": "cuda:1", "idle_s": "30m", "slots": None, "labels": {"zone": "a"}})
    assert (spec.model, spec.device) == ("m", "cuda:1")
    assert spec.given == {"idle_s": 1800, "slots": None, "labels": {"zone": "a"}}
    assert spec.whole == DEFAULTS | spec.given
    assert parse_deployment({"model": "m"}).device == "auto"
    assert parse_deployment({"model": "m", "idle_s": 90}).given == {"idle_s": 90}


@pytest.mark.parametrize(
    ("field_", "value", "code"),
    [
        ("model", None, "missing_required_parameter"), ("model", "", "invalid_value"),
        ("replicas", 65, "invalid_value"), ("replicas", -1, "invalid_value"), ("replicas", "2", "invalid_type"),
        ("device", "gpu", "invalid_value"), ("device", "cuda:", "invalid_value"), ("device", "auto\n", "invalid_value"),
        ("engine", "onnx", "invalid_value"), ("dtype", "int8", "invalid_value"),
        ("quantisation", "q4", "invalid_value"),
        ("memory_mib", 0, "invalid_value"), ("slots", 0, "invalid_value"), ("class", "night", "invalid_value"),
        ("pinned", 1, "invalid_type"), ("idle_s", "soon", "invalid_value"), ("idle_s", 0, "invalid_value"),
        ("idle_s", "31d", "invalid_value"), ("priority", 1001, "invalid_value"), ("labels", [], "invalid_type"),
        ("labels", {"a": 1}, "invalid_type"), ("options", "x", "invalid_type"),
        ("options", {"x": "y" * 16_000}, "invalid_value"), ("revision", "", "invalid_value"),
        ("quantization", "int8", "unknown_parameter"), ("revision", "a\0", "invalid_characters"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named_with_a_remedy(field_: str, value: Any, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_deployment({"model": "m", field_: value})
    assert (caught.value.code, str(caught.value.param).split(".")[0]) == (code, field_)
    assert caught.value.message.endswith((".", "?"))


def test_a_swap_names_a_revision() -> None:
    asked = parse_swap({"revision": "b", "golden": [{"prompt": "x", "expect": "y"}], "drain_first": True}, LIMITS)
    assert (asked.revision, asked.drain_first, asked.golden[0].expected) == ("b", True, "y")
    assert (asked.within_s, parse_swap({"revision": "b", "within_s": "30m"}, LIMITS).within_s) == (7200, 1800)
    back = parse_rollback({"drain_first": True, "within_s": 60})
    assert (back.drain_first, back.within_s, parse_rollback({}).drain_first) == (True, 60, False)
    bad = {"revision": "b"}
    for body in (
        {},
        bad | {"force": True},
        bad | {"drain_first": 1},
        bad | {"within_s": 0},
        bad | {"within_s": "x"},
        [],
    ):
        with pytest.raises(BadRequest):
            parse_swap(body, LIMITS)


def test_golden_prompts_are_read_in_each_form_and_come_back_from_what_is_stored() -> None:
    content = [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "Read."}]
    exported = {
        "id": "gold_1", "job_id": "job_1", "model": "m", "created_at": 1, "answer": "Total: 1", "image": URL,
        "prompt": {
            "messages": [{"role": "user", "content": [{"type": "image", "index": 0}, {"type": "text", "text": "R"}]}],
            "sampling": {"temperature": 0.0, "seed": 7}, "max_tokens": 9, "stop": ["\n"], "response_format": None,
        },
    }  # fmt: skip
    lines = [
        {"prompt": "Read.", "image": URL, "expect": {"json": {"total": "1"}}, "max_tokens": 5},
        {"messages": [{"role": "user", "content": content}], "expect": {"contains": "a"}, "id": "second"},
        {"prompt": "Read.", "images": ["a" * 64, "b" * 64], "expect": {"regex": "^a"}},
        exported,
    ]
    found = parse_goldens(lines, LIMITS)
    assert [one.name for one in found] == ["0", "second", "2", "gold_1"]
    assert [one.kind for one in found] == ["json", "contains", "regex", "text"]
    assert [len(one.pictures) for one in found] == [1, 1, 2, 1]
    assert found[0].messages[0]["content"][0] == {"type": "image", "index": 0}
    assert (found[3].max_tokens, found[3].sampling["seed"], found[3].stop) == (9, 7, ("\n",))
    kept = json.loads(json.dumps({**found[2].as_stored()}))
    assert GoldenPrompt.from_stored(kept) == GoldenPrompt(
        **{**vars(found[2]), "pictures": tuple(type(p)(sha256=p.sha256) for p in found[2].pictures)}
    )


@pytest.mark.parametrize(
    "line",
    [
        {}, "x", {"prompt": "x"}, {"expect": "x"}, {"prompt": "x", "expect": 5}, {"prompt": "x", "expect": {}},
        {"prompt": "x", "expect": {"json": 1}}, {"prompt": "x", "expect": {"regex": "("}},
        {"prompt": "", "expect": "y"},
        {"prompt": "x", "expect": {"contains": []}}, {"prompt": "x", "expect": {"text": "a", "json": {}}},
        {"prompt": "x", "expect": "y", "image": "page.png"}, {"prompt": "x", "expect": "y", "image": 5},
        {"prompt": "x", "expect": "y", "image": URL, "images": []}, {"prompt": "x", "expect": "y", "other": 1},
        {"prompt": "x", "messages": [], "expect": "y"}, {"messages": [], "expect": "y"},
        {"prompt": {"messages": [{"role": "user", "content": [{"type": "image", "index": 0}]}]}, "answer": "y"},
        {"prompt": {}, "answer": "y"}, {"prompt": "x", "expect": "y", "max_tokens": 0},
        {"prompt": "x", "expect": "y", "images": ["a" * 64] * 5},
    ],
)  # fmt: skip
def test_a_bad_golden_prompt_is_refused_by_its_place(line: Any) -> None:
    with pytest.raises((BadRequest, BadImage)) as caught:
        parse_goldens([{"prompt": "x", "expect": "y"}, line], LIMITS)
    assert str(caught.value.param).startswith(("golden.1", "messages", "max_tokens"))


def test_too_many_golden_prompts() -> None:
    with pytest.raises(BadRequest, match="limit is 200"):
        parse_goldens([{"prompt": "x", "expect": "y"}] * 201, LIMITS)


def test_a_golden_file_is_read_with_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(PNG)
    path = tmp_path / "golden.jsonl"
    path.write_text('{"prompt": "x", "image": "page.png", "expect": "y"}\n\n{"prompt": "z", "expect": "y"}\n')
    lines = read_golden_file(path)
    assert (lines[0]["image"], len(lines)) == (URL, 2)
    assert parse_goldens(lines, LIMITS)[0].pictures[0].data == PNG
    for bad in ('{"prompt": "x", "image": "gone.png", "expect": "y"}', "{", "[]", ""):
        path.write_text(bad)
        with pytest.raises(BadRequest, match=r"golden.jsonl"):
            read_golden_file(path)


@pytest.mark.parametrize(
    ("kind", "expected", "answer", "right"),
    [
        ("text", "42", " 42\n", True), ("text", "42", "43", False),
        ("contains", ["a", "b"], "b and a", True), ("contains", ["a", "c"], "b and a", False),
        ("regex", r"\d+ EUR", "it is 42 EUR", True), ("regex", r"^\d+$", "x", False),
        ("json", {"total": 42}, '{"total": 42.0, "more": 1}', True),
        ("json", {"a": {"b": [1]}}, '```json\n{"a": {"b": [1], "c": 2}}\n```', True),
        ("json", {"a": {"b": [1]}}, '{"a": {"b": [1, 2]}}', False),
        ("json", {"a": 1}, '{"b": 1}', False), ("json", {"a": True}, '{"a": 1}', False),
        ("json", {"a": 1}, "[]", False), ("json", {"a": 1}, "no", False),
    ],
)  # fmt: skip
def test_an_answer_is_judged(kind: str, expected: Any, answer: str, right: bool) -> None:
    fault = find_mismatch(kind, expected, answer)
    assert (fault is None) is right
    assert fault is None or fault.endswith(".")


@dataclass(frozen=True)
class Row:
    """A replica as `decide` looks at it."""

    state: str
    wanted: str = "stand_by"
    error: dict[str, Any] | None = field(default=None)


def rows(*states: str) -> list[Row]:
    return [Row(state) for state in states]


L, T = SwapState.LOADING, SwapState.TESTING


@pytest.mark.parametrize(
    ("now", "wanted", "replicas", "to"),
    [
        (L, 1, [], None),
        (L, 1, rows("planned"), None),
        (L, 2, rows("verifying"), None),
        (L, 2, rows("verifying", "loading"), None),
        (L, 2, rows("verifying", "standing_by"), T),
        (T, 2, rows("verifying", "standing_by"), None),
        (T, 2, rows("stopped", "standing_by"), L),
        (T, 2, rows("standing_by", "standing_by"), SwapState.SWITCHED),
        (L, 1, rows("standing_by"), SwapState.SWITCHED),
        (L, 1, rows("stopped", "standing_by"), SwapState.SWITCHED),
        (L, 0, [], SwapState.SWITCHED),
        (L, 2, rows("standing_by", "failed"), SwapState.FAILED),
        (T, 1, [Row("standing_by", wanted="drain")], L),
        (L, 1, rows("standing_by", "loading"), None),
        (SwapState.FAILED, 1, rows("standing_by"), None),
    ],
)
def test_what_a_swap_does_next(now: SwapState, wanted: int, replicas: list[Row], to: SwapState | None) -> None:
    step = decide(now, wanted, replicas)
    assert step.to is to
    assert to is None or to in MOVES[now]


def test_a_swap_says_why_it_fails_and_a_rollback_how_it_ends() -> None:
    error = {"code": "golden_failed", "message": "No."}
    assert decide(L, 1, [Row("failed", error=error)]) == Step(SwapState.FAILED, error)
    told = decide(L, 1, rows("failed")).error
    assert told is not None
    assert told["code"] == "load_failed"
    assert decide(L, 1, rows("standing_by"), rollback=True).to is SwapState.ROLLED_BACK


def test_a_swap_whose_time_is_over_fails_unless_it_is_ready() -> None:
    late = decide(T, 2, rows("standing_by", "verifying"), overdue_s=7200)
    assert late.error is not None
    assert (late.to, late.error["code"]) == (SwapState.FAILED, "swap_overdue")
    assert "7,200 s 1 of 2" in late.error["message"]
    assert decide(L, 1, [], overdue_s=60).to is SwapState.FAILED, "one that waits for room, too"
    assert decide(T, 1, rows("standing_by"), overdue_s=60).to is SwapState.SWITCHED


def test_every_state_of_a_swap_has_a_way_out_or_is_an_end() -> None:
    assert set(MOVES) == set(SwapState)
    for state in (L, T):
        assert {SwapState.SWITCHED, SwapState.FAILED, SwapState.CANCELLED} <= MOVES[state]
    assert [state for state in SwapState if state.is_terminal] == [s for s in SwapState if not MOVES[s]]
