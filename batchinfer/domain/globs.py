"""Which files of a folder or bucket are meant: globs over their paths, as rsync and git read them.

A glob without a slash is held against the name alone, wherever the file lies; one with a slash against the whole path
below the source, so that `/*.pdf` is of the source's own folder. `*` and `?` stay within a part of the path, `**` is
any number of parts. No glob, whatever it is, takes longer than its length times the path's: each part is matched with
atomic groups.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from batchinfer.domain.fields import join, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

#: One part of a path, or None for `**`.
_Part: TypeAlias = "re.Pattern[str] | None"
_MOST_PARTS = 64


@dataclass(frozen=True)
class Globs:
    """What is wanted of a source: files that some `include` takes (all, where there is none) and no `exclude`."""

    include: tuple[tuple[_Part, ...], ...]
    exclude: tuple[tuple[_Part, ...], ...]

    def take(self, path: str) -> bool:
        """Whether the file at a path below the source, with `/` between its parts, is wanted."""
        parts = path.split("/")
        if any(_matches(glob, parts) for glob in self.exclude):
            return False
        if self.include:
            return any(_matches(glob, parts) for glob in self.include)
        return not any(part.startswith(".") for part in parts)


def compile_globs(include: Sequence[str], exclude: Sequence[str], at: str = "source") -> Globs:
    """Globs ready to be held against paths. Raises BadRequest for one that can match nothing."""
    return Globs(
        tuple(_compile(glob, join(join(at, "include"), i)) for i, glob in enumerate(include)),
        tuple(_compile(glob, join(join(at, "exclude"), i)) for i, glob in enumerate(exclude)),
    )


def _compile(glob: str, at: str) -> tuple[_Part, ...]:
    names = glob.removeprefix("/").split("/")
    if len(names) > _MOST_PARTS:
        refuse(at, f"has {len(names)} parts; the limit is {_MOST_PARTS}.")
    if any(name in ("", ".", "..") for name in names):
        refuse(at, "has a part that is empty, `.` or `..`, which no path has. Write folder/**/*.pdf.")
    if "/" not in glob and glob != "**":
        names = ["**", *names]
    return tuple(None if name == "**" else re.compile(fnmatch.translate(name)) for name in names)


def _matches(glob: tuple[_Part, ...], parts: Sequence[str]) -> bool:
    """All the ways at once: the set of places in the glob where the path so far may have come to."""
    places = _skip(glob, {0})
    for part in parts:
        places = _skip(glob, _step(glob, places, part))
        if not places:
            return False
    return len(glob) in places


def _step(glob: tuple[_Part, ...], places: set[int], part: str) -> set[int]:
    after = set()
    for place in places:
        if place == len(glob):
            continue
        wanted = glob[place]
        if wanted is None:
            after.add(place)
        elif wanted.match(part):
            after.add(place + 1)
    return after


def _skip(glob: tuple[_Part, ...], places: set[int]) -> set[int]:
    """The same with what `**` may stand for: nothing."""
    reached = set(places)
    for place in range(len(glob)):
        if place in reached and glob[place] is None:
            reached.add(place + 1)
    return reached
