"""Very many documents in a folder: how soon the first is read, and whether memory stays flat while they are listed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from batchinfer.services import runs
from bench.documents.corpus import write_corpus
from bench.documents.nights import allow_folders, declare, start_opener
from bench.queue.stand import Stand, Worker

_FOLDER = 1000


def measure_listing(stand: Stand, *, entries: int) -> dict[str, Any]:
    """A folder of `entries` names for one page each; the run is cancelled once all are listed."""
    stand = allow_folders(stand)
    folder = _link(stand.folder / "many", entries)
    opener = start_opener(stand, processes=1)
    stand.start_worker(slots=8, steps_per_s=20.0)
    before, most = _rss_mib(opener), 0.0
    began = time.perf_counter()
    run_id = declare(stand, folder)
    first_s = listed_s = None
    while listed_s is None or first_s is None:
        time.sleep(0.2)
        most = max(most, _rss_mib(opener))
        if first_s is None and stand.run("SELECT count(*) FROM results"):
            first_s = time.perf_counter() - began
        if listed_s is None and runs.get_run(stand.ctx, stand.caller, run_id).listed_at is not None:
            listed_s = time.perf_counter() - began
        if time.perf_counter() - began > 7200:
            raise TimeoutError("the listing did not end")
    listed = runs.get_run(stand.ctx, stand.caller, run_id).counts.documents
    runs.cancel_run(stand.ctx, stand.caller, run_id)
    return {
        "entries": entries,
        "listed": listed,
        "first_answer_s": round(first_s, 2) if first_s is not None else None,
        "listed_s": round(listed_s, 1),
        "entries_per_s": round(entries / listed_s),
        "rss_before_mib": round(before),
        "rss_most_mib": round(most),
        "queue_rows_most": int(stand.run("SELECT count(*) FROM queue") or 0),
    }


def _link(folder: Path, entries: int) -> Path:
    """`entries` names of one page: a name more costs no bytes, and a file has at most some ten thousand of them."""
    page = next(iter(sorted(write_corpus(folder.parent / "one", 2).folder.rglob("*.png"))))
    for number in range(entries):
        place = folder / f"{number // _FOLDER:05d}"
        if number % _FOLDER == 0:
            place.mkdir(parents=True)
            source = place / "000.png"
            source.write_bytes(page.read_bytes())
            continue
        os.link(source, place / f"{number % _FOLDER:03d}.png")
    return folder


def _rss_mib(worker: Worker) -> float:
    status = Path(f"/proc/{worker.popen.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
