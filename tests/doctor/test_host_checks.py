"""Each check of the host, of storage and of devices, well and broken on purpose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.doctor import device_checks, host_checks, storage_checks
from batchinfer.doctor.everything import HOST
from batchinfer.doctor.findings import Check, Level, examine, fail, find_worst, fine
from batchinfer.doctor.mounts import find_mount, read_mounts
from batchinfer.errors import StartError
from tests.doctor.conftest import MEMINFO, room

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.doctor.findings import Look

OK, WARNING, ERROR, SKIPPED = Level.OK, Level.WARNING, Level.ERROR, Level.SKIPPED
THP = "sys/kernel/mm/transparent_hugepage/enabled"
GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
CARD = {"sys/bus/pci/devices/0000:17:00.0/vendor": "0x10de", "sys/bus/pci/devices/0000:17:00.0/class": "0x030200"}
NODE = "sys/bus/pci/devices/0000:17:00.0/numa_node"
NODES = {
    "sys/devices/system/node/node0/cpulist": "0-15",
    "sys/devices/system/node/node1/cpulist": "16-31",
}
DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build"
WSL = "Linux version 6.6.87.2-microsoft-standard-WSL2"
PRESSED = "some avg10={share} avg60=1.00 avg300=0.50 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0"


@pytest.mark.parametrize(
    ("look_at", "files", "level", "word"),
    [
        (host_checks.check_swappiness, {"proc/sys/vm/swappiness": "1"}, OK, "1"),
        (host_checks.check_swappiness, {"proc/sys/vm/swappiness": "60"}, WARNING, "60"),
        (host_checks.check_swappiness, {}, SKIPPED, "not show"),
        (host_checks.check_swap, {}, OK, "0 MiB"),
        (host_checks.check_swap, {"proc/meminfo": MEMINFO.format(total=4_000_000, free=1_000_000)}, WARNING, "2929"),
        (host_checks.check_pressure, {"proc/pressure/memory": PRESSED.format(share="0.20")}, OK, "0 %"),
        (host_checks.check_pressure, {"proc/pressure/memory": PRESSED.format(share="34.00")}, WARNING, "34 %"),
        (host_checks.check_pressure, {"proc/pressure/memory": PRESSED.format(share="55.00")}, WARNING, "claim nothing"),
        (
            host_checks.check_pressure,
            {
                "proc/pressure/memory": PRESSED.format(share="55.00"),
                "proc/self/cgroup": "0::/w",
                "sys/fs/cgroup/w/memory.pressure": PRESSED.format(share="0.00"),
            },
            OK,
            "0 %",
        ),
        (host_checks.check_pressure, {}, SKIPPED, "PSI"),
        (host_checks.check_cores, {}, OK, "keep off 0"),
        (host_checks.check_cores, NODES, OK, "2 NUMA nodes"),
        (host_checks.check_cores, {"sys/fs/cgroup/cpu.max": "50000 100000"}, WARNING, "0.5"),
        (host_checks.check_cores, {"sys/fs/cgroup/cpu.max": "300000 100000"}, OK, "3.0"),
        (
            host_checks.check_cores,
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "10000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            WARNING,
            "0.1",
        ),
        (host_checks.check_processes, {}, OK, "No control group"),
        (host_checks.check_processes, {"sys/fs/cgroup/pids.max": "max", "sys/fs/cgroup/pids.current": "7"}, OK, "No"),
        (host_checks.check_processes, {"sys/fs/cgroup/pids.max": "4096", "sys/fs/cgroup/pids.current": "70"}, OK, "70"),
        (
            host_checks.check_processes,
            {
                "proc/self/cgroup": "3:pids:/x",
                "sys/fs/cgroup/pids/x/pids.max": "512",
                "sys/fs/cgroup/pids/x/pids.current": "500",
            },
            WARNING,
            "500 of 512",
        ),
        (host_checks.check_huge_pages, {THP: "always [madvise] never"}, OK, "madvise"),
        (host_checks.check_huge_pages, {THP: "always madvise [never]"}, WARNING, "off"),
        (host_checks.check_huge_pages, {}, SKIPPED, "no transparent"),
        (host_checks.check_governor, {GOVERNOR: "performance"}, OK, "performance"),
        (host_checks.check_governor, {GOVERNOR: "powersave"}, WARNING, "powersave"),
        (host_checks.check_governor, {}, SKIPPED, "hypervisor"),
        (host_checks.check_wsl, {"proc/version": "Linux version 6.1.0"}, SKIPPED, "no WSL"),
        (host_checks.check_wsl, {"proc/version": WSL}, WARNING, "32000 MiB"),
        (host_checks.check_wsl, {"proc/version": WSL, "etc/os-release": "ID=docker-desktop"}, ERROR, "Docker Desktop"),
        (device_checks.check_driver, {}, SKIPPED, "no NVIDIA"),
        (device_checks.check_driver, CARD, ERROR, "no driver"),
        (device_checks.check_driver, {"proc/driver/nvidia/version": DRIVER.format(version="535.129.03")}, ERROR, "535"),
        (device_checks.check_driver, {"proc/driver/nvidia/version": DRIVER.format(version="580.65.06")}, OK, "580.65"),
        (device_checks.check_driver, {"proc/driver/nvidia/version": "nothing known"}, SKIPPED, "form"),
        (device_checks.check_cuda, {}, SKIPPED, "no NVIDIA"),
        (device_checks.check_cuda, CARD, SKIPPED, "not installed"),
        (device_checks.check_numa, {}, SKIPPED, "no NVIDIA"),
        (device_checks.check_numa, CARD, OK, "One NUMA"),
        (device_checks.check_numa, {**CARD, **NODES, NODE: "1"}, OK, "cores 16-31"),
        (device_checks.check_numa, {**CARD, **NODES, NODE: "-1"}, WARNING, "0000:17:00.0"),
        (device_checks.check_mps, {}, SKIPPED, "no NVIDIA"),
        (device_checks.check_mps, CARD, OK, "does not run"),
        (device_checks.check_mps, {**CARD, "tmp/nvidia-mps/control": ""}, OK, "MPS runs"),
    ],
)
def test_what_a_host_shows_is_judged(
    tree: Callable[..., Look], look_at: Any, files: dict[str, str], level: Level, word: str
) -> None:
    said = look_at(tree(files))
    assert said.level is level
    assert word in said.message
    assert bool(said.remedy) == (level in {WARNING, ERROR})


@pytest.mark.parametrize(
    ("build", "driver", "level", "word"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None", "580.65.06", WARNING, "without CUDA"),
        ("cuda: Optional[str] = '12.8'", "570.124.06", OK, "CUDA 12.8"),
        ('cuda = "12.1"', "515.65.01", ERROR, "515.65"),
        ("cuda: Optional[str] = '13.0'", "570.124.06", ERROR, "570.124"),
        ("cuda: Optional[str] = '13.0'", "580.65.06", OK, "580.65"),
        ("cuda: Optional[str] = '99.0'", "580.65.06", SKIPPED, "not known"),
        ("cuda: Optional[str] = '12.8'", None, SKIPPED, "not known"),
    ],
)
def test_torchs_cuda_is_held_against_the_driver(
    tree: Callable[..., Look], build: str, driver: str | None, level: Level, word: str
) -> None:
    files = {**CARD, **({"proc/driver/nvidia/version": DRIVER.format(version=driver)} if driver else {})}
    said = device_checks.check_cuda(tree(files, torch_build=f"__version__ = '2.11.0'\n{build}\n"))
    assert (said.level, word in said.message) == (level, True), said
    assert bool(said.remedy) == (level in {WARNING, ERROR})


def test_cores_that_nobody_may_be_bound_to_are_told(tree: Callable[..., Look]) -> None:
    look = tree({})

    def judge(**changes: object) -> tuple[Level, str]:
        said = host_checks.check_cores(replace(look, settings=look.settings.model_copy(update=changes)))
        return said.level, said.message

    assert judge(cpu_affinity=False) == (OK, "8 cores in 1 NUMA node. Model workers are not bound to cores.")
    assert judge(reserve_cores=3)[1].endswith("keep off 0-2.")
    assert judge(reserve_cores=8)[0] is WARNING


@pytest.mark.parametrize(
    ("line", "level", "word"),
    [
        ("36 35 8:1 / / rw,relatime - ext4 /dev/sda1 rw", OK, "ext4"),
        ("36 35 8:1 / / rw,noatime - xfs /dev/nvme0n1p2 rw", OK, "xfs"),
        ("36 35 0:40 / / rw,relatime - overlay overlay rw,lowerdir=/a", WARNING, "layers"),
        ("36 35 0:41 / / rw,relatime - tmpfs tmpfs rw", WARNING, "in memory"),
        ("36 35 0:42 / / rw - nfs4 10.0.0.2:/srv rw,vers=4.2", WARNING, "network"),
        ("36 35 0:43 / / rw,noatime - 9p C:\\134 rw,aname=drvfs;path=C:\\134", WARNING, "Windows"),
        ("36 35 0:44 / / rw - 9p hostshare rw,trans=virtio", WARNING, "9P"),
        ("36 35 0:45 / / rw - mysteryfs none rw", SKIPPED, "mysteryfs"),
        ("36 35 0:45 / / rw", SKIPPED, "does not say"),
        ("\x00\xff garbage - ", SKIPPED, "does not say"),
    ],
)
def test_the_file_system_of_the_models_is_judged(tree: Callable[..., Look], line: str, level: Level, word: str) -> None:
    said = storage_checks.check_kind(tree({"proc/self/mountinfo": line + "\n"}))
    assert (said.level, word in said.message) == (level, True), said


def test_the_mount_nearest_to_a_folder_holds_it(tree: Callable[..., Look]) -> None:
    look = tree({})
    home = look.settings.home.resolve()
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
        f"2 1 8:2 / {str(home).replace(' ', chr(92) + '040')} rw,noatime - xfs /dev/sdb1 rw",
        f"3 1 8:3 / {home}els rw - btrfs /dev/sdc1 rw",
    ]
    look = tree({"proc/self/mountinfo": "\n".join(lines)})
    found = find_mount(look, look.models_folder)
    assert found is not None
    assert (found.kind, found.device) == ("xfs", "8:2")
    assert len(read_mounts(look)) == 3


def test_a_read_that_writes_is_told(tree: Callable[..., Look]) -> None:
    mount = "1 0 8:1 / / rw{} - ext4 /dev/sda1 rw"
    assert storage_checks.check_access_times(tree({"proc/self/mountinfo": mount.format(",relatime")})).level is OK
    assert (
        storage_checks.check_access_times(tree({"proc/self/mountinfo": mount.format(",strictatime")})).level is WARNING
    )


@pytest.mark.parametrize(
    ("scheduler", "rotational", "level"),
    [("[none] mq-deadline", "0", OK), ("mq-deadline kyber [bfq]", "0", WARNING), ("[bfq] none", "1", OK)],
)
def test_the_scheduler_of_a_partitions_disk_is_found(
    tree: Callable[..., Look], scheduler: str, rotational: str, level: Level
) -> None:
    disk = "sys/devices/pci/nvme0n1"
    look = tree(
        {
            "proc/self/mountinfo": "1 0 259:2 / / rw - ext4 /dev/nvme0n1p2 rw",
            f"{disk}/queue/scheduler": scheduler,
            f"{disk}/queue/rotational": rotational,
            f"{disk}/nvme0n1p2/dev": "259:2",
            "sys/dev/block/README": "",
        }
    )
    (look.root / "sys/dev/block/259:2").symlink_to(look.root / disk / "nvme0n1p2")
    assert storage_checks.check_scheduler(look).level is level


@pytest.mark.parametrize(
    ("free", "inodes", "level"), [(0.5, 0.5, OK), (0.08, 0.5, WARNING), (0.5, 0.05, WARNING), (0.5, 0.01, ERROR)]
)
def test_room_and_inodes_of_the_home(tree: Callable[..., Look], free: float, inodes: float, level: Level) -> None:
    assert storage_checks.check_room(tree({}, room=room(free=free, inodes=inodes))).level is level


def test_shared_memory(tree: Callable[..., Look]) -> None:
    assert storage_checks.check_shared_memory(tree({})).level is SKIPPED
    assert storage_checks.check_shared_memory(tree({"dev/shm/x": ""})).level is OK
    assert storage_checks.check_shared_memory(tree({"dev/shm/x": ""}, room=room(blocks=16_384))).level is WARNING


@pytest.mark.parametrize(
    ("files", "level", "word"),
    [
        ({}, OK, "No control group"),
        ({"proc/self/cgroup": "0::/svc", "sys/fs/cgroup/svc/memory.max": "max"}, OK, "No control group"),
        ({"proc/self/cgroup": "0::/svc", "sys/fs/cgroup/svc/memory.max": str(8 << 30)}, OK, "8192 MiB"),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": str(1 << 30)}, WARNING, "1024 MiB"),
        (
            {"proc/self/cgroup": "4:cpu,memory:/x\n0::/", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(1 << 30)},
            WARNING,
            "1024 MiB",
        ),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, OK, "No control group"),
        ({"proc/self/cgroup": "nonsense\n::\n"}, OK, "No control group"),
    ],
)
def test_the_memory_of_a_container_is_found_in_both_versions(
    tree: Callable[..., Look], files: dict[str, str], level: Level, word: str
) -> None:
    said = host_checks.check_container_memory(tree(files))
    assert (said.level, word in said.message) == (level, True), said


def test_limits_of_a_process(tree: Callable[..., Look]) -> None:
    def judge(**limits: int) -> Level:
        return host_checks.check_limits(
            tree({}, limits={name.replace("_", " "): n for name, n in limits.items()})
        ).level

    assert judge(open_files=65_536, processes=-1) is OK
    assert judge(open_files=-1, processes=4096) is OK
    assert judge(open_files=1024) is WARNING
    assert judge(open_files=65_536, processes=256) is WARNING


EVERY = HOST


def test_a_tree_of_nonsense_breaks_no_check(tree: Callable[..., Look]) -> None:
    """What cannot be read as it should be is a finding of its own; nothing is thrown, nothing is judged well."""
    names = (
        "proc/sys/vm/swappiness", "proc/meminfo", "proc/pressure/memory", "proc/self/cgroup", "proc/self/mountinfo",
        "proc/driver/nvidia/version", "proc/version", "sys/fs/cgroup/memory.max", THP, *CARD, NODE,
        "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/pids.max", "sys/fs/cgroup/cpuset.cpus.effective", "proc/vmstat",
        "sys/devices/system/node/node0/cpulist", "sys/fs/selinux/enforce", "proc/self/attr/current",
    )  # fmt: skip
    findings = list(examine(EVERY, tree(dict.fromkeys(names, "\x00 ][ = : - \x1b"))))
    assert len(findings) == len(EVERY)
    by_name = {finding.check: finding for finding in findings}
    assert by_name["swappiness"].level is SKIPPED
    assert by_name["swap in use"].level in {SKIPPED, OK}
    assert by_name["memory pressure"].level is SKIPPED
    assert not any("\x1b" in finding.message for finding in findings)


def test_a_host_that_shows_nothing_is_no_error(tree: Callable[..., Look]) -> None:
    look = tree({})
    (look.root / "proc/meminfo").unlink()
    assert find_worst(examine(EVERY, look)) in {OK, SKIPPED}


def test_files_that_cannot_be_read_are_no_error(tree: Callable[..., Look]) -> None:
    """Folders stand where files are looked for: reading them fails, as it does for a user who may not."""
    look = tree({})
    (look.root / "proc/meminfo").unlink()
    for name in ("proc/meminfo", "proc/self/cgroup", "proc/self/mountinfo", "proc/vmstat", "proc/pressure/memory",
                 "proc/version", "proc/sys/vm/swappiness", "sys/fs/cgroup/memory.max", "sys/fs/cgroup/cpu.max",
                 THP, GOVERNOR, "sys/devices/system/node/node0/cpulist", "sys/fs/selinux/enforce", NODE):  # fmt: skip
        (look.root / name).mkdir(parents=True)
    assert find_worst(examine(EVERY, look)) in {OK, SKIPPED}


def test_what_breaks_while_looking_tells_its_class_and_no_text(tree: Callable[..., Look]) -> None:
    def burst(look: Look) -> Any:
        raise ValueError("postgres://user:secret@host")

    def refuse(look: Look) -> Any:
        raise StartError("It is not there. Start it.")

    checks = [
        Check("a", "g", "w", burst),
        Check("b", "g", "w", refuse),
        Check("c", "g", "w", lambda _: fine("Good.")),
    ]
    findings = list(examine(checks, tree({})))
    assert [finding.level for finding in findings] == [SKIPPED, ERROR, OK]
    assert "secret" not in findings[0].message
    assert findings[1].message == "It is not there. Start it."
    assert find_worst(findings) is ERROR
    assert find_worst([]) is OK
    assert fail("x", "y").level is ERROR


def test_every_check_has_a_name_of_its_own_and_says_why() -> None:
    assert len({check.name for check in EVERY}) == len(EVERY)
    assert all(check.why.endswith(".") for check in EVERY)
