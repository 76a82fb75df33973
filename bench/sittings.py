"""Results that are taken in several sittings: read again, checked to be of the same code and model, and added to."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The code whose figures these are; those of other code do not share a page.
_MEASURED = Path(__file__).resolve().parents[1] / "workers" / "engine"
#: What must be the same in every sitting.
_SAME = ("size", "code", "model", "cores_used")


class DifferentResultsError(Exception):
    """The file holds figures of other code, another model or another machine."""


def digest_code(folder: Path = _MEASURED) -> str:
    """Twelve hexadecimal digits that change with any Python file of the engine."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("**/*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def open_results(path: Path, fresh: dict[str, Any], *, add: bool) -> dict[str, Any]:
    """`fresh`, or what `path` holds where `add` is set and the file is there.

    Raises DifferentResultsError where the two cannot be compared.
    """
    fresh = {**fresh, "code": digest_code(), "sittings": []}
    if not add or not path.is_file():
        return fresh
    held: dict[str, Any] = json.loads(path.read_text())
    differing = [name for name in _SAME if _find(held, name) != _find(fresh, name)]
    differing += [name for name in ("cpu", "torch", "transformers") if held["machine"][name] != fresh["machine"][name]]
    if differing:
        raise DifferentResultsError(f"{path} holds figures of another {', '.join(differing)}; run without --add.")
    return held


def _find(results: Mapping[str, Any], name: str) -> Any:
    return results["machine"].get(name) if name == "cores_used" else results[name]


@dataclass(frozen=True)
class Sitting:
    """When a part began, and how busy the machine was then."""

    date: str
    load_average: float
    began: float

    @classmethod
    def begin(cls) -> Sitting:
        """Now."""
        date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        return cls(date, round(os.getloadavg()[0], 2), time.perf_counter())

    def end(self, part: str) -> dict[str, Any]:
        """What results keep of it: the part's name, date, load average of the minute before, and seconds it took."""
        seconds = round(time.perf_counter() - self.began, 1)
        return {"part": part, "date": self.date, "load_average": self.load_average, "seconds": seconds}


def join_runs(earlier: Mapping[str, list[float]], later: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Each contestant's tokens per second, those of earlier sittings first."""
    return {who: [*earlier.get(who, []), *values] for who, values in later.items()}


def join_answers(earlier: Mapping[str, Any], later: Mapping[str, Any], most: int = 8) -> dict[str, dict[str, Any]]:
    """Answers compared and equal ones of all sittings, and up to `most` differences of each contestant."""
    found: dict[str, dict[str, Any]] = {name: dict(entry) for name, entry in earlier.items()}
    for name, entry in later.items():
        held = found.setdefault(name, {"of": 0, "equal": 0, "differences": {}})
        places = [*held["differences"].items(), *entry["differences"].items()][:most]
        found[name] = {
            "of": held["of"] + entry["of"],
            "equal": held["equal"] + entry["equal"],
            "differences": dict(places),
        }
    return found
