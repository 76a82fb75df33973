"""Night work yields: rows of class batch give their slots to interactive requests, and answer the same when they run
again."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from workers.engine.engine import TransformersEngine
from workers.engine.fake import FakeEngine
from workers.engine.features import Budgets
from workers.engine.loader import LoadedModel
from workers.engine.protocol import Done, Request, Sampling
from workers.engine.scheduler import LengthClass, Places
from workers.engine.tickets import Ticket
from workers.engine.yielding import Running, Wanting, choose_evicted, count_kept

PATIENCE_S = 120.0
NewRequest = Callable[..., Request]


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def ticket(name: str, job_class: str = "batch", **fields: Any) -> Ticket:
    return Ticket(Request(name, (), job_class=job_class, **fields))


def row(name: str, job_class: str = "batch", *, at: float = 0.0, length: int = 100, **fields: Any) -> Running:
    return Running(ticket(name, job_class, **fields), at, length)


def choose(
    waiting: Sequence[tuple[str, str, int]],
    running: Sequence[Running],
    places: Sequence[tuple[int, int]] = ((100, 0),),
    slots: int = 4,
) -> list[str]:
    wanting = [Wanting(ticket(name, job_class), tokens) for name, job_class, tokens in waiting]
    free = sum(slots for _, slots in places)
    return [one.id for one in choose_evicted(wanting, running, Places(places), free=free, slots=slots)]


@pytest.mark.parametrize(("slots", "kept"), [(1, 0), (2, 1), (4, 1), (15, 1), (16, 2), (64, 8)])
def test_an_eighth_of_the_slots_stays(slots: int, kept: int) -> None:
    assert count_kept(slots) == kept


def test_the_youngest_go_one_for_each_and_never_the_last() -> None:
    night = [row("old", at=1), row("young", at=9), row("mid", at=5), row("oldest", at=0)]
    now = [("i1", "interactive", 10), ("i2", "interactive", 10)]
    assert choose(now[:1], night) == ["young"]
    assert choose(now, night) == ["young", "mid"]
    assert choose([(f"i{number}", "interactive", 10) for number in range(9)], night) == ["young", "mid", "old"]


def test_nobody_yields_who_need_not() -> None:
    night = [row("a", at=1), row("b", at=2), row("c", at=3)]
    assert choose([("i", "interactive", 10)], night, [(100, 1)]) == [], "a slot is free"
    assert choose([("n", "normal", 10), ("b9", "batch", 10)], night) == []
    others = [
        row("i", "interactive"),
        row("n", "normal", at=1),
        row("n2", "normal", at=2),
        row("keeps", evictable=False),
    ]
    assert choose([("i9", "interactive", 10)], others) == []
    aged = row("aged", at=7)
    aged.ticket.protected = True
    assert choose([("i", "interactive", 10)], [*night, aged]) == ["c"]


def test_a_slot_that_somebody_more_urgent_takes_is_not_free() -> None:
    night = [row("a", at=1), row("b", at=2), row("c", at=3)]
    waiting = [("aged", "batch", 10), ("i", "interactive", 10)]
    assert choose(waiting, night, [(100, 1)]) == ["c"]


def test_only_a_slot_that_is_long_enough_helps() -> None:
    night = [row("short", at=9), row("long", at=1, length=500), row("short too", at=8)]
    assert choose([("i", "interactive", 300)], night, [(100, 0), (500, 0)]) == ["long"]
    assert choose([("i", "interactive", 300)], night, [(100, 1), (500, 0)]) == ["long"]
    assert choose([("i", "interactive", 900)], night, [(100, 0), (500, 0)]) == []


def test_nobody_is_granted_two_slots() -> None:
    night = [row("a", at=1), row("b", at=2), row("c", at=3)]
    one = Wanting(ticket("i", "interactive"), 10)
    other = Wanting(ticket("n", "normal"), 10)
    before = one.ticket.urgency
    for expected in (["c"], []):
        found = choose_evicted([one, other], night, Places([(100, 0)]), free=0, slots=4)
        assert [chosen.id for chosen in found] == expected
    assert one.ticket.granted
    assert one.ticket.urgency < before
    assert not other.ticket.granted


@pytest.fixture
def open_engine(qwen3_vl: LoadedModel) -> Iterator[Callable[..., TransformersEngine]]:
    """Engines whose answers have the length that was asked for."""
    opened: list[TransformersEngine] = []

    def build(slots: int, **options: Any) -> TransformersEngine:
        endless = dataclasses.replace(qwen3_vl, eos_ids=frozenset())
        opened.append(TransformersEngine(endless, classes=[LengthClass(slots, 512)], **options))
        return opened[-1]

    yield build
    for engine in opened:
        engine.close()


class Diary:
    """The engine's forwards in order, each with its requests; `then` is called in each, on the engine's thread."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, tuple[str, ...]]] = []
        self.then: Callable[[str, tuple[str, ...]], None] = lambda _stage, _ids: None

    def __call__(self, stage: str, ids: Sequence[str]) -> None:
        self.entries.append((stage, tuple(ids)))
        self.then(stage, tuple(ids))


