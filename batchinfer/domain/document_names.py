"""What a document of a source is called: its path below the source, made safe to be shown and to be part of a path.

The uri says exactly what it is and is never changed; the name is for people, for prompts, and for the trees that sinks
write. A name of ours never begins with a slash, has no part `.` or `..`, nothing unprintable, no backslash, and no part
over 200 bytes. One that had to be changed ends in some digits of its uri, so that two never become one.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_PART_BYTES, _MOST_BYTES = 200, 1000
_STAND_IN = "_"
_ENDS = re.compile(r"^\s+|\s+$")
_UNSAFE = frozenset('\\:*?"<>|')


def make_name(path: str, uri: str) -> str:
    """The safe name of the document at a path below its source."""
    parts = [_clean(part) for part in path.split("/")]
    kept = [part for part in parts if part not in ("", ".", "..")]
    name = "/".join(kept)
    while len(kept) > 1 and len(name.encode()) > _MOST_BYTES:
        kept = kept[1:]
        name = "/".join(kept)
    if name and name == path:
        return name
    return mark_name(name or "document", hashlib.sha256(uri.encode()).hexdigest()[:8])


def mark_name(name: str, mark: str) -> str:
    """A name with a mark before its ending: `in/a.pdf` and 2 make `in/a~2.pdf`."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}~{mark}{path.suffix}"))


def tell_apart(names: Iterable[str]) -> list[str]:
    """The names in their order, where one comes again with a number."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    apart = []
    for name in names:
        own = name
        while own in taken:
            counts[name] = counts.get(name, 1) + 1
            own = mark_name(name, str(counts[name]))
        taken.add(own)
        apart.append(own)
    return apart


def _clean(part: str) -> str:
    text = "".join(char if char.isprintable() and char not in _UNSAFE else _STAND_IN for char in part)
    # At its ends a blank is as good as invisible.
    text = _ENDS.sub(lambda found: _STAND_IN * len(found[0]), text)
    if len(text.encode()) <= _MOST_PART_BYTES:
        return text
    stem, dot, ending = text.rpartition(".")
    ending = dot + ending if dot and stem and len(ending.encode()) <= 16 else ""
    room = _MOST_PART_BYTES - len(ending.encode()) - 16
    return text.encode()[:room].decode(errors="ignore") + ending
