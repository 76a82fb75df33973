"""The files of bench/results, read: which there are, by which reader, and what nobody has measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.page import engines, service
from bench.page.entries import Section, Taken
from bench.whole import NAME as WHOLE

RESULTS = Path(__file__).resolve().parents[1] / "results"

#: File below bench/results, its reader, what it would tell, and the command that makes it. In the page's order.
KNOWN: tuple[tuple[str, Callable[[Any], Section], str, str], ...] = (
    ("engine-tiny.json", engines.read_engine, "our engine beside `generate`, tiny model", "make bench-engine"),
    ("engine-large.json", engines.read_engine, "the same, large model", "make bench-engine SIZE=large"),
    ("peers-tiny.json", engines.read_peers, "vLLM and Xinference beside us, tiny model", "make bench-peers"),
    ("peers-large.json", engines.read_peers, "the same, large model", "make bench-peers SIZE=large"),
    ("loading.json", engines.read_loading, "a cold start beside the disk", "make bench-loading"),
    ("remote.json", engines.read_remote, "the remote engine beside a direct client", "make bench-remote"),
    ("queue.json", service.read_queue, "what the queue costs", "make bench-queue"),
    ("api.json", service.read_api, "what HTTP and the whole service cost", "make bench-api"),
    ("documents.json", service.read_documents, "a night of documents", "make bench-documents"),
    ("tuning.json", service.read_tuning, "threads, cores and priority of a worker", "make bench-tuning"),
    ("admin.json", service.read_admin, "the admin pages before a month of jobs", "make bench-admin"),
)
_GPU = ("anything on a GPU", "python -m bench.gpu")
_CHAOS = ("what faults lose", "make chaos-mix")


def read_stored(folder: Path = RESULTS) -> tuple[list[Section], list[tuple[str, str]]]:
    """A section for each file that is there, and (what, command) of each bench that left none.

    Raises ValueError, LookupError or TypeError where a file has not the shape that its bench writes.
    """
    sections, missing = [], []
    for name, read, what, command in KNOWN:
        path = folder / name
        if path.exists():
            sections.append(read(json.loads(path.read_text())))
        else:
            missing.append((what, command))
    parts = sorted((folder / "chaos").glob("*.json"), key=lambda path: path.stem.zfill(9))
    if parts:
        sections.append(service.read_chaos([json.loads(path.read_text()) for path in parts]))
    else:
        missing.append(_CHAOS)
    gpus = sorted(folder.glob("gpu*.jsonl"))
    sections += [engines.read_gpu([json.loads(line) for line in path.read_text().splitlines()]) for path in gpus]
    if not gpus:
        missing.append(_GPU)
    known = {WHOLE, *(name for name, *_ in KNOWN)}
    strange = [path for path in sorted(folder.glob("*.json")) if path.name not in known]
    sections += [name_unknown(path.name, json.loads(path.read_text())) for path in strange]
    return sections, missing


def name_unknown(name: str, found: Any) -> Section:
    """A file that has no reader yet: said to be there, with its machines, and with no figure."""
    parts: Mapping[str, Any] = found if isinstance(found, dict) else {}
    taken = [Taken("all", parts["machine"])] if isinstance(parts.get("machine"), dict) else []
    taken += [
        Taken(key, part["machine"])
        for key, part in parts.items()
        if isinstance(part, dict) and isinstance(part.get("machine"), dict)
    ]
    page = f"{name.removesuffix('.json')}.md"
    return Section(
        title=f"`{name}`",
        command="",
        about="Stored, and shown here without figures: bench/page has no reader for it.",
        limit="not told here",
        unmeasured="not told here",
        taken=taken or [Taken("all", {})],
        page=page if (RESULTS / page).exists() else "",
    )
