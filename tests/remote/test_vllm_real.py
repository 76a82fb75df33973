"""vLLM itself, its CPU build in .venv-peers, over a tiny model: `make test-vllm`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.conftest import PATIENCE_S, ask, wait_until
from workers.engine.protocol import Image, Sampling
from workers.engine.vllm import VllmEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    from bench.recipes import PeerError
    from bench.remote import open_vllm_target

    try:
        with open_vllm_target(4, tmp_path_factory.mktemp("vllm")) as target:
            assert isinstance(target.engine, VllmEngine)
            yield target.engine
    except PeerError as error:
        pytest.skip(str(error))


def test_text_and_picture_are_answered(engine: VllmEngine, tmp_path: Path) -> None:
    import PIL.Image

    PIL.Image.new("RGB", (96, 64), "orange").save(tmp_path / "one.png")
    pieces: list[str] = []
    handles = [
        engine.submit(ask("Hello", max_tokens=12), on_token=lambda _id, text: pieces.append(text)),
        engine.submit(ask("Look", images=(Image("0" * 64, tmp_path / "one.png"),), max_tokens=12)),
    ]
    text, picture = (handle.result(PATIENCE_S) for handle in handles)
    assert [done.error for done in (text, picture)] == [None, None]
    assert "".join(pieces) == text.text
    assert (text.usage.completion_tokens, picture.usage.completion_tokens) == (12, 12)
    assert picture.usage.prompt_tokens > text.usage.prompt_tokens
    assert picture.usage.image_tokens > 0


def test_formats_in_its_own_words(engine: VllmEngine) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    extra, ignore = dict(engine._bodies.writer.extra), engine._bodies.writer.extra
    assert extra == {"ignore_eos": True}
    ignore.clear()  # type: ignore[attr-defined]
    try:
        ends = {
            kind: engine.submit(ask("Answer", response_format=wanted, max_tokens=60)).result(PATIENCE_S)
            for kind, wanted in {
                "choice": {"type": "choice", "choice": ["red", "blue"]},
                "regex": {"type": "regex", "regex": "[0-9]{3}"},
                "schema": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
            }.items()
        }
    finally:
        ignore.update(extra)  # type: ignore[attr-defined]
    assert ends["choice"].text in ("red", "blue")
    assert re.fullmatch("[0-9]{3}", ends["regex"].text)
    assert json.loads(ends["schema"].text)["a"] in ("x", "y")


def test_sampling_seed_and_logprobs(engine: VllmEngine) -> None:
    sampling = Sampling(temperature=1.0, top_k=20, min_p=0.01, repetition_penalty=1.1, seed=5, logprobs=True)
    one, two = (engine.submit(ask("Say", sampling=sampling, max_tokens=10)).result(PATIENCE_S) for _ in range(2))
    assert one.text == two.text
    assert one.logprobs is not None
    assert len(one.logprobs) == 10
    assert all(entry["logprob"] <= 0 for entry in one.logprobs)


def test_urgent_requests_and_cancelled_ones(engine: VllmEngine) -> None:
    long = [engine.submit(ask("Long", max_tokens=700, job_class="batch")) for _ in range(4)]
    wait_until(lambda: engine.stats().running == 4)
    urgent = engine.submit(ask("Now", job_class="interactive")).result(PATIENCE_S)
    assert urgent.finish == "length"
    for handle in long:
        engine.cancel(handle.id)
    assert {handle.result(PATIENCE_S).finish for handle in long} <= {"cancelled", "length"}


def test_a_prompt_that_is_too_long_is_told_so(engine: VllmEngine) -> None:
    done = engine.submit(ask("word " * 4000, max_tokens=16)).result(PATIENCE_S)
    assert done.error is not None
    assert (done.error.code, done.error.transient) == ("context_length_exceeded", False)
