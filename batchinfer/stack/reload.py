"""`up --reload`: notice changed code, by looking at modification times; no watcher to install."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("batchinfer", "workers")


class CodeWatch:
    """Remembers when each module of ours was changed."""

    def __init__(self) -> None:
        self._folders = [
            Path(place)
            for name in PACKAGES
            if (spec := find_spec(name)) is not None
            for place in spec.submodule_search_locations or []
        ]
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether any module was added, changed or removed since the last time this was asked."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> dict[Path, int]:
        found = {}
        for folder in self._folders:
            for path in folder.rglob("*.py"):
                try:
                    found[path] = path.stat().st_mtime_ns
                except FileNotFoundError:  # an editor that replaces files
                    continue
        return found
