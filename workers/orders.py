"""What the row of an assigned replica says, read each second: serve, stand by, or drain."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from batchinfer.domain.replicas import Wanted
from batchinfer.errors import Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.services import replicas
from workers.insist import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.services.replicas import Assignment

#: Between two looks.
LOOK_S = 1.0

_log = get_logger(__name__)


class OrderWatch(threading.Thread):
    """Calls `on_orders` with what the row says, and `on_end` once when it says that the process is to end.

    A row that has ended while the process works ended with its lease: there is some time for a new one.
    """

    def __init__(
        self,
        ctx: Context,
        replica_id: UUID,
        *,
        on_orders: Callable[[Assignment], None],
        on_end: Callable[[str], None],
        has_lease: Callable[[], bool],
    ) -> None:
        super().__init__(name="orders", daemon=True)
        self.replica_id = replica_id
        self._ctx, self._on_orders, self._on_end, self._has_lease = ctx, on_orders, on_end, has_lease
        self._serves = threading.Event()
        self._quit = threading.Event()
        self._ended_since: float | None = None

    def stop(self) -> None:
        """Look no more."""
        self._quit.set()

    def wait_for_serve(self, quit_: threading.Event) -> None:
        """Stand by until the row says serve. Raises Stopped when the process is to end."""
        while not self._serves.wait(0.1):
            if quit_.is_set():
                raise Stopped("to serve")

    def run(self) -> None:
        while not self._quit.is_set():
            try:
                if self._look():
                    return
            except Unavailable:
                pass  # what was wanted holds
            except Exception:
                _log.exception("the orders could not be read")
            self._quit.wait(LOOK_S)

    def _look(self) -> bool:
        """One look. True where the process is to end."""
        replica_id = self.replica_id
        orders = replicas.read_orders(self._ctx, replica_id)
        if replica_id != self.replica_id:
            return False  # it goes on as another meanwhile
        reason = self._find_end(orders)
        if reason is not None:
            _log.info("the replica is to end", reason=reason)
            self._on_end(reason)
            return True
        if orders is not None and not orders.ended:
            if orders.wanted == Wanted.SERVE:
                self._serves.set()
            self._on_orders(orders)
        return False

    def _find_end(self, orders: Assignment | None) -> str | None:
        if orders is not None and not orders.ended:
            self._ended_since = None
            return "it is to drain" if orders.wanted == Wanted.DRAIN else None
        now = time.monotonic()
        self._ended_since = self._ended_since or now
        patience_s = self._ctx.settings.lease_ttl_s if self._has_lease() else 0.0
        return "its row has ended" if now - self._ended_since >= patience_s else None
