"""Answers held to JSON, a schema, an expression or a choice, with a model that would write anything."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workers
from batchinfer.samples import draw_page
from workers.engine.constrain import Grammar, GrammarCompiler
from workers.engine.engine import TransformersEngine, compile_grammars
from workers.engine.grammars import measure_regex
from workers.engine.loader import LoadedModel, load_model
from workers.engine.protocol import Done, Image, Refused, Request, Sampling
from workers.engine.scheduler import LengthClass

pytest.importorskip("llguidance")

PATIENCE_S = 120.0
NewRequest = Callable[..., Request]
INVOICE = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["invoice", "quote"]},
        "number": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "paid": {"type": "boolean"},
        "lines": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["kind", "number", "paid", "lines"],
    "additionalProperties": False,
}


@pytest.fixture
def engine(qwen3_vl: LoadedModel) -> Iterator[TransformersEngine]:
    opened = TransformersEngine(qwen3_vl, classes=[LengthClass(4, 512)])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def compiler(qwen3_vl: LoadedModel) -> GrammarCompiler:
    return compile_grammars(qwen3_vl)


def ask(engine: TransformersEngine, requests: list[Request]) -> list[Done]:
    return [handle.result(PATIENCE_S) for handle in [engine.submit(request) for request in requests]]


def held_to(new_request: NewRequest, response_format: dict[str, Any], count: int = 5) -> list[Request]:
    """Greedy once, then warmer and warmer; some in company of a picture."""
    return [
        new_request(
            f"give {number}",
            images=number % 2,
            max_tokens=300,
            sampling=Sampling(temperature=0.5 * number, seed=number),
            response_format=response_format,
        )
        for number in range(count)
    ]


def test_a_schema_is_met(engine: TransformersEngine, new_request: NewRequest) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": INVOICE}}
    answers = ask(engine, held_to(new_request, response_format))
    assert {done.finish for done in answers} == {"stop"}
    for done in answers:
        found = json.loads(done.text)
        assert set(found) == set(INVOICE["properties"])  # type: ignore[call-overload]
        assert found["kind"] in {"invoice", "quote"}
        assert re.fullmatch("[A-Z]{2}-[0-9]{3}", found["number"])
        assert all(0 <= line <= 99 for line in found["lines"])
        assert len(found["lines"]) <= 3
    assert len({done.text for done in answers}) > 1


@pytest.mark.parametrize("expression", [r"[A-Z]{2}-\d{4}", r"(yes|no)( indeed){0,2}", r"[^a]{3,5}\.", "é+!"])
def test_an_expression_is_matched(engine: TransformersEngine, new_request: NewRequest, expression: str) -> None:
    for done in ask(engine, held_to(new_request, {"type": "regex", "regex": expression})):
        assert done.finish == "stop" or expression == "é+!"
        if done.finish == "stop":
            assert re.fullmatch(expression, done.text)


def test_one_of_the_choices_is_taken(engine: TransformersEngine, new_request: NewRequest) -> None:
    choices = ["red", "red and blue", 'a "quoted" one', "naïve\nline", "<|im_end|>"]
    answers = ask(engine, held_to(new_request, {"type": "choice", "choice": choices}, count=12))
    assert {done.finish for done in answers} == {"stop"}
    assert {done.text for done in answers} <= set(choices)
    assert len({done.text for done in answers}) > 1


def test_a_json_object_is_one_or_the_beginning_of_one(engine: TransformersEngine, new_request: NewRequest) -> None:
    for done in ask(engine, held_to(new_request, {"type": "json_object"}, count=8)):
        assert done.text.startswith("{")
        assert done.finish in {"stop", "length"}
        if done.finish == "stop":
            assert isinstance(json.loads(done.text), dict)


def test_too_few_tokens_end_with_length(engine: TransformersEngine, new_request: NewRequest) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": INVOICE}}
    done = ask(engine, [new_request(max_tokens=5, response_format=response_format)])[0]
    assert (done.finish, done.usage.completion_tokens) == ("length", 5)
    assert json.dumps({"kind": ""}, separators=(",", ":")).startswith(done.text[:8])


def test_a_stop_string_ends_a_held_answer(engine: TransformersEngine, new_request: NewRequest) -> None:
    request = new_request(response_format={"type": "choice", "choice": ["one; two"]}, stop=(";",), max_tokens=50)
    done = ask(engine, [request])[0]
    assert (done.text, done.finish) == ("one", "stop")


def test_free_text_beside_it_is_untouched(engine: TransformersEngine, new_request: NewRequest) -> None:
    alone = ask(engine, [new_request("free", max_tokens=30)])[0]
    requests = held_to(new_request, {"type": "regex", "regex": "[0-9]{20}"}, count=3)
    beside = ask(engine, [*requests, new_request("free", max_tokens=30)])[-1]
    assert beside.token_ids == alone.token_ids
    text = ask(engine, [new_request("free", max_tokens=30, response_format={"type": "text"})])[0]
    assert text.token_ids == alone.token_ids


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def schema(inner: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}


BAD = {
    "an unknown kind": {"type": "xml"},
    "no expression": {"type": "regex"},
    "an expression of another type": {"type": "regex", "regex": 5},
    "an open bracket": {"type": "regex", "regex": "(a"},
    "look-around": {"type": "regex", "regex": "(?=a)b"},
    "an expression that explodes": {"type": "regex", "regex": "(a{1,1000}){1,1000}"},
    "one that explodes in a schema": schema({"type": "string", "pattern": "(a{1,1000}){1,1000}"}),
    "a very long expression": {"type": "regex", "regex": "a" * 30_000},
    "no choices": {"type": "choice", "choice": []},
    "an empty choice": {"type": "choice", "choice": ["a", ""]},
    "choices that are a text": {"type": "choice", "choice": "abc"},
    "too many choices": {"type": "choice", "choice": [str(number) for number in range(1001)]},
    "no schema": {"type": "json_schema"},
    "a schema that is a text": schema("string"),
    "nothing allowed": schema({"type": "string", "enum": []}),
    "a contradiction": schema({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    "lengths that cross": schema({"type": "string", "minLength": 5, "maxLength": 2}),
    "an unknown type": schema({"type": "bogus"}),
    "a reference to elsewhere": schema({"$ref": "http://example.org/schema"}),
    "a schema of great depth": schema(deep(5000)),
    "a huge schema": schema({"enum": ["x" * 100 + str(number) for number in range(3000)]}),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_what_cannot_be_held_to_is_refused_before_the_loop(
    engine: TransformersEngine, new_request: NewRequest, name: str
) -> None:
    running = engine.submit(new_request("others never notice", max_tokens=20))
    try:
        done = ask(engine, [new_request(response_format=BAD[name])])[0]
    except Refused as refused:
        code, message = refused.code, refused.message
    else:
        assert done.error is not None
        assert done.usage.completion_tokens == 0
        code, message = done.error.code, done.error.message
    assert code == "invalid_response_format"
    assert "response_format" in message
    assert len(message) < 400
    assert running.result(PATIENCE_S).error is None


def test_a_grammar_that_reaches_its_limits_ends_its_request_alone(
    engine: TransformersEngine, new_request: NewRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def give_up(_: Grammar) -> None:
        calls.append(1)

    good = new_request("free", max_tokens=30)
    monkeypatch.setattr(Grammar, "allowed", give_up)
    monkeypatch.setattr(GrammarCompiler, "compile", lambda _, asked: Grammar(Copies(), 0, None) if asked else None)
    held, free = ask(engine, [new_request(response_format={"type": "json_object"}), good])
    assert calls
    assert held.error is not None
    assert held.error.code == "grammar_limit"
    assert free.error is None


class Copies:
    """A matcher that can be copied and nothing else."""

    def deep_copy(self) -> Copies:
        return self

    def reset(self) -> None:
        pass


def test_a_panic_in_the_library_is_a_limit_and_not_the_end_of_the_engine() -> None:
    class Panic(BaseException):
        """As the library's own, which is no Exception."""

    class Panics:
        def compute_bitmask(self) -> bytes:
            raise Panic

        def consume_token(self, _: int) -> bool:
            raise Panic

    grammar = Grammar(Panics(), 10, None)  # type: ignore[arg-type]
    assert grammar.allowed() is None
    assert not grammar.accept(3)


