"""A network namespace with one cable to this machine's, that can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from batchinfer.stack.children import LAUNCHER

#: TEST-NET-2, 3 and 1 (RFC 5737): addresses that nobody has.
_NETWORKS = ("198.51.100.", "203.0.113.", "192.0.2.")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else ""


def _find_namespace(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


@cache
def find_reason_against_networks() -> str | None:
    """Why there can be no network namespace with a cable here, or None."""
    if os.geteuid() != 0:
        return "only root may lay a cable into a network namespace, and this is not root"
    if missing := [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]:
        return f"{', '.join(missing)} is not installed"
    if error := _run("unshare", "--net", "true"):
        return f"network namespaces are refused here: {error}"
    name = f"ch{os.getpid() % 100000}t"
    if error := _run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"):
        return f"virtual cables are refused here: {error}"
    _run("ip", "link", "del", name)
    return None


class Island:
    """A namespace whose processes reach `host` and nothing else. Processes are started in it with `prefix`.

    Of several at once, each has a `number` of its own, from 0 to 2.
    """

    def __init__(self, number: int = 0) -> None:
        first, network = os.getpid() % 63 * 4, _NETWORKS[number]
        self.host, self._guest = f"{network}{first + 1}", f"{network}{first + 2}"
        name = f"ch{os.getpid() % 100000}"
        self._near, self._far = f"{name}n{number}", f"{name}f{number}"

    def __enter__(self) -> Self:
        # Somebody must be in a namespace for it to be. He ends with us, and the cable with him.
        ends_with_us = [sys.executable, "-I", "-S", str(LAUNCHER), "--parent", str(os.getpid()), "--signal", "9", "--"]
        tools = [shutil.which("unshare") or "", "--net", shutil.which("sleep") or "", "infinity"]
        self._keeper = subprocess.Popen([*ends_with_us, *tools])
        while _find_namespace(self._keeper.pid) == _find_namespace(os.getpid()):
            assert self._keeper.poll() is None, "the namespace's keeper ended"
        self._must("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far)
        self._must("ip", "link", "set", self._far, "netns", str(self._keeper.pid))
        self._must("ip", "address", "add", f"{self.host}/30", "dev", self._near)
        self._must("ip", "link", "set", self._near, "up")
        for command in (["address", "add", f"{self._guest}/30", "dev", self._far], ["link", "set", self._far, "up"]):
            self._must(*self.prefix, "ip", *command)
        self._must(*self.prefix, "ip", "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: Any) -> None:
        _run("ip", "link", "del", self._near)
        with suppress(ProcessLookupError):
            self._keeper.kill()
        self._keeper.wait()

    @property
    def prefix(self) -> list[str]:
        """Put before a command, it runs there."""
        return [shutil.which("nsenter") or "nsenter", "--target", str(self._keeper.pid), "--net"]

    def pull(self) -> None:
        """Pull the cable: packets vanish, and nobody is told."""
        self._must("ip", "link", "set", self._near, "down")

    def plug(self) -> None:
        """Plug it in again."""
        self._must("ip", "link", "set", self._near, "up")

    def _must(self, *command: str) -> None:
        if error := _run(*command):
            raise RuntimeError(f"{' '.join(command)}: {error}")
