"""Hosts that show nonsense, nothing, or nothing to this user: each check says what is not known, and judges nothing.

Tests may run as root, whom no mode keeps out: files are made to refuse where they are read.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.doctor.everything import HOST
from batchinfer.doctor.findings import Level, examine
from batchinfer.doctor.service_checks import SERVICE_CHECKS
from tests.doctor.broken_hosts import CARD, DISK, DRIVER, GOVERNOR, THP
from tests.doctor.broken_services import BROKEN_SERVICES
from tests.doctor.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.doctor.findings import Finding, Look

WELL = {
    "proc/sys/vm/swappiness": "1",
    "proc/version": "Linux version 6.1.0",
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
    "proc/self/mountinfo": "1 0 259:2 / / rw,relatime - ext4 /dev/nvme0n1p2 rw",
    "proc/self/attr/current": "unconfined_u:unconfined_r:unconfined_t:s0\x00",
    "sys/fs/selinux/enforce": "1",
    THP: "always [madvise] never",
    GOVERNOR: "performance",
    "sys/fs/cgroup/memory.max": str(16 << 30),
    "sys/fs/cgroup/cpu.max": "400000 100000",
    "sys/fs/cgroup/pids.max": "4096",
    "sys/fs/cgroup/pids.current": "70",
    f"{DISK}/queue/scheduler": "[none] mq-deadline",
    f"{DISK}/queue/rotational": "0",
    f"{DISK}/nvme0n1p2/dev": "259:2",
    "sys/dev/block/README": "",
    "dev/shm/x": "",
    **CARD,
    "sys/bus/pci/devices/0000:17:00.0/numa_node": "1",
    "sys/devices/system/node/node0/cpulist": "0-3",
    "sys/devices/system/node/node1/cpulist": "4-7",
    DRIVER: "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
}
#: What each check goes by, where that is files. A check with none here goes by system calls (below).
GOES_BY = {
    "file system of the models": ("proc/self/mountinfo",),
    "times of access": ("proc/self/mountinfo",),
    "I/O scheduler": ("proc/self/mountinfo", f"{DISK}/queue/scheduler", f"{DISK}/queue/rotational"),
    "SELinux labels": ("sys/fs/selinux/enforce", "proc/self/attr/current"),
    "swappiness": ("proc/sys/vm/swappiness",),
    "swap in use": ("proc/meminfo",),
    "memory pressure": ("proc/pressure/memory",),
    "huge pages": (THP,),
    "frequency of the cores": (GOVERNOR,),
    "memory of the container": ("proc/meminfo", "sys/fs/cgroup/memory.max"),
    "cores": ("sys/fs/cgroup/cpu.max",),
    "processes": ("sys/fs/cgroup/pids.max", "sys/fs/cgroup/pids.current"),
    "WSL": ("proc/version",),
    "ports of the servers": (),
    "driver": (DRIVER,),
    "CUDA": (DRIVER,),
    "NUMA": (),
    "MPS": (),
    "web port": (),
    "room of the home": (),
    "shared memory": (),
    "permissions": (),
    "limits of a process": (),
}
NONSENSE = {
    "empty": b"",
    "spaces": b" \n\n",
    "signs": b"\x00 ][ = : - \x1b[31m",
    "binary": bytes(range(256)) * 40,
    "not UTF-8": b"\xff\xfe\xba" * 9,
    "digits": b"9" * 5000,
    "other digits": "²٣".encode(),
    "below zero": b"-1",
    "two words": b"max max",
    "a page": b"<html><body>404</body></html>\n" * 99,
}
CASES = [(check, file) for check, files in GOES_BY.items() for file in files]


@pytest.fixture
def host(tree: Callable[..., Look]) -> Look:
    look = tree(WELL, torch_build="cuda: Optional[str] = '12.8'", label=lambda _: "system_u:object_r:user_home_t:s0")
    (look.root / "sys/dev/block/259:2").symlink_to(look.root / DISK / "nvme0n1p2")
    for folder in (look.settings.home, look.settings.home / "models"):
        folder.mkdir(mode=0o700)
    return look


def ask(look: Look, name: str) -> Finding:
    (found,) = examine([check for check in HOST if check.name == name], look)
    return found


def require_clear(found: Finding) -> None:
    """Not judged, and said in a line that names no exception's text and holds no control characters."""
    assert found.level is Level.SKIPPED, found
    assert len(found.message) < 300
    assert found.message.isprintable()
    assert found.message.endswith(".")