def submit_prepared(engine: TransformersEngine, requests: Sequence[Request]) -> list[Ticket]:
    """Submit, and come back when they could be admitted."""
    handles = [engine.submit(request) for request in requests]
    wait_until(lambda: all(handle.plan.settled for handle in handles))
    return handles


def test_an_interactive_request_waits_for_one_step_at_most(
    open_engine: Callable[..., TransformersEngine], new_request: NewRequest
) -> None:
    diary = Diary()
    engine = open_engine(2, faults=diary)
    night = [new_request(f"night {n}", id=f"night {n}", max_tokens=60, job_class="batch") for n in range(3)]
    now = new_request("now", id="now", images=1, job_class="interactive")
    handles: dict[str, Ticket] = {}

    def interrupt(stage: str, ids: tuple[str, ...]) -> None:
        if stage == "decode" and len(ids) == 2 and not handles:
            (handles["now"],) = submit_prepared(engine, [now])
            diary.entries.append(("ready", ids))

    diary.then = interrupt
    waiting = [engine.submit(request) for request in night]
    ends = {handle.id: handle.result(PATIENCE_S) for handle in waiting}
    at = next(at for at, (stage, _) in enumerate(diary.entries) if stage == "ready")
    assert diary.entries[at + 1] == ("prefill", ("now",)), "no step and nobody else comes between"
    (evicted,) = [end for end in ends.values() if end.finish == "cancelled"]
    assert evicted.id in diary.entries[at][1]
    assert handles["now"].result(PATIENCE_S).finish == "length"
    assert [end.finish for end in ends.values()].count("length") == 2
    assert engine.stats().evicted == 1


def test_who_yielded_and_who_stayed_answer_as_if_alone(
    open_engine: Callable[..., TransformersEngine], new_request: NewRequest
) -> None:
    kinds = [Sampling(), Sampling(temperature=1.0, seed=5), Sampling(repetition_penalty=1.4), Sampling()]

    def build(prefix: str) -> list[Request]:
        night = [
            new_request("page " * n, id=f"{prefix}{n}", images=n % 2, max_tokens=40, job_class="batch", sampling=kind)
            for n, kind in enumerate(kinds)
        ]
        now = [new_request(f"now {n}", id=f"{prefix}now{n}", images=n % 2, job_class="interactive") for n in range(4)]
        return night + now

    calm = open_engine(1)
    truth = [calm.submit(request).result(PATIENCE_S).token_ids for request in build("calm")]
    diary = Diary()
    engine, requests = open_engine(4, faults=diary), build("")
    urgent: list[Ticket] = []

    def interrupt(stage: str, ids: tuple[str, ...]) -> None:
        if stage == "decode" and len(ids) == 4 and not urgent:
            urgent.extend(submit_prepared(engine, requests[4:]))

    diary.then = interrupt
    found: dict[str, Done] = {}
    handles = submit_prepared(engine, requests[:4])
    found |= {handle.id: handle.result(PATIENCE_S) for handle in handles}
    found |= {handle.id: handle.result(PATIENCE_S) for handle in urgent}
    again = [request for request in requests if found[request.id].finish == "cancelled"]
    assert len(again) == 3, "one for each that waits, but never the last"
    assert engine.stats().evicted == 3
    found |= {handle.id: handle.result(PATIENCE_S) for handle in [engine.submit(request) for request in again]}
    assert [found[request.id].token_ids for request in requests] == truth


