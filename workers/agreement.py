"""The golden prompts of a replica's deployment, asked while it starts: of the vLLM that `engine: auto` would take, and
of whatever stands by for a swap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.replicas import Wanted
from batchinfer.errors import BatchinferError
from batchinfer.observe.logs import get_logger
from batchinfer.services import replicas
from workers.engine.choice import Agreement
from workers.golden import ask_goldens
from workers.insist import Stopped, insist

if TYPE_CHECKING:
    import threading
    from uuid import UUID

    from batchinfer.services.context import Context
    from workers.engine.phases import Phases
    from workers.engine.protocol import Engine
    from workers.golden import GoldenReport

_log = get_logger(__name__)

Stored = list[dict[str, Any]]


class GoldenAgreement:
    """Asks each engine the same prompts once. Its call is what `open_auto` wants; it never says that an engine agrees
    that could not be asked."""

    def __init__(self, ctx: Context, replica_id: UUID, quit_: threading.Event, phases: Phases) -> None:
        self._ctx, self._replica_id, self._quit, self._phases = ctx, replica_id, quit_, phases
        self._asked: tuple[Engine, Stored, GoldenReport] | None = None

    def __call__(self, engine: Engine) -> Agreement:
        """How many of the deployment's prompts an engine answers rightly, of 0 where there are none. Raises Stopped."""
        with self._phases.timed("verify"):
            stored = self._find_stored()
            if not stored:
                return Agreement(0, 0)
            try:
                report = self._ask(engine, stored)
            except BatchinferError as error:
                _log.warning("the golden prompts could not be asked", code=error.code)
                return Agreement(0, len(stored), f"They could not be asked ({error.code}).")
        if self._quit.is_set():
            raise Stopped("the golden prompts")
        return Agreement(report.right, len(report.results), report.describe_fault())

    def check(self, engine: Engine, swap: dict[str, Any] | None) -> GoldenReport | None:
        """Go on only if an engine answers the prompts of a swap rightly; None where it has none.

        Raises Failure (codes golden_failed, prompt_unreadable, blob_missing), BadImage, Unavailable.
        """
        stored = (swap or {}).get("golden") or []
        if not stored:
            return None
        report = self._ask(engine, stored)
        if (error := report.find_error()) is not None:
            raise error
        return report

    def _find_stored(self) -> Stored:
        """Those of the swap that the replica is loaded for, else those that the deployment goes on with."""
        orders = insist(
            lambda: replicas.read_orders(self._ctx, self._replica_id), self._quit, what="the golden prompts"
        )
        if orders is None:
            return []
        swap = orders.swap if orders.wanted == Wanted.STAND_BY else None
        return (swap or {}).get("golden") or orders.golden or []

    def _ask(self, engine: Engine, stored: Stored) -> GoldenReport:
        if self._asked is not None and self._asked[0] is engine and self._asked[1] == stored:
            return self._asked[2]
        report = ask_goldens(self._ctx, engine, stored, wanted=lambda: not self._quit.is_set())
        self._asked = (engine, stored, report)
        return report