def test_without_the_library_the_remedy_is_named(
    qwen3_vl: LoadedModel, new_request: NewRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance.hf", None)
    engine = TransformersEngine(qwen3_vl, classes=[LengthClass(2, 512)])
    with pytest.raises(Refused, match="guided") as refused:
        engine.submit(new_request(response_format={"type": "json_object"}))
    assert refused.value.code == "unsupported_response_format"
    assert ask(engine, [new_request()])[0].error is None
    engine.close()


def test_the_bundled_model_is_held_to_a_schema(tmp_path: Path) -> None:
    loaded = load_model(Path(workers.__file__).parent / "models" / "docreader", threads=1)
    path = tmp_path / "page.png"
    draw_page(31).image.convert("RGB").save(path)
    content = [{"type": "image", "index": 0}, {"type": "text", "text": "Extract."}]
    wanted = {
        "type": "object",
        "properties": {"total": {"type": "string", "pattern": "^[0-9]{1,5}\\.[0-9]{2}$"}, "vendor": {"type": "string"}},
        "required": ["total", "vendor"],
        "additionalProperties": False,
    }
    request = Request(
        "page", ({"role": "user", "content": content},), (Image("1" * 64, path),), max_tokens=200,
        response_format=schema(wanted),
    )  # fmt: skip
    engine = TransformersEngine(loaded, classes=[LengthClass(2, 1024)])
    done = ask(engine, [request, dataclasses.replace(request, id="again")])[1]
    engine.close()
    assert done.finish == "stop"
    assert set(json.loads(done.text)) == {"total", "vendor"}


@pytest.mark.parametrize(
    ("expression", "size"),
    [
        ("abc", 3),
        ("a{3}", 3),
        ("a{2,5}b", 6),
        ("(ab){10}", 20),
        ("((ab){10}){10}", 200),
        ("[^]a{9}]{4}", 4),
        (r"\{9\}", 3),
        (r"[\]x]{3}", 3),
        ("a{3,}", 3),
        ("(a|b)*c", 3),
        ("{5}", 0),
        ("a{", 2),
        ("[abc", 1),
    ],
)
def test_repetitions_are_written_out_to_measure_an_expression(expression: str, size: int) -> None:
    assert measure_regex(expression) == size


@given(st.text(alphabet=r"ab()[]{}0123456789,*+?|\^-", max_size=60))
def test_any_expression_can_be_measured(expression: str) -> None:
    assert measure_regex(expression) >= 0


def test_a_compiled_grammar_begins_afresh_for_each_answer(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile({"type": "choice", "choice": ["ab"]})
    assert grammar is not None
    first = grammar.fresh()
    allowed = first.allowed()
    assert allowed is not None
    token = int(allowed.nonzero()[0])
    assert first.accept(token)
    again = grammar.fresh().allowed()
    assert again is not None
    assert again.tolist() == allowed.tolist()
