"""How long somebody waits who asks while a night is read, beside the same questions on an idle service."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import httpx

from bench.api.web import Web, open_web
from bench.documents.corpus import write_corpus
from bench.documents.nights import allow_folders, declare, start_opener
from bench.queue.stand import MODEL, Stand

#: One engine of so many slots, a step each 20 ms; a page of the night takes ten seconds of a slot, a question one.
_SLOTS, _STEPS_PER_S, _PAGE_STEPS, _STEPS = 16, 50.0, 500, 50
_PAUSE_S = 0.7


def measure_interactive(stand: Stand, *, requests: int) -> dict[str, Any]:
    """Streamed questions one after the other: seconds to the first token and to the end."""
    stand = allow_folders(stand)
    corpus = write_corpus(stand.folder / "pages", max(40, 4 * requests))
    start_opener(stand, processes=1)
    stand.start_worker(slots=_SLOTS, steps_per_s=_STEPS_PER_S)
    with open_web(stand) as web:
        _ask(web, 0)
        idle = [_ask(web, number) for number in range(requests)]
        declare(stand, corpus.folder, pipeline={
            "model": MODEL, "prompt": f"[[steps:{_PAGE_STEPS}]] Read page {{{{ page }}}}.",
            # The fake engine fills its answer up with dots, which is a loop to whoever looks for one.
            "generation": {"max_tokens": 512}, "cache": "off", "checks": [],
        })  # fmt: skip
        stand.wait(lambda: _count_running(stand) >= _SLOTS, "a full engine")
        night = [_ask(web, number) for number in range(requests)]
        full = _count_running(stand)
    found = {"requests": requests, "slots": _SLOTS, "running_at_the_end": full}
    for name, column in (("first", 0), ("end", 1)):
        for when, times in (("idle", idle), ("night", night)):
            values = sorted(one[column] for one in times)
            found[f"{name}_{when}_p50_ms"] = round(1e3 * statistics.median(values))
            found[f"{name}_{when}_p99_ms"] = round(1e3 * values[min(len(values) - 1, int(0.99 * len(values)))])
        found[f"{name}_ratio_p99"] = round(found[f"{name}_night_p99_ms"] / found[f"{name}_idle_p99_ms"], 2)
    return found


def _count_running(stand: Stand) -> int:
    return int(stand.run("SELECT count(*) FROM queue WHERE kind = 'infer' AND state = 'running'"))


def _ask(web: Web, number: int) -> tuple[float, float]:
    """(seconds to the first token, seconds to the end) of one streamed question."""
    body = {
        "model": MODEL, "stream": True, "max_tokens": 64, "service_tier": "priority",
        "messages": [{"role": "user", "content": f"[[steps:{_STEPS}]] Question {number}?"}],
    }  # fmt: skip
    time.sleep(_PAUSE_S)
    began, first = time.perf_counter(), None
    with httpx.stream("POST", f"http://{web.host}:{web.port}/v1/chat/completions", json=body, timeout=120,
                      headers=web.headers) as answer:  # fmt: skip
        answer.raise_for_status()
        for line in answer.iter_lines():
            if first is None and line.startswith("data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                first = time.perf_counter() - began if delta.get("content") else None
    if first is None:
        raise RuntimeError("a question had no answer")
    return first, time.perf_counter() - began