def test_what_each_check_goes_by_is_listed() -> None:
    assert set(GOES_BY) == {check.name for check in HOST}


def test_the_host_is_well_before_it_is_broken(host: Look) -> None:
    assert {found.check for found in examine(HOST, host) if found.level is not Level.OK} == {
        "WSL", "web port", "ports of the servers",
    }  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize(("name", "file"), CASES)
def test_nonsense_is_not_judged(host: Look, name: str, file: str, text: bytes) -> None:
    (host.root / file).write_bytes(text)
    require_clear(ask(host, name))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EISDIR, errno.ENODEV])
@pytest.mark.parametrize(("name", "file"), CASES)
def test_a_file_that_may_not_be_read_is_not_judged(
    host: Look, monkeypatch: pytest.MonkeyPatch, name: str, file: str, code: int
) -> None:
    refuse(monkeypatch, host.root / file, code)
    require_clear(ask(host, name))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_proc_that_may_not_be_read_breaks_no_check(host: Look, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refuse(monkeypatch, host.root, code)
    found = {finding.check: finding for finding in examine(HOST, host)}
    assert set(found) == set(GOES_BY)
    for name, files in GOES_BY.items():
        if files:
            require_clear(found[name])


def test_a_machine_without_proc_and_sys_breaks_no_check(host: Look) -> None:
    bare = replace(host, root=host.root / "nowhere")
    assert {found.level for found in examine(HOST, bare)} <= {Level.OK, Level.SKIPPED}


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("file", sorted({*WELL, "proc/meminfo"}))
def test_nonsense_anywhere_ends_no_run(host: Look, file: str, text: bytes) -> None:
    (host.root / file).write_bytes(text)
    assert [finding.check for finding in examine(HOST, host)] == [check.name for check in HOST]


def test_a_file_system_that_does_not_answer_is_not_judged(host: Look) -> None:
    def stale(_: Path) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle")

    for name in ("room of the home", "shared memory"):
        found = ask(replace(host, room=stale), name)
        require_clear(found)
        assert found.message == "Not known: it could not be looked at (Stale file handle)."


def test_links_that_lead_in_a_circle_are_not_judged(host: Look) -> None:
    link = host.root / "sys/dev/block/259:2"
    link.unlink()
    link.symlink_to(link)
    require_clear(ask(host, "I/O scheduler"))


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"database_url": "redis://[::1"}', '{"redis_url": 7}'])
def test_a_broken_file_of_servers_is_not_judged(host: Look, text: str) -> None:
    (host.settings.home / "servers.json").write_text(text)
    require_clear(ask(host, "ports of the servers"))
    require_clear(ask(host, "web port"))


def test_a_home_that_is_a_file_breaks_no_check(tree: Callable[..., Look]) -> None:
    look = tree({})
    look.settings.home.write_text("no folder")
    for name in ("permissions", "room of the home", "ports of the servers"):
        assert ask(look, name).level in {Level.OK, Level.SKIPPED}


def test_the_probe_of_the_blob_store_is_removed_where_reading_it_fails(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in [one for one in BROKEN_SERVICES if one.check == "blob store"]:
        with ExitStack() as after, monkeypatch.context() as patch:
            look = broken.break_it(Stage(request, patch, after))
            list(examine([check for check in SERVICE_CHECKS if check.name == "blob store"], look))
        assert [file for file in look.settings.blobs_dir.rglob("*") if file.is_file()] == []


def refuse(patch: pytest.MonkeyPatch, below: Path, code: int) -> None:
    """Reading this file, or any below this folder, is answered with an error of the system."""
    read = Path.read_text

    def read_text(self: Path, *args: Any, **options: Any) -> str:
        if self == below or below in self.parents or self.resolve() == below:
            raise OSError(code, "refused", str(self))
        return read(self, *args, **options)

    patch.setattr(Path, "read_text", read_text)
