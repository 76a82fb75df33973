"""How many requests a key may send in a minute."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchinfer.errors import Busy

if TYPE_CHECKING:
    from batchinfer.bus.rates import Taken
    from batchinfer.services.context import Caller, Context


def count_request(ctx: Context, caller: Caller) -> Taken | None:
    """Count one request of this key against its rate; None where it has none."""
    limit = caller.requests_per_minute or ctx.settings.key_requests_per_minute
    return ctx.rates.take(caller.key_id.hex, limit) if limit else None


def refuse_rate(taken: Taken) -> Busy:
    """The error for a request over the rate."""
    wait_s = max(1, math.ceil(taken.wait_s))
    return Busy(
        f"This key may send {taken.limit:,} requests a minute and has. Send the same request again in {wait_s} s.",
        code="rate_limit_exceeded",
        retry_after_s=wait_s,
    )
