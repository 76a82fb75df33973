"""Names of files made of names that came from elsewhere: never outside their folder, never twice the same."""

from __future__ import annotations

import hashlib
import re
import unicodedata

#: Of one part of a path, in bytes of UTF-8: what file systems take is 255, and a suffix comes behind it.
_MOST_PART_BYTES = 180
_MOST_BYTES, _MOST_PARTS = 800, 24
_BAD = re.compile(r'[\\:*?"<>|~]')


def make_relative(name: str, *, twin: int | None = None) -> str:
    """A path below a folder, as like `name` as can be, without an ending.

    A name that had to be changed gets a digest of itself behind it, so that two never become one; `twin` sets apart
    documents whose names are wholly the same.
    """
    parts = [_clean(part) for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    safe = "/".join(parts) or "document"
    if len(parts) > _MOST_PARTS or len(safe.encode()) > _MOST_BYTES:
        safe = parts[-1]
    if safe != name:
        safe += f"~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
    return safe if twin is None else f"{safe}~{twin}"


def _clean(part: str) -> str:
    """One part of a path: printable, not hidden, not too long."""
    text = "".join(char if char.isprintable() and not _is_odd(char) else "_" for char in part)
    text = _BAD.sub("_", text).strip(" ")
    if text.startswith("."):
        text = "_" + text[1:]
    cut = text.encode()[:_MOST_PART_BYTES].decode("utf-8", "ignore")
    return cut.rstrip(" .") or "_"


def _is_odd(char: str) -> bool:
    """Formats that turn the writing round, private and lone halves of characters."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn"}
