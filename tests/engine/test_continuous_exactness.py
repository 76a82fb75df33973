"""The continuous engine through real processors: it answers as the static one, which answers as `generate`."""

from __future__ import annotations

import hashlib
import math
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import workers
from batchinfer.samples import draw_page
from workers.engine.continuous import open_continuous
from workers.engine.engine import TransformersEngine
from workers.engine.loader import LoadedModel, load_model
from workers.engine.protocol import Done, Engine, Image, Request, Sampling
from workers.engine.scheduler import LengthClass
from workers.engine.static import StaticBatchEngine

PATIENCE_S = 120.0
DOCREADER = Path(workers.__file__).parent / "models" / "docreader"
NewRequest = Callable[..., Request]


@pytest.fixture(scope="module", params=["qwen3_vl_folder", "llava_folder"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(request.getfixturevalue(request.param), threads=1)


@pytest.fixture
def engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    opened = open_continuous(loaded, slots=4)
    assert isinstance(opened, TransformersEngine), opened.verdict
    yield opened
    opened.close()


def ask(engine: Engine, requests: list[Request]) -> list[Done]:
    return [handle.result(PATIENCE_S) for handle in [engine.submit(request) for request in requests]]


def ragged(new_request: NewRequest) -> list[Request]:
    return [
        new_request("word " * (number % 5), images=number % 3, first_image=number, max_tokens=3 + 5 * (number % 4))
        for number in range(14)
    ]


def test_ragged_requests_equal_the_static_engine(
    engine: TransformersEngine, loaded: LoadedModel, new_request: NewRequest
) -> None:
    static = StaticBatchEngine(loaded, slots=1)
    expected = ask(static, ragged(new_request))
    static.close()
    answers = ask(engine, ragged(new_request))
    assert [done.token_ids for done in answers] == [done.token_ids for done in expected]
    assert [(done.text, done.finish) for done in answers] == [(done.text, done.finish) for done in expected]
    assert engine.stats().rows_per_step > 2
    assert [done.usage.prompt_tokens for done in answers] == [done.usage.prompt_tokens for done in expected]


def test_every_kind_of_sampling_is_that_of_the_static_engine(
    engine: TransformersEngine, loaded: LoadedModel, new_request: NewRequest
) -> None:
    def build() -> list[Request]:
        kinds = [
            Sampling(temperature=1.0, seed=3, top_p=0.9),
            Sampling(temperature=0.8, seed=4, top_k=20, logprobs=True),
            Sampling(temperature=1.2, seed=5, min_p=0.01, repetition_penalty=1.3),
            Sampling(repetition_penalty=1.7),
            Sampling(logprobs=True),
            Sampling(),
        ]
        return [new_request("seeded", images=1, max_tokens=20, sampling=sampling) for sampling in kinds]

    static = StaticBatchEngine(loaded, slots=1)
    expected = ask(static, build())
    static.close()
    alone = [ask(engine, [request])[0] for request in build()]
    together = ask(engine, [*ragged(new_request), *build()])[-6:]
    for answers in (alone, together):
        assert [done.token_ids for done in answers] == [done.token_ids for done in expected]
        for done, wanted in zip(answers, expected, strict=True):
            assert (done.logprobs is None) == (wanted.logprobs is None)
            for entry, other in zip(done.logprobs or (), wanted.logprobs or (), strict=True):
                assert entry["token"] == other["token"]
                assert entry["logprob"] == pytest.approx(other["logprob"], abs=1e-3)
    assert len({done.token_ids for done in expected}) == 5, "greedy twice, and four others"


def test_without_a_seed_answers_differ(engine: TransformersEngine, new_request: NewRequest) -> None:
    sampling = Sampling(temperature=1.5)
    answers = ask(engine, [new_request("dice", max_tokens=20, sampling=sampling) for _ in range(3)])
    assert len({done.token_ids for done in answers}) == 3


def test_tokens_are_streamed_as_they_come(engine: TransformersEngine, new_request: NewRequest) -> None:
    pieces: list[tuple[str, int]] = []
    first = threading.Event()

    def hear(request_id: str, text: str) -> None:
        pieces.append((text, engine.stats().steps))
        first.set()

    handle = engine.submit(new_request("stream", images=1, max_tokens=40), on_token=hear)
    assert first.wait(PATIENCE_S)
    late = engine.submit(new_request("joins between two steps", max_tokens=4))
    done = handle.result(PATIENCE_S)
    assert late.result(PATIENCE_S).error is None
    assert "".join(text for text, _ in pieces) == done.text
    assert len({steps for _, steps in pieces}) > 10, "at different steps, not at the end"


def test_cached_tokens_are_reported(engine: TransformersEngine, new_request: NewRequest) -> None:
    text = "The same long beginning for everybody, word by word. " * 3
    requests = [new_request(text + str(number), images=1, max_tokens=4) for number in range(4)]
    answers = [ask(engine, [request])[0] for request in requests]
    assert [done.usage.cached_tokens for done in answers][:2] == [0, 0]
    assert all(done.usage.cached_tokens >= 32 for done in answers[2:])
    assert all(done.usage.cached_tokens < done.usage.prompt_tokens for done in answers)


def draw_pages(folder: Path, count: int) -> list[Request]:
    requests = []
    for number in range(count):
        path = folder / f"{number}.png"
        draw_page(7000 + number).image.convert("RGB").save(path)
        image = Image(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        content = [{"type": "image", "index": 0}, {"type": "text", "text": "Extract." if number % 2 else "Transcribe."}]
        requests.append(Request(f"page-{number}", ({"role": "user", "content": content},), (image,), max_tokens=160))
    return requests


def test_docreader_reads_pages_as_the_static_engine_does(tmp_path: Path) -> None:
    loaded = load_model(DOCREADER, threads=1)
    engine = open_continuous(loaded, slots=4)
    assert isinstance(engine, TransformersEngine), engine.verdict
    answers = ask(engine, draw_pages(tmp_path, 6))
    engine.close()
    static = StaticBatchEngine(loaded, slots=6)
    expected = ask(static, draw_pages(tmp_path, 6))
    static.close()
    assert [done.token_ids for done in answers] == [done.token_ids for done in expected]
    assert {done.finish for done in answers} == {"stop"}


@pytest.mark.long
def test_slots_are_occupied_while_there_is_a_backlog(qwen3_vl: LoadedModel, new_request: NewRequest) -> None:
    """Log-normal answers of 32 tokens on average and 128 at most."""
    dice = random.Random(5)

    def draw_tokens() -> int:
        return max(1, min(128, int(dice.lognormvariate(math.log(32) - 0.32, 0.8))))

    engine = TransformersEngine(qwen3_vl, classes=[LengthClass(16, 512)])
    room, handles = threading.Semaphore(engine.capacity().requests), []
    for number in range(200):
        room.acquire()
        request = new_request(str(number), images=1, max_tokens=draw_tokens())
        handles.append(engine.submit(request, on_done=lambda _: room.release()))
    stats = engine.stats()
    for handle in handles:
        handle.result(PATIENCE_S)
    engine.close()
    assert stats.rows_per_step / 16 >= 0.92
