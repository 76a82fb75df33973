"""How many requests may be at a server at once: pure code, tested with numbers.

A server batches what it has. Too few at once leave its batch half empty; more than it can run wait in a queue of its
own, where we can no longer choose who goes first. A fixed window is what the operator says. An adaptive one grows while
nothing waits there and falls when the server says that it has too many (additive increase, multiplicative decrease).
"""

from __future__ import annotations

from workers.engine.upstream import UpstreamError

#: Seconds that a server is left alone: the first time that it cannot be reached, the longest, and the most that a
#: server's own word (`Retry-After`) is followed.
FIRST_HOLD_S, LONGEST_HOLD_S, LONGEST_ASKED_S = 0.25, 10.0, 60.0
#: An adaptive window begins with so many, and lets an eighth of it wait at the server, so that a free place is filled.
FIRST_LIMIT = 4
WAITING_SHARE = 0.125


class Window:
    """Times are on `time.monotonic()`. At most `most` requests at once."""

    def __init__(self, most: int, *, adaptive: bool = False) -> None:
        if most < 1:
            raise ValueError("concurrency must be at least 1.")
        self.most = most
        self._adaptive = adaptive
        self._limit = float(min(FIRST_LIMIT, most) if adaptive else most)
        self._hold_until = 0.0
        self._failures = 0
        #: Since when the server could not be reached, None where it could; and when that was last found.
        self.gone_since: float | None = None
        self._gone_at = 0.0

    @property
    def limit(self) -> int:
        """How many may be at the server now. One while it is tried again."""
        return 1 if self._failures else max(1, min(self.most, int(self._limit)))

    @property
    def gone_s(self) -> float:
        """From the first time that the server could not be reached to the last; 0 where it could since."""
        return 0.0 if self.gone_since is None else self._gone_at - self.gone_since

    def find_hold(self, now: float) -> float:
        """Seconds until something may be sent again; 0 where it may now."""
        return max(0.0, self._hold_until - now)

    def note_answer(self, *, full: bool) -> None:
        """The server answered. `full` says whether the window was."""
        self._failures, self._hold_until, self.gone_since = 0, 0.0, None
        if self._adaptive and full:
            self._limit = min(float(self.most), self._limit + 1 / max(1.0, self._limit))

    def note_sign(self) -> None:
        """The server works on something: it is there."""
        self.gone_since = None

    def note_busy(self, now: float, asked_s: float | None) -> None:
        """The server has too much to do, and asked to be left alone so long."""
        self.gone_since = None
        if self._adaptive:
            self._limit = max(1.0, self._limit / 2)
        wait_s = FIRST_HOLD_S if asked_s is None else min(max(asked_s, 0.0), LONGEST_ASKED_S)
        self._hold_until = max(self._hold_until, now + wait_s)

    def note_gone(self, now: float) -> None:
        """The server cannot be reached: it is asked again after a wait that doubles, by one request."""
        if self._hold_until > now:  # what was sent beside the first that failed says nothing new
            return
        self.gone_since = now if self.gone_since is None else self.gone_since
        self._gone_at = now
        self._hold_until = now + min(LONGEST_HOLD_S, FIRST_HOLD_S * 2 ** min(self._failures, 16))
        self._failures += 1

    def note_failure(self, error: UpstreamError, now: float) -> None:
        """A request got no answer: what that says of the server."""
        if error.gone:
            self.note_gone(now)
        elif error.busy:
            self.note_busy(now, error.failure.retry_after_s)
        elif error.failure.code not in ("upstream_dropped", "upstream_silent"):  # it answered, though not well
            self.note_answer(full=False)

    def note_waiting(self, waiting: int, at_server: int) -> None:
        """How many wait in the server's queue (of whomever), and how many of ours are there."""
        if not self._adaptive:
            return
        wanted = max(1, int(self._limit * WAITING_SHARE))
        if waiting > wanted:
            self._limit = max(1.0, self._limit - max(1.0, (waiting - wanted) / 2))
        elif waiting < wanted and at_server >= self.limit:
            self._limit = min(float(self.most), self._limit + max(1.0, self._limit * WAITING_SHARE))
