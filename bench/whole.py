"""The record of a whole run: when, of which code, which benches ran and how they ended; beside their results."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from batchinfer import __version__
from bench.everything import ROOT

#: Below bench/results.
NAME = "whole.json"


@dataclass
class Whole:
    """One `make bench` without PARTS. `ended` is empty while it runs, and stays so where it was cut off.

    `benches` has a row for each: name, command, exit code, seconds. `skipped` has the reasons by name.
    """

    began: str
    version: str
    commit: str
    ended: str = ""
    benches: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, skipped: Mapping[str, str]) -> Whole:
        """Now, of the code as it lies here."""
        return cls(_now(), __version__, find_commit(), skipped=dict(skipped))

    def add(self, name: str, command: str, code: int, seconds: float) -> None:
        """A bench that ended."""
        self.benches.append({"name": name, "command": command, "code": code, "seconds": round(seconds)})

    def end(self) -> None:
        """All have."""
        self.ended = _now()

    def write(self, folder: Path) -> None:
        """Into the folder of results."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def holds(self, date: str) -> bool:
        """Whether something of this date, ISO 8601 in UTC, was taken in this run."""
        return self.began <= date <= (self.ended or _now())


def read_whole(folder: Path) -> Whole | None:
    """The last one whose results lie here."""
    path = folder / NAME
    return Whole(**json.loads(path.read_text())) if path.exists() else None


def find_commit() -> str:
    """The commit of the code, marked where something is not committed; empty where there is no history."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
