"""A night from a folder to its report with fake engines at the speed of cards, and the same night once more."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from batchinfer.domain.runs import TERMINAL, Run, RunState
from batchinfer.services import runs
from bench.api.web import find_servers, read_cpu_s
from bench.documents.corpus import Corpus, write_corpus
from bench.queue.stand import MODEL, PATIENCE_S, Stand, Worker

#: Each engine reads so many pages at a time, a page in so many steps.
SLOTS, STEPS = 16, 16
ENGINES = 2
#: A page every so many tokens is what `[[steps:N]]` asks of the fake engine.
_PROMPT = f"[[steps:{STEPS}]] Transcribe page {{{{ page }}}} of {{{{ filename }}}}."
_RATE = """
    SELECT 0.9 * count(*) / extract(epoch FROM percentile_disc(0.95) WITHIN GROUP (ORDER BY r.created_at)
                                             - percentile_disc(0.05) WITHIN GROUP (ORDER BY r.created_at))
    FROM results r JOIN jobs j ON j.id = r.job_id WHERE j.batch_id = :id"""


def measure_night(stand: Stand, *, documents: int, pages_per_s: float) -> dict[str, Any]:
    """Listed, rendered, read and written; then the same folder again, of which nothing has changed.

    `pages_per_s` is what both engines reach together: more than the host's cores can render would measure those.
    """
    stand = allow_folders(stand)
    corpus = write_corpus(stand.folder / "pages", documents)
    opener = start_opener(stand, processes=2)
    engines = [
        stand.start_worker(slots=SLOTS, steps_per_s=pages_per_s / ENGINES * STEPS / SLOTS, name=f"engine-{number}")
        for number in range(ENGINES)
    ]
    roots = {
        "CPU worker": [opener.popen.pid], "model workers": [one.popen.pid for one in engines],
        "servers": find_servers(stand),
    }  # fmt: skip
    first = _read_night(stand, corpus, roots, pages_per_s)
    again = _read_again(stand, corpus, roots, opener)
    return {"documents": documents, "pages": corpus.pages, "mib": round(corpus.size_bytes / 2**20), **first, **again}


def allow_folders(stand: Stand) -> Stand:
    settings = stand.settings.model_copy(
        update={"source_folders": str(stand.folder), "sink_folders": str(stand.folder)}
    )
    return replace(stand, settings=settings, ctx=replace(stand.ctx, settings=settings))


def start_opener(stand: Stand, *, processes: int) -> Worker:
    """A CPU worker. Returns once it claims."""
    worker = stand.start_celery(
        ["workers.cpu", "worker", "-n", "cpu@bench", "-P", "threads", "-c", "1", "--without-gossip",
         "--without-mingle", "--processes", str(processes), "-l", "WARNING"], stand.settings,
    )  # fmt: skip
    stand.wait(lambda: stand.run("SELECT count(*) FROM leases WHERE role = 'cpu' AND NOT dead"), "a CPU worker")
    return worker


def declare(stand: Stand, folder: Path, **changes: Any) -> UUID:
    """A run over a folder. Answers its id."""
    (stand.folder / "out").mkdir(exist_ok=True)
    body = {
        "source": {"uri": str(folder), "include": ["**/*"]},
        "pipeline": {"model": MODEL, "prompt": _PROMPT, "generation": {"max_tokens": 64}, "cache": "reuse_any"},
        "sinks": [{"type": "jsonl", "uri": str(stand.folder / "out")}],
        **changes,
    }
    run, _ = runs.declare_run(stand.ctx, stand.caller, body)
    return run.id


def wait_for_end(stand: Stand, run_id: UUID, *, expected_s: float = 0.0) -> Run:
    """The run once it has ended. Raises TimeoutError, and RuntimeError where it ended badly.

    `expected_s` is what the engines alone need; three times that, and some minutes, is when it hangs.
    """
    patience_s = PATIENCE_S + 3 * expected_s
    run: Run = stand.wait(lambda: _find_ended(stand, run_id), "the end of the run", patience_s=patience_s)
    if run.state is not RunState.COMPLETED:
        raise RuntimeError(f"the run ended as {run.state}: {json.dumps(run.cause)}")
    return run


def _find_ended(stand: Stand, run_id: UUID) -> Run | None:
    run = runs.get_run(stand.ctx, stand.caller, run_id)
    return run if run.state in TERMINAL else None


def _sum(pids: list[int]) -> float:
    return sum(read_cpu_s(pid) for pid in pids)


def _read_night(stand: Stand, corpus: Corpus, roots: dict[str, list[int]], pages_per_s: float) -> dict[str, Any]:
    before = {name: _sum(pids) for name, pids in roots.items()}
    began = time.perf_counter()
    run_id = declare(stand, corpus.folder)
    stand.wait(lambda: stand.run("SELECT count(*) FROM results"), "the first answer", every_s=0.05)
    first_s = time.perf_counter() - began
    run = wait_for_end(stand, run_id, expected_s=corpus.pages / pages_per_s)
    seconds = time.perf_counter() - began
    rate = float(stand.run(_RATE, id=run_id))
    spent = {name: 1e3 * (_sum(pids) - before[name]) / corpus.pages for name, pids in roots.items()}
    if run.batch is None or run.batch.counts.completed != corpus.pages:
        raise RuntimeError("the run has not read every page")
    return {
        "engine_pages_per_s": pages_per_s,
        "pages_per_s": round(rate, 2),
        "share_of_engine": round(rate / pages_per_s, 3),
        "first_answer_s": round(first_s, 2),
        "seconds": round(seconds, 1),
        "cpu_ms_a_page": {name: round(ms, 1) for name, ms in spent.items()},
    }


def _read_again(stand: Stand, corpus: Corpus, roots: dict[str, list[int]], opener: Worker) -> dict[str, Any]:
    before = {name: _sum(pids) for name, pids in roots.items()}
    read_before = _count_read(opener)
    began = time.perf_counter()
    run = wait_for_end(stand, declare(stand, corpus.folder))
    seconds = time.perf_counter() - began
    cpu_ms = 1e3 * sum(_sum(pids) - before[name] for name, pids in roots.items()) / corpus.documents
    listing_ms = 1e3 * (_sum(roots["CPU worker"]) - before["CPU worker"]) / corpus.documents
    return {
        "again_s": round(seconds, 1),
        "again_skipped": run.counts.skipped,
        "again_cpu_ms_a_document": round(cpu_ms, 2),
        "again_cpu_worker_ms_a_document": round(listing_ms, 2),
        "again_mib_read_by_cpu_worker": round((_count_read(opener) - read_before) / 2**20, 1),
    }


def _count_read(worker: Worker) -> int:
    """Bytes that a process has read so far, of files and sockets."""
    facts = Path(f"/proc/{worker.popen.pid}/io").read_text()
    return int(facts.split("rchar:")[1].split()[0])
