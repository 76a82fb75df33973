"""Hosts, disks, folders, ports and devices, each broken in one way: trees of /proc and /sys, real folders and ports."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from batchinfer.doctor import port_checks
from tests.doctor.conftest import MEMINFO, room
from tests.doctor.stage import Broken, Stage, shows

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.doctor.findings import Look

CARD = {"sys/bus/pci/devices/0000:17:00.0/vendor": "0x10de", "sys/bus/pci/devices/0000:17:00.0/class": "0x030200"}
DRIVER = "proc/driver/nvidia/version"
DRIVER_SAYS = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build"
THP = "sys/kernel/mm/transparent_hugepage/enabled"
GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
PRESSURE = "some avg10={} avg60=1.00 avg300=0.50 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0"
WSL = "Linux version 6.6.87.2-microsoft-standard-WSL2"
CONFINED = {"sys/fs/selinux/enforce": "1", "proc/self/attr/current": "system_u:system_r:container_t:s0:c12,c900\x00"}
BARE = {"sys/fs/selinux/enforce": "1", "proc/self/attr/current": "unconfined_u:unconfined_r:unconfined_t:s0\x00"}
DISK = "sys/devices/pci/nvme0n1"


def mounted(line: str) -> dict[str, str]:
    return {"proc/self/mountinfo": f"36 35 0:42 / / {line}\n"}


def _order_by_bfq(stage: Stage) -> Look:
    look = stage.plant(
        {
            "proc/self/mountinfo": "1 0 259:2 / / rw - ext4 /dev/nvme0n1p2 rw",
            f"{DISK}/queue/scheduler": "mq-deadline kyber [bfq]",
            f"{DISK}/queue/rotational": "0",
            f"{DISK}/nvme0n1p2/dev": "259:2",
            "sys/dev/block/README": "",
        }
    )
    (look.root / "sys/dev/block/259:2").symlink_to(look.root / DISK / "nvme0n1p2")
    return look


def _at_home(**modes: int) -> Callable[[Stage], Look]:
    """A home whose folders have these modes."""

    def plant(stage: Stage) -> Look:
        look = stage.plant({})
        home = stage.make_home(look)
        for name, mode in modes.items():
            (home if name == "home" else home / name).chmod(mode)
        return look

    return plant


def _labelled(files: dict[str, str], label: str) -> Callable[[Stage], Look]:
    def plant(stage: Stage) -> Look:
        look = stage.plant(files, label=lambda _: label)
        stage.make_home(look)
        return look

    return plant


def _close_blobs(stage: Stage) -> Look:
    look = stage.plant({}, may_use=lambda folder: folder.name != "blobs")
    stage.make_home(look)
    return look


def _close_above(stage: Stage) -> Look:
    """Tests may run as root, whom no mode keeps out: the system call is made to say what others are told."""
    look = stage.plant({})
    home, stat = stage.make_home(look), type(look.root).stat

    def refuse(self: object, **options: object) -> object:
        if self == home:
            raise PermissionError(13, "Permission denied", str(home))
        return stat(self, **options)  # type: ignore[arg-type]

    stage.patch.setattr(type(look.root), "stat", refuse)
    return look


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _name_deaf_servers(stage: Stage) -> Look:
    look, port = stage.plant({}), _find_free_port()
    named = {"url": f"http://127.0.0.1:{port}", "redis_url": f"redis://:hush@127.0.0.1:{port}/0"}
    (stage.make_home(look) / "servers.json").write_text(json.dumps(named))
    return look


def _take_web_port(stage: Stage) -> Look:
    look = stage.plant({})
    server = socket.create_server(("127.0.0.1", 0))  # listens, and never answers
    stage.after.callback(server.close)
    stage.patch.setattr(port_checks, "ANSWER_S", 0.2)
    return replace(look, settings=look.settings.model_copy(update={"port": server.getsockname()[1]}))


def _keep_all_cores(stage: Stage) -> Look:
    look = stage.plant({})
    return replace(look, settings=look.settings.model_copy(update={"reserve_cores": 8}))


_KIND, _MODES = "file system of the models", "permissions"
BROKEN_HOSTS = (
    shows(_KIND, "a folder of Windows", mounted("rw,noatime - 9p C:\\134 rw,aname=drvfs;path=C:\\134")),
    shows(_KIND, "a folder of Windows", mounted("rw - drvfs C: rw")),
    shows(_KIND, "between them and this host is", mounted("rw - nfs4 10.0.0.2:/srv rw,vers=4.2")),
    shows(_KIND, "between them and this host is", mounted("rw - 9p hostshare rw,trans=virtio")),
    shows(_KIND, "in the layers of a container", mounted("rw,relatime - overlay overlay rw,lowerdir=/a")),
    shows(_KIND, "in memory", mounted("rw,relatime - tmpfs tmpfs rw")),
    shows("times of access", "writes the time of access", mounted("rw,strictatime - ext4 /dev/sda1 rw")),
    Broken("I/O scheduler", "requests are ordered by", _order_by_bfq),
    shows("room of the home", "nearly full", {}, room=room(free=0.01)),
    shows("room of the home", "nearly full", {}, room=room(inodes=0.01)),
    shows("room of the home", "fills up", {}, room=room(free=0.05)),
    shows("shared memory", "has room for", {"dev/shm/x": ""}, room=room(blocks=16_384)),
    Broken(_MODES, "may not write", _close_blobs),
    Broken(_MODES, "may not enter", _close_above),
    Broken(_MODES, "may change", _at_home(blobs=0o777)),
    Broken(_MODES, "may read users' files", _at_home(home=0o755, blobs=0o755)),
    Broken("SELinux labels", "keeps containers off", _labelled(CONFINED, "unconfined_u:object_r:user_home_t:s0")),
    Broken("SELinux labels", "has no label", _labelled(BARE, "")),
    shows("swappiness", "may be swapped out", {"proc/sys/vm/swappiness": "60"}),
    shows("swap in use", "are swapped out", {"proc/meminfo": MEMINFO.format(total=4_000_000, free=1_000_000)}),
    shows("memory pressure", "claim nothing", {"proc/pressure/memory": PRESSURE.format("55.00")}),
    shows("memory pressure", "models run on it.", {"proc/pressure/memory": PRESSURE.format("34.00")}),
    shows("huge pages", "pages are off", {THP: "always madvise [never]"}),
    shows("frequency of the cores", "save power", {GOVERNOR: "powersave"}),
    shows("memory of the container", "may take", {"sys/fs/cgroup/memory.max": str(1 << 30)}),
    shows("memory of the container", "may take", {"sys/fs/cgroup/memory/memory.limit_in_bytes": str(1 << 30)}),
    shows("cores", "waits for its next share", {"sys/fs/cgroup/cpu.max": "50000 100000"}),
    Broken("cores", "are to be kept back", _keep_all_cores),
    shows("processes", "processes and threads", {"sys/fs/cgroup/pids.max": "99", "sys/fs/cgroup/pids.current": "9"}),
    shows("limits of a process", "A process may open", {}, limits={"open files": 1024}),
    shows("limits of a process", "A user may have", {}, limits={"open files": -1, "processes": 256}),
    shows("WSL", "Docker Desktop's own", {"proc/version": WSL, "etc/os-release": "ID=docker-desktop"}),
    shows("WSL", "by default half", {"proc/version": WSL}),
    Broken("web port", "of this home named port", _name_deaf_servers),
    Broken("web port", "is taken by another program", _take_web_port),
    Broken("ports of the servers", "Nobody listens", _name_deaf_servers),
    shows("driver", "no driver is loaded", CARD),
    shows("driver", "torch's CUDA builds need it", {DRIVER: DRIVER_SAYS.format("535.129.03")}),
    shows("CUDA", "without CUDA", CARD, torch_build="cuda: Optional[str] = None\n"),
    shows("CUDA", "does not run", {**CARD, DRIVER: DRIVER_SAYS.format("515.65.01")}, torch_build="cuda = '12.1'\n"),
    shows(
        "NUMA",
        "does not say which is near",
        {
            **CARD,
            "sys/devices/system/node/node0/cpulist": "0-3",
            "sys/devices/system/node/node1/cpulist": "4-7",
            "sys/bus/pci/devices/0000:17:00.0/numa_node": "-1",
        },
    ),
)
#: Checks that tell and judge nothing.
TELLS_ONLY = frozenset({"MPS"})
