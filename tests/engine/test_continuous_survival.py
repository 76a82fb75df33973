"""One request's misfortune is its own, in the continuous engine: memory, exceptions, scores that are no numbers."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.engine.engine import TransformersEngine
from workers.engine.loader import LoadedModel
from workers.engine.protocol import OVER, Done, Image, Refused, Request, Sampling
from workers.engine.scheduler import LengthClass
from workers.watchdog import EXIT_OVER, Watchdog

PATIENCE_S = 120.0
NewRequest = Callable[..., Request]
OpenEngine = Callable[..., TransformersEngine]


class Faults:
    """Raises from forwards; remembers how many rows each had."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {"prefill": [], "decode": []}
        self.rule: Callable[[str, Sequence[str]], Exception | None] = lambda _stage, _ids: None

    def __call__(self, stage: str, ids: Sequence[str]) -> None:
        self.rows[stage].append(len(ids))
        if error := self.rule(stage, ids):
            raise error


def no_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory: a secret of the library")


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def engine(qwen3_vl: LoadedModel, faults: Faults) -> Iterator[TransformersEngine]:
    endless = dataclasses.replace(qwen3_vl, eos_ids=frozenset())
    opened = TransformersEngine(endless, classes=[LengthClass(8, 512)], faults=faults)
    yield opened
    opened.close()


@pytest.fixture
def truth(qwen3_vl: LoadedModel) -> Callable[[list[Request]], dict[str, tuple[int, ...]]]:
    """Tokens by id from an engine that nobody disturbs, one request at a time."""

    def answer(requests: list[Request]) -> dict[str, tuple[int, ...]]:
        endless = dataclasses.replace(qwen3_vl, eos_ids=frozenset())
        calm = TransformersEngine(endless, classes=[LengthClass(1, 512)])
        made = {request.id: calm.submit(request).result(PATIENCE_S).token_ids for request in requests}
        calm.close()
        return made

    return answer


def run(engine: TransformersEngine, requests: list[Request]) -> list[Done]:
    return [handle.result(PATIENCE_S) for handle in [engine.submit(request) for request in requests]]


