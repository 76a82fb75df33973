"""What a test breaks on purpose: one entry for each warning and error that a check can give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.doctor.findings import Look

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    import pytest

    from batchinfer.services.context import Context


@dataclass(frozen=True)
class Stage:
    """The parts that a test may break. Servers are started for those alone that ask for them."""

    request: pytest.FixtureRequest
    patch: pytest.MonkeyPatch
    #: Closed when the test ends, before the servers that it used.
    after: ExitStack

    def plant(self, files: dict[str, str], **options: Any) -> Look:
        """A host that shows these files of /proc and /sys and no others."""
        look: Look = self.request.getfixturevalue("tree")(files, **options)
        return look

    @property
    def context(self) -> Context:
        """A service on a real Postgres and a real Valkey."""
        context: Context = self.request.getfixturevalue("context")
        return context

    @property
    def service(self) -> Look:
        """A look at that service."""
        return Look.of_host(self.context.settings, self.context)

    def make_home(self, look: Look) -> Path:
        """The folders of a home, for their owner alone."""
        home = look.settings.home
        for folder in (home, home / "blobs", home / "models", home / "logs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return home


@dataclass(frozen=True)
class Broken:
    """One way in which something is broken. `says` is in one warning or error of the check and in no other."""

    check: str
    says: str
    break_it: Callable[[Stage], Look]


def shows(check: str, says: str, files: dict[str, str], **options: Any) -> Broken:
    """Broken by what /proc and /sys show."""
    return Broken(check, says, lambda stage: stage.plant(files, **options))
