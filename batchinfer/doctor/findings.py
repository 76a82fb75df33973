"""What a check looks at, what it says, and how checks are run: one that breaks is a finding, never an end."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from batchinfer.errors import BatchinferError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from batchinfer.services.context import Context
    from batchinfer.settings import Settings

Thing = TypeVar("Thing")


class Level(StrEnum):
    """How bad it is. `skipped`: this machine has no such thing, or does not show it."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Said:
    """What a check found. `remedy` is what to do next, and empty where nothing is to be done."""

    level: Level
    message: str
    remedy: str = ""


def fine(message: str) -> Said:
    """As it should be."""
    return Said(Level.OK, message)


def skip(message: str) -> Said:
    """Not here, or not to be seen."""
    return Said(Level.SKIPPED, message)


def warn(message: str, remedy: str) -> Said:
    """It works, and costs time, or room for what may come."""
    return Said(Level.WARNING, message, remedy)


def fail(message: str, remedy: str) -> Said:
    """It does not work, or will not."""
    return Said(Level.ERROR, message, remedy)


class NotKnown(ValueError):
    """What a check goes by is not to be had here. The text is ours, names what is missing, and is told."""


def _read_label(folder: Path) -> str:
    try:
        return os.getxattr(folder, "security.selinux").decode(errors="replace").strip("\x00")
    except OSError:
        return ""


def _may_use(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _read_torch_build() -> str:
    try:
        found = importlib.util.find_spec("torch")  # looks for the package and runs nothing of it
        return Path(found.origin).with_name("version.py").read_text() if found and found.origin else ""
    except (OSError, ImportError, ValueError):
        return ""


@dataclass(frozen=True)
class Look:
    """Where checks look: the root of /proc and /sys (tests give trees of their own), and what the process sees."""

    root: Path
    settings: Settings
    #: Of the running service; None for the host alone.
    ctx: Context | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Soft limits of this process by name; -1 is no limit.
    limits: Mapping[str, int] = field(default_factory=dict)
    room: Callable[[Path], os.statvfs_result] = os.statvfs
    #: Cores that this process may run on; None: what the kernel says.
    cores: frozenset[int] | None = None
    #: SELinux's label of a folder; empty where it has none.
    label: Callable[[Path], str] = _read_label
    #: Whether this process may list, enter and write a folder.
    may_use: Callable[[Path], bool] = _may_use
    #: What torch says of its own build, in `torch/version.py`; it is never imported here. Empty where it is not there.
    torch_build: str = ""
    #: What checks of one run have asked already, by what they asked.
    known: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of_host(cls, settings: Settings, ctx: Context | None = None) -> Look:
        """This machine as it is."""
        limits = {
            "open files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "processes": resource.getrlimit(resource.RLIMIT_NPROC)[0],
        }
        return cls(Path("/"), settings, ctx, dict(os.environ), limits, torch_build=_read_torch_build())

    def read(self, name: str) -> str | None:
        """The text of a file below the root, stripped; None where it is not there or may not be read."""
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def ask_once(self, name: str, ask: Callable[[], Thing]) -> Thing:
        """The answer to a question that several checks have, asked at the first of them. What it raises all of them are
        told: a server that is away is not waited for again."""
        if name not in self.known:
            try:
                self.known[name] = ask()
            except BatchinferError as error:
                self.known[name] = error
        found = self.known[name]
        if isinstance(found, BatchinferError):
            raise found
        return cast("Thing", found)

    def require_ctx(self) -> Context:
        """The running service. Raises BatchinferError where checks of the host alone were asked for."""
        if self.ctx is None:
            raise BatchinferError("No service is known here. Start it with `batchinfer up`, or name its home.")
        return self.ctx

    @property
    def models_folder(self) -> Path:
        """Where weights lie on this host."""
        return self.settings.home / "models"


@dataclass(frozen=True)
class Check:
    """One question. `why` says what it costs when the answer is bad."""

    name: str
    group: str
    why: str
    look: Callable[[Look], Said]


@dataclass(frozen=True)
class Finding:
    """An answer. `took_ms`: how long looking took."""

    check: str
    group: str
    level: Level
    message: str
    why: str
    remedy: str
    took_ms: float


def examine(checks: Iterable[Check], look: Look) -> Iterator[Finding]:
    """Ask each check. What breaks while looking is told by the system's word for it, else by its class alone: texts of
    libraries may hold secrets."""
    look = replace(look, known={})
    for check in checks:
        began = time.monotonic()
        try:
            said = check.look(look)
        except BatchinferError as error:
            said = fail(error.message, "")
        except Exception as error:  # trees of others, libraries and servers may raise anything
            said = skip(_tell_broken(error))
        took_ms = (time.monotonic() - began) * 1000
        message = "".join(
            char if char.isprintable() else " " for char in said.message
        )  # names from files are anybody's
        yield Finding(check.name, check.group, said.level, message, check.why, said.remedy, round(took_ms, 1))


def _tell_broken(error: Exception) -> str:
    if isinstance(error, NotKnown):
        return f"Not known: {error}"
    cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    return f"Not known: it could not be looked at ({cause})."


def find_worst(findings: Iterable[Finding]) -> Level:
    """The worst level among them."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def pick_worst(findings: Iterable[Finding]) -> Finding | None:
    """The first of the worst findings; None where nothing is to be done."""
    order = list(Level)
    worst = max(findings, key=lambda finding: order.index(finding.level), default=None)
    return worst if worst is not None and worst.level in {Level.WARNING, Level.ERROR} else None


def host_name() -> str:
    """Of which machine the findings are."""
    return platform.node()
