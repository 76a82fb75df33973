"""Whether this worker may claim: not while memory is short on this host. What runs goes on; nothing is given back."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.domain.pressure import Admission, PressureLimits, Watch
from batchinfer.observe.logs import get_logger
from batchinfer.observe.strain import read_strain

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.settings import Settings

#: Longest age of a look. The kernel counts its shares anew every two seconds.
LOOK_S = 1.0

_log = get_logger(__name__)


class Gate:
    """Asked by the feeder before each claim, from any thread. `root` stands in for the machine's files."""

    def __init__(self, settings: Settings, *, root: Path = Path("/"), look_s: float = LOOK_S) -> None:
        self._watch = Watch(PressureLimits(settings.pressure_some, settings.pressure_full, settings.swap_in_mib_s))
        self._root, self._look_s = root, look_s
        self._lock = threading.Lock()
        self._looked_at = 0.0
        self._cause = ""
        self.pauses = 0
        #: Called when claiming was paused or goes on.
        self.on_turn: Callable[[], None] = lambda: None

    @property
    def cause(self) -> str | None:
        """Why nothing is claimed; None while it is."""
        return self._cause or None

    def is_open(self) -> bool:
        """Whether to claim. Looks at most once in `look_s` seconds."""
        with self._lock:
            now_s = time.monotonic()
            if self._looked_at and now_s - self._looked_at < self._look_s:
                return not self._cause
            self._looked_at, before = now_s, self._cause
            strain = read_strain(self._root)
            verdict = self._watch.judge(strain, now_s)
            self._cause = verdict.cause
        if self._cause != before:
            self._tell(verdict.admission, some=strain.some, full=strain.full)
        return not self._cause

    def _tell(self, admission: Admission, *, some: float | None, full: float | None) -> None:
        if admission is Admission.PAUSED:
            self.pauses += 1
            _log.warning("nothing more is claimed: memory is short", cause=self._cause, some=some, full=full)
        else:
            _log.info("claiming goes on: memory is there again", some=some, full=full)
        self.on_turn()
