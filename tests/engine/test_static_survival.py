"""One request's misfortune is its own: memory, exceptions, bad pictures, scores that are no numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.engine.loader import LoadedModel
from workers.engine.protocol import Image, Refused, Request
from workers.engine.static import StaticBatchEngine

PATIENCE_S = 60.0
NewRequest = Callable[..., Request]


@pytest.fixture
def engine(qwen3_vl: LoadedModel) -> Iterator[StaticBatchEngine]:
    opened = StaticBatchEngine(dataclasses.replace(qwen3_vl, eos_ids=frozenset()), slots=8)
    yield opened
    opened.close()


def run(engine: StaticBatchEngine, requests: list[Request]) -> list[Any]:
    return [handle.result(PATIENCE_S) for handle in [engine.submit(request) for request in requests]]


def test_out_of_memory_splits_until_it_fits(
    engine: StaticBatchEngine, qwen3_vl: LoadedModel, new_request: NewRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [new_request("fits", images=1, first_image=number) for number in range(6)]
    expected = [done.text for done in run(engine, requests)]
    sizes = []
    original = qwen3_vl.model.generate

    def small(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no memory")
        return original(**inputs)

    monkeypatch.setattr(qwen3_vl.model, "generate", small)
    assert [done.text for done in run(engine, requests)] == expected
    assert max(sizes) > 2, "a batch was too large at first"


def test_what_does_not_fit_alone_fails_alone(
    engine: StaticBatchEngine, qwen3_vl: LoadedModel, new_request: NewRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = qwen3_vl.model.generate

    def narrow(**inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > 200:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return original(**inputs)

    monkeypatch.setattr(qwen3_vl.model, "generate", narrow)
    *fitting, huge = run(engine, [*(new_request(str(n)) for n in range(5)), new_request("x" * 220)])
    assert {done.finish for done in fitting} == {"length"}
    assert huge.finish == "error"
    assert huge.error.code == "out_of_memory"
    assert not huge.error.transient
    assert "prompt tokens" in huge.error.message
    assert "DefaultCPUAllocator" not in huge.error.message


def test_an_exception_in_a_batch_is_put_down_to_its_culprit(
    engine: StaticBatchEngine, qwen3_vl: LoadedModel, new_request: NewRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = qwen3_vl.processing.tokenizer.convert_tokens_to_ids("~")
    original = qwen3_vl.model.generate

    def picky(**inputs: Any) -> Any:
        if bool((inputs["input_ids"] == culprit).any()):
            raise ValueError("a secret of the library")
        return original(**inputs)

    monkeypatch.setattr(qwen3_vl.model, "generate", picky)
    *good, bad = run(engine, [*(new_request(str(number)) for number in range(5)), new_request("~")])
    assert {done.finish for done in good} == {"length"}
    assert bad.error.code == "generation_failed"
    assert "secret" not in bad.error.message


def test_text_is_not_streamed_twice_when_a_batch_begins_again(
    engine: StaticBatchEngine, qwen3_vl: LoadedModel, new_request: NewRequest
) -> None:
    pieces: list[str] = []
    broken = []

    def break_once(module: Any, args: Any, output: torch.Tensor) -> None:
        if output.shape[0] == 2 and len(pieces) >= 5 and not broken:
            broken.append(True)
            raise ValueError("once")

    hook = qwen3_vl.model.lm_head.register_forward_hook(break_once)
    before = engine.submit(new_request("before", max_tokens=400))
    handle = engine.submit(new_request("stream", max_tokens=30), on_token=lambda _, text: pieces.append(text))
    company = engine.submit(new_request("company", max_tokens=30))
    engine.cancel(before.id)  # what follows it starts together
    done = handle.result(PATIENCE_S)
    hook.remove()
    assert broken
    assert (done.finish, company.result(PATIENCE_S).finish) == ("length", "length")
    assert "".join(pieces) == done.text


def test_scores_that_are_no_numbers_end_that_request(
    engine: StaticBatchEngine, qwen3_vl: LoadedModel, new_request: NewRequest
) -> None:
    culprit = qwen3_vl.processing.tokenizer.convert_tokens_to_ids("~")
    rows: dict[str, Any] = {}

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"]
        if ids.shape[1] > 1:
            rows["bad"] = (ids == culprit).any(dim=1)

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill(rows["bad"][:, None, None], float("nan"))

    hooks = [
        qwen3_vl.model.register_forward_pre_hook(watch, with_kwargs=True),
        qwen3_vl.model.lm_head.register_forward_hook(spoil),
    ]
    *good, bad = run(engine, [*(new_request(str(number)) for number in range(3)), new_request("~")])
    for hook in hooks:
        hook.remove()
    assert {done.finish for done in good} == {"length"}
    assert bad.error.code == "not_a_number"


@pytest.mark.parametrize(
    ("content", "code", "transient"), [(None, "image_missing", True), (b"\x89PNG cut", "image_unreadable", False)]
)
def test_a_bad_picture_fails_its_request_alone(
    engine: StaticBatchEngine,
    new_request: NewRequest,
    tmp_path: Path,
    content: bytes | None,
    code: str,
    transient: bool,
) -> None:
    path = tmp_path / "picture.png"
    if content:
        path.write_bytes(content)
    bad_request = dataclasses.replace(new_request(images=1), images=(Image("0" * 64, path),))
    good, bad = run(engine, [new_request(images=1), bad_request])
    assert good.finish == "length"
    assert (bad.finish, bad.error.code, bad.error.transient) == ("error", code, transient)
    assert str(tmp_path) not in bad.error.message


def test_a_prompt_longer_than_the_context_says_by_how_much(engine: StaticBatchEngine, new_request: NewRequest) -> None:
    good, bad = run(engine, [new_request(), new_request("x" * 600)])
    assert good.finish == "length"
    assert bad.error.code == "context_length_exceeded"
    assert "512" in bad.error.message


def test_an_answer_ends_where_the_context_ends(engine: StaticBatchEngine, new_request: NewRequest) -> None:
    done = run(engine, [new_request("x" * 400, max_tokens=512)])[0]
    assert done.finish == "length"
    assert done.usage.prompt_tokens + done.usage.completion_tokens == 512


def test_a_response_format_is_refused_with_the_remedy(engine: StaticBatchEngine, new_request: NewRequest) -> None:
    with pytest.raises(Refused, match="leave response_format out") as refused:
        engine.submit(new_request(response_format={"type": "json_object"}))
    assert refused.value.code == "unsupported_response_format"
    assert engine.submit(new_request(response_format={"type": "text"})).result(PATIENCE_S).finish == "length"


def test_a_template_that_refuses_the_roles(engine: StaticBatchEngine, qwen3_vl: LoadedModel) -> None:
    processor: Any = qwen3_vl.processing._processor
    template = processor.chat_template
    processor.chat_template = "{{ raise_exception('roles must alternate') }}"
    message = {"role": "user", "content": [{"type": "text", "text": "hm"}]}
    try:
        with pytest.raises(Refused) as refused:
            engine.submit(Request("roles", (message, message)))
    finally:
        processor.chat_template = template
    assert refused.value.code == "messages_refused"
