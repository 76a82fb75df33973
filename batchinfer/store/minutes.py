"""Counters a minute, tenant and model, raised in the transaction that they count. Pages read these, not the jobs."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.domain.histograms import BUCKETS, find_bucket
from batchinfer.store.backlog import count_jobs
from batchinfer.store.batches import count_lines
from batchinfer.store.buckets import COLUMNS, add_excluded
from batchinfer.store.run_counts import count_pages, note_recent
from batchinfer.store.series_tables import COUNTERS, HISTOGRAMS
from batchinfer.store.usage import NOBODY, add_usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from batchinfer.store.session import Transaction
    from batchinfer.store.usage import Whose

#: How a job ends.
ENDINGS = ("succeeded", "failed", "cancelled", "expired", "quarantined")

# A row stays locked until its transaction is on the disk. So sessions count in rows of their own, as far as there are
# shards; rows are taken in one order by everybody, and last in each transaction: nobody waits in a circle.
_SHARDS = 16
_ADD = text(
    f"""
    INSERT INTO minutes (tenant_id, model, minute, shard, {COLUMNS})
    SELECT tenant_id, model, date_trunc('minute', now()), pg_backend_pid() % {_SHARDS}, {", ".join(COUNTERS)},
        {", ".join(f"CAST({name} AS int[])" for name in HISTOGRAMS)}
    FROM unnest(CAST(:tenant_id AS uuid[]), CAST(:model AS text[]),
        {", ".join(f"CAST(:{name} AS bigint[])" for name in COUNTERS)},
        {", ".join(f"CAST(:{name} AS text[])" for name in HISTOGRAMS)})
        AS added (tenant_id, model, {COLUMNS})
    ORDER BY tenant_id, model
    ON CONFLICT (tenant_id, model, minute, shard)
    DO UPDATE SET {add_excluded("minutes")}
    """  # noqa: S608 - made of constants
)


class Tally:
    """Counts by tenant and model, gathered during a transaction and added at its end."""

    def __init__(self) -> None:
        self._counts: dict[tuple[UUID, str], Counter[str]] = {}
        self._lines: dict[UUID, Counter[str]] = {}
        self._pages: dict[UUID, Counter[str]] = {}
        #: Runs that have to stop: too many of their last pages failed. Filled by `add`.
        self.stopped: list[UUID] = []
        self._usage: dict[Whose, Counter[str]] = {}
        self._times: dict[tuple[UUID, str], tuple[list[int], list[int]]] = {}

    def count(self, tenant_id: UUID, model: str, **numbers: int) -> None:
        """Raise counters of COUNTERS by the numbers given."""
        self._counts.setdefault((tenant_id, model), Counter()).update(numbers)

    def count_times(self, tenant_id: UUID, model: str, waited_s: float, ran_s: float) -> None:
        """A try of a model that ended: for how long its job had waited, and for how long it ran; beside `count`."""
        waits, runs = self._times.setdefault((tenant_id, model), ([0] * BUCKETS, [0] * BUCKETS))
        waits[find_bucket(waited_s)] += 1
        runs[find_bucket(ran_s)] += 1

    def count_line(self, batch_id: UUID | None, **numbers: int) -> None:
        """Raise counters of a batch (`batches.COUNTERS`) by what its line that ended brings; None: it is of none."""
        if batch_id is not None:
            self._lines.setdefault(batch_id, Counter()).update(numbers)

    def count_page(self, document_id: UUID | None, run_id: UUID | None, **numbers: int) -> None:
        """Raise counters of a run's document (`run_counts.COUNTERS`); with none, only look whether all of it ended.
        None: it is of no run."""
        if document_id is not None and run_id is not None:
            self._pages.setdefault(document_id, Counter()).update(numbers)

    def count_usage(
        self, tenant_id: UUID, model: str, key_id: UUID | None, schedule_id: UUID | None, **numbers: int
    ) -> None:
        """Raise counters of `usage.COUNTERS` by what a result used; beside `count` of the same tenant and model."""
        whose = (tenant_id, model, key_id or NOBODY, schedule_id or NOBODY)
        self._usage.setdefault(whose, Counter()).update(numbers)

    def add(self, tx: Transaction) -> None:
        """Write what was gathered; the last statements of its transaction. Documents first, then batches, then runs, as
        everybody does."""
        changed = count_pages(tx, self._pages)
        count_lines(tx, self._lines)
        self.stopped = note_recent(tx, changed)
        self._lines, self._pages = {}, {}
        if not self._counts:
            return
        keys = sorted(self._counts)
        columns = {name: [self._counts[key][name] for key in keys] for name in COUNTERS}
        none: tuple[list[int], list[int]] = ([], [])
        times = [self._times.get(key, none) for key in keys]
        histograms = {name: [_as_array(pair[place]) for pair in times] for place, name in enumerate(HISTOGRAMS)}
        tenants, models = [key[0] for key in keys], [key[1] for key in keys]
        tx.execute(_ADD, {"tenant_id": tenants, "model": models, **columns, **histograms})
        changes: Counter[UUID] = Counter()
        for tenant_id, model in keys:
            counts = self._counts[tenant_id, model]
            changes[tenant_id] += counts["submitted"] - sum(counts[name] for name in ENDINGS)
        count_jobs(tx, changes)
        add_usage(tx, self._usage)
        self._counts, self._usage, self._times = {}, {}, {}


def _as_array(counts: list[int]) -> str:
    """As Postgres writes an array: a list of lists would have to be of one length."""
    return "{" + ",".join(map(str, counts)) + "}"


@contextmanager
def counting(tx: Transaction, tally: Tally | None = None) -> Iterator[Tally]:
    """The given tally, which its owner adds at the end of his transaction; without one, a new one, added here."""
    if tally is not None:
        yield tally
        return
    own = Tally()
    yield own
    own.add(tx)
