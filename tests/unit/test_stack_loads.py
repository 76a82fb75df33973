"""How devices stand, from trees of files and from what nvidia-smi says: what cannot be known is never 0."""

from __future__ import annotations

import pytest

from batchinfer.stack.loads import Meter, read_taken_mib
from batchinfer.store.hosts import Device, DeviceLoad

GIB = 2**30
MEMINFO = "MemTotal:       8388608 kB\nMemFree:        1048576 kB\nMemAvailable:   6291456 kB\n"
GPUS = [Device("cuda:0", "cuda"), Device("cuda:1", "cuda"), Device("cpu", "cpu")]
TABLE = """\
0, GPU-11111111-aaaa, 40960, 93
1, GPU-22222222-bbbb, [N/A], [Not Supported]
"""


@pytest.fixture
def tree(tmp_path):
    """Writes files under a root that stands for `/`, and answers the root."""

    def write(**files):
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        return tmp_path

    return write


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def ticks(busy: int, idle: int) -> str:
    return f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n"


def test_memory_that_is_taken_is_what_nobody_could_have(tree):
    assert read_taken_mib(tree(**{"proc/meminfo": MEMINFO})) == 2048


def test_memory_of_a_limited_group_is_the_groups_own(tree):
    root = tree(**{
        "proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon {GIB}\ninactive_file {GIB}\n",
    })  # fmt: skip
    assert read_taken_mib(root) == 2048


def test_use_of_the_cpu_is_the_mean_of_the_last_minute(tree):
    root = tree(**{"proc/meminfo": MEMINFO, "proc/stat": ticks(0, 100)})
    meter = Meter(GPUS[2:], root=root)
    tree(**{"proc/stat": ticks(100, 100)})
    assert meter.look() == {"cpu": DeviceLoad(2048, 1.0)}
    tree(**{"proc/stat": ticks(100, 200)})
    assert meter.look() == {"cpu": DeviceLoad(2048, 0.5)}


def test_what_a_card_does_not_tell_is_not_known(tree):
    meter = Meter(GPUS[:2], root=tree(), ask=lambda: TABLE)
    assert meter.look() == {"cuda:0": DeviceLoad(40960, 0.93), "cuda:1": DeviceLoad(None, None)}


def test_cards_are_those_that_may_be_seen(tree, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11111111-aaaa")
    assert Meter(GPUS[:1], root=tree(), ask=lambda: TABLE).look()["cuda:0"].taken_mib == 40960


def test_a_machine_that_tells_nothing_is_not_known(tree):
    meter = Meter(GPUS, root=tree(), ask=lambda: "")
    assert set(meter.look().values()) == {DeviceLoad(None, None)}
