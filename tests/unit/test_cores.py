"""Cores for workers: what the machine's files say, and plans that keep off what is kept back and taken."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.domain.cores import CorePlan, list_reserved, plan_cores
from batchinfer.observe import cores as observed
from batchinfer.observe.cores import Ground, find_card, list_cards, parse_cores, read_ground, show_cores
from workers import cores as workers_cores
from workers.cores import CoreRules, bind, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NODE0, NODE1 = frozenset(range(8)), frozenset(range(8, 16))
TWO_NODES = Ground(NODE0 | NODE1, {0: NODE0, 1: NODE1})


@pytest.fixture
def plant(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Write files below a root of their own, and answer the root."""

    def planted(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return planted


def two_nodes(root: Callable[[dict[str, str]], Path]) -> Path:
    """Sixteen cores, two nodes, two cards, one near each."""
    return root(
        {
            "sys/devices/system/node/node0/cpulist": "0-7\n",
            "sys/devices/system/node/node1/cpulist": "8-15\n",
            "sys/devices/system/node/node2/cpulist": "\n",
            "proc/driver/nvidia/gpus/0000:17:00.0/information": "Model: X\nGPU UUID: \t GPU-aaaa-1\n",
            "proc/driver/nvidia/gpus/0000:ca:00.0/information": "Model: X\nGPU UUID: \t GPU-bbbb-2\n",
            "sys/bus/pci/devices/0000:17:00.0/numa_node": "0\n",
            "sys/bus/pci/devices/0000:ca:00.0/numa_node": "1\n",
        }
    )


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3,8", {0, 1, 2, 3, 8}), ("5", {5}), ("", set()), ("0-1,4-5\n", {0, 1, 4, 5})]
)
def test_lists_of_cores_are_read_and_written_as_the_kernel_does(text: str, cores: set[int]) -> None:
    assert parse_cores(text) == cores
    assert show_cores(cores) == text.strip()


