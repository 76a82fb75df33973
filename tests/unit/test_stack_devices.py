"""The inventory of a machine, from trees of files and from what nvidia-smi says."""

from __future__ import annotations

import os

import pytest

from batchinfer.stack.devices import list_device_facts, read_memory_mib

GIB = 2**30
MEMINFO = "MemTotal:       24731732 kB\nMemFree:         1000000 kB\n"
CPUINFO = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\n"
UNLIMITED_V1 = "9223372036854771712\n"
TABLE = """\
0, GPU-11111111-aaaa, 81559, NVIDIA H100 80GB HBM3
1, GPU-22222222-bbbb, 24564, NVIDIA GeForce RTX 4090, Founders
"""


@pytest.fixture
def tree(tmp_path):
    """Writes files under a root that stands for `/`, and answers the root."""

    def write(**files):
        for path, content in {"proc/meminfo": MEMINFO, "proc/cpuinfo": CPUINFO, **files}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        return tmp_path

    return write


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_machine_without_limits_has_its_memory(tree):
    assert read_memory_mib(tree()) == 24731732 // 1024


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{4 * GIB}\n"}, 4096),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 24152),
        # A group above allows less than its own.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": f"{8 * GIB}",
                "sys/fs/cgroup/a/memory.max": f"{2 * GIB}",
            },
            2048,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{GIB}\n",
            },
            1024,
        ),
        (
            {"proc/self/cgroup": "4:memory:/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1},
            24152,
        ),
        # Docker shows a path of the host's tree that is not there.
        ({"proc/self/cgroup": "0::/docker/1f2e\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, 1024),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "nonsense\n"}, 24152),
    ],
)
def test_a_control_group_allows_less(tree, files, wanted):
    assert read_memory_mib(tree(**files)) == wanted


def test_nobody_knows(tmp_path):
    assert read_memory_mib(tmp_path) is None


def test_gpus_by_number_with_the_cpu_beside_them(tree):
    first, second, cpu = list_device_facts(["cuda:0", "cuda:1"], root=tree(), ask=lambda: TABLE)
    assert (first.name, first.kind, first.total_mib, first.title) == ("cuda:0", "cuda", 81559, "NVIDIA H100 80GB HBM3")
    assert (second.total_mib, second.title) == (24564, "NVIDIA GeForce RTX 4090, Founders")
    assert (cpu.name, cpu.kind, cpu.total_mib, cpu.title) == ("cpu", "cpu", 24152, "AMD EPYC 7B13")


@pytest.mark.parametrize("visible", ["1", "GPU-22222222-bbbb", " 1 , -1"])
def test_numbers_count_into_what_is_visible(tree, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list_device_facts(["cuda:0"], root=tree(), ask=lambda: TABLE)[0].total_mib == 24564


@pytest.mark.parametrize("answer", ["", "No devices were found\n", "0, GPU-1, [N/A], NVIDIA Thor\n"])
def test_a_driver_that_does_not_say(tree, answer):
    gpu, cpu = list_device_facts(["cuda:0"], root=tree(), ask=lambda: answer)
    assert (gpu.name, gpu.kind, gpu.total_mib) == ("cuda:0", "cuda", None)
    assert cpu.total_mib == 24152


def test_the_driver_is_not_asked_where_there_is_no_gpu(tree):
    def ask():
        pytest.fail("nobody is to be asked")

    assert [device.name for device in list_device_facts(["cpu"], root=tree(), ask=ask)] == ["cpu"]


def test_a_driver_that_hangs_or_is_not_there(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert list_device_facts(["cuda:0"], root=tree())[0].total_mib is None
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/nvidia-smi"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("batchinfer.stack.devices._ASK_S", 0.3)
    assert list_device_facts(["cuda:0"], root=tree())[0].total_mib is None
    program.write_text("#!/bin/sh\n/bin/echo '0, GPU-1, 1024, small'\n")
    assert list_device_facts(["cuda:0"], root=tree())[0].total_mib == 1024


def test_this_machine():
    (cpu,) = [device for device in list_device_facts() if device.kind == "cpu"]
    assert cpu.total_mib
    assert cpu.total_mib <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