def test_a_long_prompt_under_way_yields_too(
    open_engine: Callable[..., TransformersEngine], new_request: NewRequest
) -> None:
    diary = Diary()
    engine = open_engine(1, faults=diary, budgets=Budgets(chunk_tokens=16))
    handles: list[Ticket] = []

    def interrupt(stage: str, ids: tuple[str, ...]) -> None:
        if (stage, ids) == ("prefill", ("long",)) and not handles:
            handles.extend(submit_prepared(engine, [new_request("now", job_class="interactive", max_tokens=3)]))

    diary.then = interrupt
    long = engine.submit(new_request("word " * 40, id="long", job_class="batch"))
    assert long.result(PATIENCE_S).finish == "cancelled"
    assert handles[0].result(PATIENCE_S).finish == "length"
    assert diary.entries.count(("prefill", ("long",))) < 5


def test_what_its_age_brought_forward_stays(monkeypatch: pytest.MonkeyPatch, new_request: NewRequest) -> None:
    """Otherwise an interactive request would throw out at once whom ageing had let in before it."""
    monkeypatch.setattr("workers.engine.tickets.AGEING_S", 0.001)
    engine = FakeEngine(slots=1, steps_per_s=200.0)
    try:
        running = engine.submit(new_request("[[steps:400]]", job_class="interactive", max_tokens=400))
        wait_until(lambda: engine.stats().running == 1)
        aged = engine.submit(new_request("[[steps:20]]", job_class="batch"))
        time.sleep(0.02)  # it ages
        late = engine.submit(new_request("[[steps:20]]", job_class="interactive"))
        engine.cancel(running.id)
        assert aged.result(PATIENCE_S).finish == "length"
        assert late.result(PATIENCE_S).finish == "length"
        assert engine.stats().evicted == 0
    finally:
        engine.close()


def test_a_night_ends_under_any_load(monkeypatch: pytest.MonkeyPatch, new_request: NewRequest) -> None:
    """Interactive requests without end; night work is sent again when it yielded, three times at most."""
    monkeypatch.setattr("workers.engine.tickets.AGEING_S", 0.1)
    engine = FakeEngine(slots=4, steps_per_s=2000.0)
    ends: dict[str, list[str]] = {}
    over = threading.Event()

    def send_night(name: str) -> None:
        request = new_request("[[steps:30]]", id=name, job_class="batch", max_tokens=50)
        request = dataclasses.replace(request, evictable=len(ends[name]) < 3)
        engine.submit(request, lambda done: hear(name, done))

    def hear(name: str, done: Done) -> None:
        ends[name].append(done.finish)
        if done.finish == "cancelled":
            threading.Timer(0.0, send_night, (name,)).start()  # its id is free when the callback is over

    def send_now(_: Done | None = None) -> None:
        if not over.is_set():
            engine.submit(new_request("[[steps:5]]", job_class="interactive"), send_now)

    try:
        for _ in range(8):
            send_now()
        for number in range(12):
            ends[f"night {number}"] = []
            send_night(f"night {number}")
        wait_until(lambda: all(found[-1:] == ["stop"] for found in ends.values()))
        over.set()
        assert all(found.count("stop") == 1 and len(found) <= 4 for found in ends.values())
        assert engine.stats().evicted == sum(found.count("cancelled") for found in ends.values())
    finally:
        over.set()
        engine.close()
