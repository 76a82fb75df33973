"""What the doctor found last, for pages that cannot wait for it: looked at now and then on a thread of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from batchinfer.doctor.everything import examine_all
from batchinfer.doctor.findings import pick_worst

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchinfer.doctor.findings import Finding, Look

#: A service that begins has no workers yet: the first look waits for them.
FIRST_S = 60.0
EVERY_S = 120.0

log = structlog.get_logger(__name__)


class Latest:
    """One a process; any thread may ask."""

    def __init__(self, make_look: Callable[[], Look]) -> None:
        self._make_look = make_look
        self._worst: Finding | None = None

    def find_worst(self) -> Finding | None:
        """The worst of the last findings; None where nothing is to be done, or nobody has looked yet."""
        return self._worst

    def note(self, findings: Iterable[Finding]) -> None:
        """Somebody has looked: that is newer than what is known."""
        self._worst = pick_worst(findings)

    def start(self) -> None:
        """Look from now on, until the process ends."""
        threading.Thread(target=self._run, name="doctor", daemon=True).start()

    def look(self) -> None:
        """Look once. What breaks is logged, and what was known stays."""
        try:
            self.note(examine_all(self._make_look()))
        except Exception:
            log.exception("the doctor could not look")

    def _run(self) -> None:
        pause_s = FIRST_S
        while True:
            threading.Event().wait(pause_s)
            self.look()
            pause_s = EVERY_S
