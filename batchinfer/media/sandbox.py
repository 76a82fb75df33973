"""The pool of limited processes in which users' files are opened. A file that kills one harms no other.

The kernel ends a child together with the thread that started it, so one thread of the pool starts them all
and lives until `close()`. Processes are started when first needed and replaced after a number of tasks.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batchinfer.errors import BadDocument, BadImage, BatchinferError, Failure, Unavailable
from batchinfer.media.limited import LimitedProcess, ProcessDied, ProcessHung

_ERRORS: dict[str, type[BatchinferError]] = {
    "BadImage": BadImage,
    "BadDocument": BadDocument,
    "Failure": Failure,
    "Unavailable": Unavailable,
}
_NOUNS = {
    "normalise": "picture", "open_document": "document", "render_page": "page of the document",
    "read_text": "page of the document",
}  # fmt: skip


class SandboxPool:
    """At most `processes` children, each with `memory_mib` of address space and `timeout_s` for a task."""

    def __init__(self, processes: int, memory_mib: int, timeout_s: float, *, recycle_after: int = 200) -> None:
        self._memory_mib, self._timeout_s, self._recycle_after = memory_mib, timeout_s, recycle_after
        self._free = threading.Condition()
        #: Every process that runs; those in `_idle` wait for a task. Guarded by `_free`.
        self._all: set[LimitedProcess] = set()
        self._idle: list[LimitedProcess] = []
        self._slots = processes
        self._closed = False
        self._owner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-owner")

    @property
    def pids(self) -> list[int]:
        """The process ids of the children that run."""
        with self._free:
            return sorted(child.pid for child in self._all)

    def run(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Run one operation of `child.py` (paths as strings) and return its result; waits for a free process.

        Raises BadImage and BadDocument for what is wrong with the file; Failure (`blob_missing`,
        `sandbox_killed`, `sandbox_timeout`, `sandbox_failed`, `storage_error`); and Unavailable where the
        disk is full, no process can start or the pool is closed: then the same task may pass another time.
        """
        noun = _NOUNS[operation]
        self._wait_for_slot()
        try:
            return self._run_in_slot(operation, arguments, noun)
        finally:
            with self._free:
                self._slots += 1
                self._free.notify()

    def close(self) -> None:
        """End every process at once; a task that runs raises Unavailable. Safe to call twice."""
        with self._free:
            self._closed = True
            busy = self._all - set(self._idle)
            idle, self._idle = self._idle, []
            self._free.notify_all()
        for child in busy:
            child.kill()  # whoever waits for it sees it die and clears up
        for child in idle:
            self._end(child)
        self._owner.shutdown()

    def _run_in_slot(self, operation: str, arguments: dict[str, Any], noun: str) -> dict[str, Any]:
        while True:
            child = self._take(arguments.get("source"))
            fresh = child.tasks == 0
            answer: dict[str, Any] | None = None
            try:
                answer = child.ask(operation, arguments)
            except ProcessHung:
                raise self._closed_or(_late(noun, self._timeout_s)) from None
            except ProcessDied:
                # Earlier tasks may have weakened it: only a process's first task is surely the cause.
                if fresh:
                    raise self._closed_or(_killed(noun)) from None
            finally:
                self._give_back(child, keep=answer is not None and "memory" not in answer)
            if answer is not None and not ("memory" in answer and not fresh):
                return _read_answer(answer, noun, self._memory_mib)
            self._check_open()

    def _wait_for_slot(self) -> None:
        with self._free:
            self._free.wait_for(lambda: self._slots > 0 or self._closed)
            self._check_open()
            self._slots -= 1

    def _take(self, source: str | None) -> LimitedProcess:
        """An idle process, if possible the one that has `source` open, or a new one where none is idle."""
        while True:
            with self._free:
                self._check_open()
                same = (child for child in self._idle if child.source == source)
                child = next(same, None) or next(iter(self._idle), None)
                if child is not None:
                    self._idle.remove(child)
            if child is None:
                return self._start()
            if child.is_alive():
                return child
            self._end(child)

    def _start(self) -> LimitedProcess:
        try:
            child = self._owner.submit(LimitedProcess, self._memory_mib, self._timeout_s).result()
        except (OSError, RuntimeError):  # no process to be had, or the pool was closed meanwhile
            raise _not_started() from None
        with self._free:
            self._all.add(child)
        try:
            if self._closed:
                child.kill()
            child.wait_ready()
        except (ProcessDied, ProcessHung):
            self._end(child)
            raise self._closed_or(_not_started()) from None
        return child

    def _give_back(self, child: LimitedProcess, *, keep: bool) -> None:
        with self._free:
            if keep and not self._closed and child.tasks < self._recycle_after:
                self._idle.append(child)
                return
        self._end(child)

    def _end(self, child: LimitedProcess) -> None:
        with self._free:
            self._all.discard(child)
        child.close()

    def _check_open(self) -> None:
        if self._closed:
            raise _stopping()

    def _closed_or(self, error: BatchinferError) -> BatchinferError:
        return _stopping() if self._closed else error


def _read_answer(answer: dict[str, Any], noun: str, memory_mib: int) -> dict[str, Any]:
    if "result" in answer:
        result: dict[str, Any] = answer["result"]
        return result
    if "memory" in answer:
        message = f"The {noun} needs more than the {memory_mib:,} MiB of memory allowed. Scale it down and retry."
        if noun == "picture":
            raise BadImage(message, code="image_too_large")
        raise BadDocument(message, code="page_too_large")
    error = answer["error"]
    raise _ERRORS[error["class"]](error["message"], code=error["code"])


def _late(noun: str, timeout_s: float) -> Failure:
    return Failure(
        f"The {noun} took longer than {timeout_s:g} s to open and was given up. Simplify it or save it anew.",
        code="sandbox_timeout",
    )


def _killed(noun: str) -> Failure:
    return Failure(
        f"The {noun} could not be opened within the limits of memory and time. Simplify it or save it anew.",
        code="sandbox_killed",
    )


def _not_started() -> Unavailable:
    return Unavailable("No process to open the file in could be started. Try again.", code="sandbox_unavailable")


def _stopping() -> Unavailable:
    return Unavailable("The worker that opens files is stopping. Try again.", code="sandbox_closed")
