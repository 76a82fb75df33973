"""Very many documents: listed with flat memory, the first of them at work long before the last is listed."""

from __future__ import annotations

import os
import resource
import time
from typing import TYPE_CHECKING

import pytest

from batchinfer.domain.sources import Entry
from batchinfer.services import listing
from batchinfer.services.work import RENDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sources.conftest import Night

MIB = 1024


def make_entries(number: int) -> Iterator[Entry]:
    """As a bucket would list them."""
    for i in range(number):
        name = f"{i // 1000:05}/{i % 1000:03}.pdf"
        yield Entry(f"s3://scans/in/{name}", name, 100_000 + i, f"{i:032x}", None, name)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_very_many_documents_are_listed_with_flat_memory(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    number = int(os.environ.get("LISTED_DOCUMENTS", "100000"))
    monkeypatch.setattr(listing, "iterate_entries", lambda *_: make_entries(number))
    run_id = night.declare()
    save, begun, peaks, first = listing.save_group, time.monotonic(), [], []

    def save_and_look(*args: object) -> bool:
        kept = save(*args)  # type: ignore[arg-type]
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if len(peaks) == 3:
            first.extend(night.claim(RENDER, limit=1))
        return kept

    monkeypatch.setattr(listing, "save_group", save_and_look)
    cpu = time.process_time()
    assert night.list()
    took, cpu = time.monotonic() - begun, time.process_time() - cpu
    print(f"{number:,} listed in {took:.0f} s, {cpu / number * 1e6:.0f} us of CPU each; peak {peaks[-1] / MIB:.0f} MiB")
    assert first, "nothing was at work after three groups"
    assert night.get(run_id).counts.documents == number
    assert peaks[-1] - peaks[10] < 64 * MIB