@pytest.mark.parametrize("text", ["a", "1-", "-1", "1;2", "\x00"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no list"):
        parse_cores(text)


def test_nodes_cards_and_their_places_are_read(plant: Callable[[dict[str, str]], Path]) -> None:
    root = two_nodes(plant)
    assert read_ground(root, range(16)) == TWO_NODES
    cards = list_cards(root)
    assert [(card.uuid, card.node) for card in cards] == [("GPU-aaaa-1", 0), ("GPU-bbbb-2", 1)]
    assert find_card(cards, "1") is cards[1]
    assert find_card(cards, "GPU-bbbb") is cards[1]
    assert find_card(cards, "MIG-bbbb") is None
    assert find_card(cards, "2") is None


def test_limits_of_the_control_group_count(plant: Callable[[dict[str, str]], Path]) -> None:
    root = plant(
        {
            "proc/self/cgroup": "0::/service\n",
            "sys/fs/cgroup/service/cpuset.cpus.effective": "2-5\n",
            "sys/fs/cgroup/service/cpu.max": "max 100000\n",
            "sys/fs/cgroup/cpu.max": "250000 100000\n",
        }
    )
    ground = read_ground(root, range(16))
    assert (ground.allowed, ground.quota) == ({2, 3, 4, 5}, 2.5)
    assert plan_cores(ground, reserve=1).threads == 1
    assert plan_cores(Ground(TWO_NODES.allowed, TWO_NODES.nodes, 2.5)).threads == 2


def test_limits_of_the_first_version_count(plant: Callable[[dict[str, str]], Path]) -> None:
    root = plant(
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/x\n6:cpuset:/x\n",
            "sys/fs/cgroup/cpuset/x/cpuset.cpus": "0-2\n",
            "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert read_ground(root, range(8)) == Ground(frozenset({0, 1, 2}), {}, 1.5, crowded=True)


def test_a_broken_tree_leaves_all_cores(plant: Callable[[dict[str, str]], Path]) -> None:
    root = plant(
        {
            "proc/self/cgroup": "\x00garbage\n0::/../../x\n",
            "sys/fs/cgroup/cpuset.cpus.effective": "many",
            "sys/fs/cgroup/cpu.max": "a lot",
            "sys/devices/system/node/node0/cpulist": "x-y",
            "sys/devices/system/node/node9/elsewhere": "",
            "proc/driver/nvidia/gpus/odd/information": "\x00",
        }
    )
    assert read_ground(root, range(4)) == Ground(frozenset(range(4)))
    assert [(card.uuid, card.node) for card in list_cards(root)] == [("", None)]


def test_a_worker_keeps_near_its_device_and_off_the_first_cores() -> None:
    plan = plan_cores(TWO_NODES, near=1, cards=1)
    assert (plan.cores, plan.threads, plan.shared) == ({8, 9, 10, 11}, 4, False)
    assert plan_cores(TWO_NODES, near=0).cores == {1, 2, 3}  # core 0 is kept back
    assert plan_cores(TWO_NODES, near=0, reserve=0).cores == {0, 1, 2, 3}
    assert plan_cores(TWO_NODES, near=1, cards=2).cores == {8, 9}
    assert plan_cores(TWO_NODES, near=1, wanted=3).cores == {8, 9, 10}


def test_a_model_on_the_cpu_keeps_to_one_node_where_one_has_room() -> None:
    assert plan_cores(TWO_NODES).cores == {8, 9, 10, 11, 12, 13, 14}
    assert plan_cores(TWO_NODES, taken=NODE1, wanted=3).cores == {1, 2, 3}
    assert plan_cores(TWO_NODES, taken=frozenset({8, 9, 10, 1, 2, 3}), wanted=6).cores == {4, 5, 6, 7, 11, 12}


def test_where_too_few_are_left_they_are_shared() -> None:
    plan = plan_cores(TWO_NODES, near=1, taken=frozenset(range(8, 14)))
    assert (plan.cores, plan.threads, plan.shared) == (NODE1, 4, True)


def test_small_machines_are_left_as_they_are_unless_somebody_asks() -> None:
    small = Ground(frozenset(range(4)), {0: frozenset(range(4))})
    assert plan_cores(small) == CorePlan(small.allowed, 2, bound=False)
    assert plan_cores(small, reserve=1) == CorePlan(frozenset({1}), 1)
    assert plan_cores(Ground(frozenset({0}), {}), reserve=9) == CorePlan(frozenset({0}), 1, bound=False)


@st.composite
def grounds(draw: st.DrawFn) -> Ground:
    """Machines with up to four nodes and gaps in their numbers."""
    allowed = draw(st.frozensets(st.integers(0, 63), min_size=1, max_size=48))
    parts = draw(st.integers(0, 4))
    nodes = {node: frozenset(core for core in range(64) if core % parts == node) for node in range(parts)}
    return Ground(allowed, nodes, draw(st.none() | st.floats(0.1, 64)), draw(st.booleans()))


WORKERS = st.lists(
    st.tuples(st.none() | st.integers(0, 5), st.integers(1, 8), st.integers(0, 70)), min_size=1, max_size=12
)


@given(ground=grounds(), workers=WORKERS, reserve=st.none() | st.integers(0, 70))
def test_plans_keep_their_promises(
    ground: Ground, workers: list[tuple[int | None, int, int]], reserve: int | None
) -> None:
    """None outside what is allowed, none that is kept back, none of another's unless it says so, never none at all."""
    reserved = list_reserved(ground.allowed, reserve)
    assert reserved < ground.allowed
    taken: frozenset[int] = frozenset()
    for near, cards, wanted in workers:
        plan = plan_cores(ground, near=near, cards=cards, wanted=wanted, reserve=reserve, taken=taken)
        assert plan.cores
        assert plan.cores <= ground.allowed - reserved
        assert 1 <= plan.threads <= len(plan.cores)
        if near is not None and (close := ground.nodes.get(near, frozenset()) & ground.allowed - reserved):
            assert not plan.bound or plan.cores <= close
        if plan.bound and not plan.shared:
            assert not plan.cores & taken
            taken |= plan.cores


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[frozenset[int]]]:
    """A process that holds no cores yet; answers what it is bound to."""
    bound: list[frozenset[int]] = []
    held: list[socket.socket] = []
    monkeypatch.setattr(workers_cores, "_held", held)
    monkeypatch.setattr(workers_cores, "_apply", lambda plan: bound.append(plan.cores))
    monkeypatch.setattr(observed.os, "sched_getaffinity", lambda _: set(range(16)))
    yield bound
    for name in held:
        name.close()


def test_workers_of_one_machine_take_different_cores_until_none_are_left(
    plant: Callable[[dict[str, str]], Path], fresh: list[frozenset[int]]
) -> None:
    root = two_nodes(plant)
    rules = CoreRules(book=f"test {uuid4()}")
    plans = [bind("1", 0, rules, root) for _ in range(3)]
    assert [show_cores(cores) for cores in fresh] == ["8-11", "12-15", "8-15"]
    assert [plan.shared for plan in plans] == [False, False, True]


def test_cores_of_a_process_that_ended_are_free_again(fresh: list[frozenset[int]]) -> None:
    """However it ended: names among sockets are the kernel's."""
    book, ground = f"test {uuid4()}", Ground(frozenset(range(8)))
    code = (
        "import sys; from batchinfer.domain.cores import plan_cores\n"
        "from batchinfer.observe.cores import Ground; from workers.cores import take\n"
        "ground = Ground(frozenset(range(8)))\n"
        "plan = take(sys.argv[1], ground, lambda taken: plan_cores(ground, taken=taken))\n"
        "print(sorted(plan.cores), flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, book], stdin=-1, stdout=-1, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline().strip() == "[1, 2, 3]"
        assert take(book, ground, lambda taken: plan_cores(ground, taken=taken)).cores == {4, 5, 6}
    finally:
        child.kill()
        child.communicate()
    assert take(book, ground, lambda taken: plan_cores(ground, taken=taken)).cores == {1, 2, 3}


def test_a_worker_that_stopped_while_it_chose_keeps_nobody_from_computing(
    fresh: list[frozenset[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_cores, "CHOOSE_S", 0.05)
    book = f"test {uuid4()}"
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(f"\0{book} choosing")
        plan = take(book, TWO_NODES, lambda taken: plan_cores(TWO_NODES, near=0, taken=taken))
    assert plan.cores == {1, 2, 3}


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io/token"])
def test_in_a_container_without_cores_of_its_own_all_near_ones_are_shared(
    plant: Callable[[dict[str, str]], Path], mark: str
) -> None:
    """Workers of other containers would choose the same ones."""
    root = two_nodes(plant)
    plant({mark: "", "sys/devices/system/cpu/online": "0-15"})
    ground = read_ground(root, range(16))
    assert plan_cores(ground, near=0) == CorePlan(NODE0 - {0}, 3, shared=True)
    plant({"sys/fs/cgroup/cpuset.cpus.effective": "4-11"})
    assert plan_cores(read_ground(root, range(16)), near=0) == CorePlan(frozenset({5}), 1)


def test_a_process_is_bound_with_all_its_threads() -> None:
    """In a process of its own, which is left bound."""
    code = (
        "import os, threading, time; from batchinfer.domain.cores import CorePlan; from workers.cores import _apply\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "core = min(os.sched_getaffinity(0)); _apply(CorePlan(frozenset({core}), 1))\n"
        "tasks = [int(name) for name in os.listdir('/proc/self/task')]\n"
        "assert len(tasks) > 1 and all(os.sched_getaffinity(task) == {core} for task in tasks)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