def wait_until_many_are_prepared(engine: TransformersEngine, faults: Faults) -> None:
    """Hold the first forward until more requests wait than fit, however slowly they are prepared."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(map(len, faults.rows.values())) == 1 and time.monotonic() < deadline:
        if sum(ticket.plan.settled for ticket in list(engine._waiting.values())) >= 15:
            return
        time.sleep(0.005)


def sixteen(new_request: NewRequest) -> list[Request]:
    seeded = Sampling(temperature=0.9, seed=11)
    return [
        new_request(
            "x" * (5 * (number % 6)),
            images=number % 2,
            first_image=number,
            max_tokens=6 + number,
            sampling=seeded if number % 3 else Sampling(),
        )
        for number in range(16)
    ]


@pytest.mark.parametrize("stage", ["prefill", "decode"])
@pytest.mark.parametrize("most", [1, 3])
def test_out_of_memory_shrinks_until_it_fits(
    engine: TransformersEngine, faults: Faults, new_request: NewRequest, truth: Any, stage: str, most: int
) -> None:
    requests = sixteen(new_request)
    expected = truth(requests)

    def rule(at: str, ids: Sequence[str]) -> Exception | None:
        wait_until_many_are_prepared(engine, faults)
        return no_memory() if at == stage and len(ids) > most else None

    faults.rule = rule
    answers = run(engine, requests)
    assert [done.error for done in answers] == [None] * 16
    assert {done.id: done.token_ids for done in answers} == expected
    assert max(faults.rows[stage]) > most, "a forward was too large at first"


def test_memory_that_comes_back_is_used_again(
    engine: TransformersEngine, faults: Faults, new_request: NewRequest
) -> None:
    faults.rule = lambda _at, ids: no_memory() if len(ids) > 1 else None
    run(engine, sixteen(new_request))
    faults.rule = lambda _at, _ids: None
    faults.rows["decode"].clear()
    run(engine, [new_request("again", max_tokens=200) for _ in range(24)])
    assert max(faults.rows["decode"]) > 2


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_what_does_not_fit_alone_fails_alone(
    engine: TransformersEngine, faults: Faults, new_request: NewRequest, truth: Any, stage: str
) -> None:
    requests = sixteen(new_request)
    expected = truth(requests)
    huge = new_request("y" * 100, id="huge", images=1)
    faults.rule = lambda at, ids: no_memory() if at == stage and "huge" in ids else None
    *fitting, bad = run(engine, [*requests, huge])
    assert {done.id: done.token_ids for done in fitting} == expected
    assert (bad.finish, bad.error.code, bad.error.transient) == ("error", "out_of_memory", False)
    assert f"{bad.usage.prompt_tokens} prompt tokens" in bad.error.message
    assert "pixels" in bad.error.message
    assert "secret" not in bad.error.message


def test_what_fits_only_alone_waits_until_it_is_alone(
    engine: TransformersEngine, faults: Faults, new_request: NewRequest, truth: Any
) -> None:
    requests = [*sixteen(new_request)[:7], new_request("large", id="large", max_tokens=5)]
    expected = truth(requests)
    inside: set[str] = set()

    def judge(at: str, ids: Sequence[str]) -> Exception | None:
        others = {request_id for request_id in inside if request_id != "large"}
        if at == "prefill" and "large" in ids and (others or len(ids) > 1):
            return no_memory()
        inside.update(ids)
        return None

    faults.rule = judge
    handles = [engine.submit(request, on_done=lambda done: inside.discard(done.id)) for request in requests]
    answers = [handle.result(PATIENCE_S) for handle in handles]
    assert {done.id: done.token_ids for done in answers} == expected


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_an_exception_is_put_down_to_its_culprit(
    engine: TransformersEngine, faults: Faults, new_request: NewRequest, truth: Any, stage: str
) -> None:
    requests = sixteen(new_request)
    expected = truth(requests)
    bad_one = new_request("bad", id="bad")
    faults.rule = lambda at, ids: ValueError("a secret") if at == stage and "bad" in ids else None
    answers = run(engine, [*requests[:5], bad_one, *requests[5:]])
    by_id = {done.id: done for done in answers}
    bad = by_id.pop("bad")
    assert {done.id: done.token_ids for done in by_id.values()} == expected
    assert (bad.error.code, bad.error.transient) == ("generation_failed", False)
    assert "secret" not in bad.error.message


def test_a_device_that_is_lost_ends_requests_for_another_worker(
    engine: TransformersEngine, faults: Faults, new_request: NewRequest
) -> None:
    if not hasattr(torch, "AcceleratorError"):
        pytest.skip("this torch has no error for it")
    before = engine.progress()

    def lose(at: str, _: Sequence[str]) -> Exception | None:
        wait_until_many_are_prepared(engine, faults)
        return torch.AcceleratorError("illegal access") if at == "decode" else None

    faults.rule = lose
    answers = run(engine, sixteen(new_request))
    assert {(done.error.code, done.error.transient) for done in answers} == {("engine_failed", True)}
    assert before > engine.progress() == OVER, "whoever owns the process learns that it should end"
    assert engine.capacity().requests == 0
    with pytest.raises(Refused) as refused:
        engine.submit(new_request())
    assert refused.value.code == "engine_closed", "a worker gives such a request back, unharmed"


def test_a_process_whose_device_is_lost_ends(
    engine: TransformersEngine, faults: Faults, new_request: NewRequest
) -> None:
    if not hasattr(torch, "AcceleratorError"):
        pytest.skip("this torch has no error for it")
    statuses: list[int] = []
    watchdog = Watchdog(engine.progress, PATIENCE_S, statuses.append)
    watchdog.start()
    faults.rule = lambda _at, _ids: torch.AcceleratorError("illegal access")
    assert run(engine, [new_request()])[0].error.code == "engine_failed"
    watchdog.join(PATIENCE_S / 2)
    assert statuses == [EXIT_OVER], "long before a hang would be seen"


@pytest.mark.parametrize("at_step", [0, 5])
def test_scores_that_are_no_numbers_end_that_request(
    engine: TransformersEngine, qwen3_vl: LoadedModel, new_request: NewRequest, truth: Any, at_step: int
) -> None:
    """A row's scores are spoilt at its prefill or at a later step; the row is found by a token that only it holds."""
    good = [new_request(str(number), max_tokens=20) for number in range(3)]
    expected = truth(good)
    culprit = qwen3_vl.processing.tokenizer.convert_tokens_to_ids("~")
    rows: dict[str, Any] = {}

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"]
        if ids.shape[1] > 1:
            rows["bad"] = (ids == culprit).any(dim=1) & (at_step == 0)
        else:
            held = [owner.id == "bad" and owner.steps + 1 >= at_step > 0 for owner in engine._pools[0].owners]
            rows["bad"] = torch.tensor(held)

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill(rows["bad"][:, None, None], float("nan"))

    hooks = [
        qwen3_vl.model.register_forward_pre_hook(watch, with_kwargs=True),
        qwen3_vl.model.lm_head.register_forward_hook(spoil),
    ]
    *others, bad = run(engine, [*good, new_request("~", id="bad", max_tokens=20)])
    for hook in hooks:
        hook.remove()
    assert {done.id: done.token_ids for done in others} == expected
    assert bad.error.code == "not_a_number"
    assert bad.usage.completion_tokens == at_step


def test_a_step_that_hangs_is_seen_from_outside(
    engine: TransformersEngine, faults: Faults, new_request: NewRequest
) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang(at: str, _: Sequence[str]) -> Exception | None:
        if at == "decode":
            hanging.set()
            release.wait(PATIENCE_S)
        return None

    faults.rule = hang
    handle = engine.submit(new_request())
    assert hanging.wait(PATIENCE_S)
    seen = engine.progress()
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        time.sleep(0.02)
        assert engine.progress() == seen, "nothing moved"
    assert time.monotonic() - seen > 0.25
    release.set()
    assert handle.result(PATIENCE_S).finish == "length"
    assert engine.progress() > seen


def test_a_bad_picture_fails_its_request_alone(
    engine: TransformersEngine, new_request: NewRequest, tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG cut")
    broken = dataclasses.replace(new_request(images=1), images=(Image("0" * 64, tmp_path / "cut.png"),))
    good, bad, also_good = run(engine, [new_request(images=1), broken, new_request(images=1)])
    assert (good.finish, also_good.finish) == ("length", "length")
    assert bad.error.code == "image_unreadable"


def test_a_request_may_fill_a_slot_to_its_end(qwen3_vl: LoadedModel, new_request: NewRequest) -> None:
    endless = dataclasses.replace(qwen3_vl, eos_ids=frozenset())
    small = TransformersEngine(endless, classes=[LengthClass(2, 100)])
    done, too_long = run(small, [new_request("x" * 30, max_tokens=100), new_request("x" * 110, max_tokens=4)])
    small.close()
    assert done.usage.prompt_tokens + done.usage.completion_tokens == 100
    assert too_long.error.code == "context_length_exceeded"
    assert "100" in too_long.error.message
