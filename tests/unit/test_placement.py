"""Where replicas go: by priority, spread, never over a device's memory, and the same whatever is listed first."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer.domain.placement import HOST_DRAINS, IDLE, MAKES_WAY, STOPPED, SUPERSEDED, SURPLUS, place
from batchinfer.domain.placing_facts import Machine, Placement, Room, Standing, Wish
from batchinfer.domain.replicas import ReplicaState, Wanted
from batchinfer.domain.rooms import fits_beside

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)


def uid(number: int) -> UUID:
    return UUID(int=number)


def machine(host: str = "a", *totals: int | None, kind: str = "cuda", **more: object) -> Machine:
    rooms = [Room(host, kind if kind == "cpu" else f"{kind}:{at}", kind, total) for at, total in enumerate(totals)]
    return Machine(host, tuple(rooms), **more)  # type: ignore[arg-type]


def wish(number: int = 1, **more: object) -> Wish:
    return Wish(**{"id": uid(number), "model": f"m{number}", "revision": "r1", "need_mib": 100, **more})  # type: ignore[arg-type]


def stand(number: int, wish_number: int = 1, **more: object) -> Standing:
    values = {"revision": "r1", "host": "a", "device": "cuda:0", "state": ReplicaState.READY, "mib": 100, "since": NOW}
    return Standing(uid(number), uid(wish_number), **{**values, **more})  # type: ignore[arg-type]


def reasons(found: Placement) -> dict[int, str]:
    return {drain.replica_id.int: drain.reason for drain in found.drains}


def places(found: Placement) -> list[tuple[int, str, str]]:
    return [(start.wish_id.int, start.host, start.device) for start in found.starts]


def test_replicas_spread_over_hosts_then_devices() -> None:
    found = place([wish(replicas=4)], [machine("a", 500, 500), machine("b", 500)], [], NOW)
    assert sorted(places(found)) == [(1, "a", "cuda:0"), (1, "a", "cuda:1"), (1, "b", "cuda:0"), (1, "b", "cuda:0")]
    assert {start.host for start in found.starts[:2]} == {"a", "b"}


def test_auto_takes_a_gpu_where_there_is_one_and_never_the_cpu_beside_it() -> None:
    both = Machine("a", (Room("a", "cpu", "cpu", 9999), Room("a", "cuda:0", "cuda", 150)))
    found = place([wish(replicas=2)], [both], [], NOW)
    assert places(found) == [(1, "a", "cuda:0")]
    assert "needs 100 MiB" in found.unplaced[uid(1)]
    assert places(place([wish(device="cpu")], [both], [], NOW)) == [(1, "a", "cpu")]


def test_labels_and_devices_by_name_bind() -> None:
    hosts = [machine("a", 500, 500), machine("b", 500, 500, labels={"zone": "x"})]
    assert places(place([wish(labels={"zone": "x"}, device="cuda:1")], hosts, [], NOW)) == [(1, "b", "cuda:1")]
    found = place([wish(labels={"zone": "y"}, device="cuda:1")], hosts, [], NOW)
    assert "No living host that is not drained has the device cuda:1 and the labels zone=y" in found.unplaced[uid(1)]


def test_what_does_not_fit_says_what_to_do() -> None:
    found = place([wish(1), wish(2, need_mib=180)], [machine("a", 200)], [stand(10)], NOW)
    assert not found
    assert found.unplaced == {
        uid(2): "m2 needs 180 MiB, and the most that is free are 100 MiB on a/cuda:0. Stop m1, or shrink m2 by 80 "
        "MiB: fewer slots, or a quantisation."
    }


def test_a_higher_priority_displaces_what_is_not_pinned() -> None:
    urgent = wish(2, priority=5, need_mib=150)
    found = place([wish(1), urgent], [machine("a", 200)], [stand(10)], NOW)
    assert reasons(found) == {10: "it makes way for m2"}
    assert not found.starts, "not before the memory is free"
    pinned = place([wish(1, pinned=True), urgent], [machine("a", 200)], [stand(10)], NOW)
    assert not pinned.drains
    assert set(pinned.unplaced) == {uid(2)}


def test_room_that_comes_free_is_kept_for_who_waits_for_it() -> None:
    leaving = stand(10, 3, wanted=Wanted.DRAIN, mib=150)
    found = place([wish(2, priority=1, need_mib=150), wish(1)], [machine("a", 200)], [leaving], NOW)
    assert not found
    assert set(found.unplaced) == {uid(1)}


def test_what_must_go_goes_and_says_why() -> None:
    hosts = [machine("a", 900), machine("b", 900, draining=True)]
    found = place(
        [wish(1), wish(2, replicas=1)],
        hosts,
        [stand(10, 9), stand(11, 1, revision="old"), stand(12, 1, host="b"), stand(13, 2), stand(14, 2)],
        NOW,
    )
    assert reasons(found) == {10: STOPPED, 11: SUPERSEDED, 12: HOST_DRAINS, 14: SURPLUS}
    assert places(found) == [(1, "a", "cuda:0")]


def test_of_too_many_those_that_do_not_serve_yet_go() -> None:
    found = place([wish(1)], [machine("a", 900)], [stand(10, state=ReplicaState.LOADING), stand(11)], NOW)
    assert reasons(found) == {10: SURPLUS}


def test_what_stands_on_a_host_that_does_not_live_is_left_alone() -> None:
    found = place([wish(1)], [machine("a", 900)], [stand(10, host="gone")], NOW)
    assert (places(found), found.drains) == ([(1, "a", "cuda:0")], ())


def test_idle_models_sleep_and_wake_for_their_jobs() -> None:
    idle = wish(1, idle_s=60, last_used_at=LONG_AGO)
    ready = stand(10, since=LONG_AGO)
    found = place([idle], [machine("a", 900)], [ready], NOW)
    assert (found.slept, reasons(found)) == ((uid(1),), {10: IDLE})
    for changed in (
        replace(idle, demand=True),
        replace(idle, pinned=True),
        replace(idle, last_used_at=NOW),
        replace(idle, idle_s=7200),
    ):
        assert not place([changed], [machine("a", 900)], [ready], NOW)
    assert not place([idle], [machine("a", 900)], [replace(ready, state=ReplicaState.LOADING)], NOW)
    asleep = replace(idle, asleep=True)
    assert not place([asleep], [machine("a", 900)], [], NOW)
    woken = place([replace(asleep, demand=True)], [machine("a", 900)], [], NOW)
    assert (woken.woken, len(woken.starts)) == ((uid(1),), 1)


def test_an_idle_model_makes_way_where_jobs_of_another_wait() -> None:
    one, other = wish(1, idle_s=600), wish(2, idle_s=600, asleep=True, demand=True)
    found = place([one, other], [machine("a", 150)], [stand(10)], NOW)
    assert (found.slept, found.woken, reasons(found)) == ((uid(1),), (uid(2),), {10: "it makes way for m2"})


def test_back_off_holds_a_load_but_not_what_runs() -> None:
    later = wish(1, replicas=2, next_try_at=NOW + timedelta(seconds=1))
    assert not place([later], [machine("a", 900)], [stand(10)], NOW)
    assert len(place([later], [machine("a", 900)], [stand(10)], NOW + timedelta(seconds=1)).starts) == 1


def test_the_next_revision_stands_by_beside_what_serves() -> None:
    swap = wish(1, next_revision="r2", next_need_mib=150)
    (start,) = place([swap], [machine("a", 300)], [stand(10)], NOW).starts
    assert (start.revision, start.wanted, start.mib) == ("r2", Wanted.STAND_BY, 150)
    assert not place([replace(swap, hold_next=True)], [machine("a", 300)], [stand(10)], NOW)
    assert fits_beside(swap, [machine("a", 300)], [stand(10)])
    assert not fits_beside(swap, [machine("a", 200)], [stand(10)])


def test_where_both_do_not_fit_what_serves_goes_first_if_that_was_agreed() -> None:
    swap = wish(1, next_revision="r2", next_need_mib=150)
    found = place([swap], [machine("a", 200)], [stand(10)], NOW)
    assert (found.drains, set(found.unplaced)) == ((), {uid(1)})
    agreed = replace(swap, drain_first=True)
    assert reasons(place([agreed], [machine("a", 200)], [stand(10)], NOW)) == {10: MAKES_WAY}
    (start,) = place([agreed], [machine("a", 200)], [], NOW).starts
    assert start.revision == "r2", "what makes way does not come back"


def test_what_stood_by_serves_once_its_revision_does() -> None:
    found = place([wish(1)], [machine("a", 900)], [stand(10, wanted=Wanted.STAND_BY)], NOW)
    assert found.serves == (uid(10),)


Scene = tuple[list[Wish], list[Machine], list[Standing]]


def draw_wish(chance: random.Random, number: int) -> Wish:
    pick = chance.choice
    return wish(
        number, replicas=pick([0, 1, 1, 2, 3]), need_mib=pick([None, 50, 100, 180, 350]), priority=pick([0, 0, 1, 2]),
        pinned=pick([False, False, True]), device=pick(["auto", "auto", "cuda", "cuda:1", "cpu"]),
        idle_s=pick([None, 60]), asleep=pick([False, False, True]), demand=pick([False, True]),
        last_used_at=pick([None, LONG_AGO, NOW]), next_try_at=pick([None, None, NOW + timedelta(seconds=5)]),
        labels=pick([{}, {}, {"zone": "x"}]), next_revision=pick([None, None, "r2"]),
        next_need_mib=pick([None, 60, 250]), drain_first=pick([False, True]),
    )  # fmt: skip


def draw_standing(chance: random.Random, number: int) -> Standing:
    pick = chance.choice
    return stand(
        number, chance.randint(1, 5), revision=pick(["r1", "r1", "r2", "r0"]), host=pick(["a", "a", "b", "gone"]),
        device=pick(["cuda:0", "cuda:1"]), state=pick([state for state in ReplicaState if not state.is_terminal]),
        wanted=pick(list(Wanted)), mib=pick([0, 30, 100, 250]), since=pick([LONG_AGO, NOW]),
    )  # fmt: skip


def make_scene(seed: int) -> Scene:
    chance = random.Random(seed)
    wishes = [draw_wish(chance, number) for number in range(1, chance.randint(0, 4) + 1)]
    machines = [
        machine("a", chance.choice([300, 600, None]), 500),
        machine("b", 400, draining=chance.choice([False, True]), labels={"zone": "x"}),
    ]
    return wishes, machines, [draw_standing(chance, 100 + at) for at in range(chance.randint(0, 6))]


#: From a number, as drawing each field by itself takes a hundred times as long.
SCENES = st.integers(0, 2**40).map(make_scene)
by_any_scene = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def apply(wishes: list[Wish], standing: list[Standing], done: Placement) -> tuple[list[Wish], list[Standing]]:
    """The world once what was found is written down."""
    gone = {drain.replica_id for drain in done.drains}
    after = [replace(each, wanted=Wanted.DRAIN) if each.id in gone else each for each in standing]
    after = [replace(each, wanted=Wanted.SERVE) if each.id in done.serves and each.id not in gone else each
             for each in after]  # fmt: skip
    for at, start in enumerate(done.starts):
        new = Standing(uid(1000 + at), start.wish_id, start.revision, start.host, start.device, ReplicaState.PLANNED,
                       start.wanted, start.mib or 0, NOW)  # fmt: skip
        after.append(new)
    wishes = [
        replace(each, asleep=(each.asleep or each.id in done.slept) and each.id not in done.woken) for each in wishes
    ]
    return wishes, after


def used(standing: list[Standing]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = defaultdict(int)
    for each in standing:
        found[each.host, each.device] += each.mib
    return found


@by_any_scene
@given(SCENES)
def test_no_device_is_ever_promised_more_than_it_has(scene: Scene) -> None:
    wishes, machines, standing = scene
    before = used(standing)
    _, after = apply(wishes, standing, place(wishes, machines, standing, NOW))
    now = used(after)
    for each in machines:
        for room in each.rooms:
            at = room.host, room.device
            assert room.total_mib is None or now[at] <= max(room.total_mib, before[at])


@by_any_scene
@given(SCENES, st.randoms(use_true_random=False))
def test_the_order_of_what_is_listed_says_nothing(scene: Scene, chance: random.Random) -> None:
    wishes, machines, standing = scene
    first = place(wishes, machines, standing, NOW)
    for each in (wishes, machines, standing):
        chance.shuffle(each)  # type: ignore[arg-type]
    assert place(wishes, machines, standing, NOW) == first


@by_any_scene
@given(SCENES)
def test_what_was_done_needs_not_be_done_again(scene: Scene) -> None:
    wishes, machines, standing = scene
    wishes, standing = apply(wishes, standing, place(wishes, machines, standing, NOW))
    again = place(wishes, machines, standing, NOW)
    assert not again, again


@by_any_scene
@given(SCENES)
def test_pinned_ones_are_never_displaced_and_nobody_for_a_lesser_one(
    scene: Scene,
) -> None:
    wishes, machines, standing = scene
    by_id, by_name = {each.id: each for each in wishes}, {each.model: each for each in wishes}
    owners = {each.id: by_id.get(each.wish_id) for each in standing if each.wish_id}
    for drain in place(wishes, machines, standing, NOW).drains:
        if drain.reason.startswith("it makes way for m"):
            owner, winner = owners[drain.replica_id], by_name[drain.reason.rpartition(" ")[2]]
            assert owner is not None
            assert not owner.pinned
            assert owner.priority <= winner.priority
            assert owner.priority < winner.priority or (winner.demand and owner.idle_s and not owner.demand)


@by_any_scene
@given(SCENES)
def test_after_all_that_leaves_has_gone_the_first_in_order_has_what_fits(
    scene: Scene,
) -> None:
    """Placing, and ending what drains, comes to rest."""
    wishes, machines, standing = scene
    for _ in range(30):
        done = place(wishes, machines, standing, NOW)
        wishes, after = apply(wishes, standing, done)
        after = [replace(each, id=uid(5000 + at)) for at, each in enumerate(after) if not each.leaves]
        if not done and len(after) == len(standing):
            return
        standing = [replace(each, state=ReplicaState.READY) for each in after]
    raise AssertionError("it never rests")
