"""How much is run at each size."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scale:
    """Runs of each contestant; requests of a workload (`shared`: of the one with long prompts), of open arrivals, of
    the long run; and, per slot, of a backlog.

    `singles` is how many requests `generate` answers one by one; None is all of them. `plain` says whether our static
    engine takes part too.
    """

    repeats: int
    requests: int
    shared: int
    arrivals: int
    backlog: int
    memory: int
    singles: int | None = None
    plain: bool = True

    def changed(self, repeats: int | None, requests: int | None) -> Scale:
        """With other numbers where they are given. Raises ValueError below 1."""
        if min(repeats or 1, requests or 1) < 1 or 0 in (repeats, requests):
            raise ValueError("repeats and requests must be at least 1.")
        count = requests or self.requests
        shared = self.shared if requests is None else requests
        return replace(self, repeats=repeats or self.repeats, requests=count, shared=shared)


SCALES = {
    "tiny": Scale(repeats=5, requests=96, shared=96, arrivals=384, backlog=10, memory=1000),
    "large": Scale(repeats=3, requests=32, shared=12, arrivals=32, backlog=4, memory=64, singles=4, plain=False),
}
