"""Which pages of a document are wanted: `1-3,7,12-`, counted from 1."""

from __future__ import annotations

import re

from batchinfer.domain.fields import read_text, refuse

_PART = re.compile(r"([1-9][0-9]{0,6})(-([1-9][0-9]{0,6})?)?")
_MAX_CHARS = 200


def check_pages(value: object, at: str) -> str:
    """A range without spaces, as it was said. Raises BadRequest."""
    text = "".join(read_text(value, at, max_chars=_MAX_CHARS).split())
    for part in text.split(","):
        found = _PART.fullmatch(part)
        if found is None or (found[3] and int(found[3]) < int(found[1])):
            refuse(at, "must name pages from 1 such as 1-3,7,12- (the last: to the end).")
    return text


def choose_pages(pages: str | None, total: int) -> list[int]:
    """The wanted ones of a document's pages, in order, each once. None: all."""
    if pages is None:
        return list(range(1, total + 1))
    wanted: set[int] = set()
    for part in pages.split(","):
        first, dash, last = part.partition("-")
        end = int(last) if last else total if dash else int(first)
        wanted.update(range(int(first), min(end, total) + 1))
    return sorted(wanted)
