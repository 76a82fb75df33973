"""Batches and runs in every state for their pages: made through the services, moved by hand as workers do."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from batchinfer.domain.batches import Batch, parse_bulk
from batchinfer.domain.ids import FILE, show_id
from batchinfer.domain.jobs import Usage
from batchinfer.domain.retries import RetryClass
from batchinfer.domain.runs import Run
from batchinfer.domain.userfiles import USER_DATA, FileRequest
from batchinfer.services import batches, closing, exporting, listing, reading, runs, sealing, userfiles, work
from batchinfer.store.claims import Ending, Outcome

MODEL = "reader"
STEPS = {work.READ: reading.read_batch, work.LIST: listing.list_source, work.CLOSE: closing.close_document}


@dataclass
class BatchStage:
    """A tenant's batches over the stage of its jobs. `scratch` is a folder of the test's."""

    stage: Any
    scratch: Path

    def make(self, count: int = 6, *, lines: Sequence[bytes] | None = None, **options: Any) -> Batch:
        """A batch of native lines, whose input nobody has read yet."""
        if lines is None:
            asked = [{"custom_id": f"page-{number}", "model": MODEL, "messages": [
                {"role": "user", "content": f"Read line {number}."}]} for number in range(1, count + 1)]  # fmt: skip
            lines = [json.dumps(line).encode() + b"\n" for line in asked]
        made, _ = batches.create_from_lines(self.stage.context, self.stage.caller, parse_bulk(options), iter(lines))
        return made

    def start(self, count: int = 6, **more: Any) -> Batch:
        """The same, its lines made jobs (or its faults found)."""
        made = self.make(count, **more)
        self.work(work.READ)
        return self.look(made.id)

    def work(self, kind: str) -> int:
        """Do what is ready of a kind of a CPU worker's work. Answers how much."""
        context, lease = self.stage.context, self.stage.leases["cpu"]
        claims = work.claim(context, lease_id=lease, kinds=[kind], model=None, limit=100)
        for claim in claims:
            insist, wanted = (lambda action: action()), (lambda: True)
            if kind in (work.EXPORT, work.SEAL):
                write = exporting.export_batch if kind == work.EXPORT else sealing.seal_shard
                assert write(context, claim, self.scratch, insist, wanted)
            else:
                assert STEPS[kind](context, claim, insist, wanted)
        return len(claims)

    def end(self, *codes: str | None, answer: str = "Done.", transient: bool = False) -> int:
        """End ready jobs, one a code in their order: None answers it, a code fails it. Answers how many."""
        context, lease = self.stage.context, self.stage.leases["model"]
        claims = work.claim(context, lease_id=lease, kinds=[work.INFER], model=MODEL, limit=len(codes))
        outcomes, endings = [], []
        for claim, code in zip(claims, codes, strict=False):
            if code is None:
                usage = Usage(prompt_tokens=80, completion_tokens=60)
                outcomes.append(
                    Outcome(claim.id, claim.attempt, answer, "stop", usage, MODEL, "0123456789abcdef", "fake")
                )
            else:
                error = {"message": f"It ended with {code}.", "type": "server_error", "param": None, "code": code}
                retry = RetryClass.TRANSIENT if transient else RetryClass.PERMANENT
                endings.append(Ending(claim.id, claim.attempt, error, retry))
        work.complete_group(context, lease, outcomes, endings)
        return len(claims)

    def finish(self) -> None:
        """Write the files of what has ended."""
        assert self.work(work.EXPORT)

    def look(self, batch_id: UUID) -> Batch:
        return batches.get_batch(self.stage.context, self.stage.caller, batch_id)

    def run(self, seeds: Sequence[int], *, names: Sequence[str] = (), sample: int = 0, **more: Any) -> Run:
        """A run over uploaded pictures that was listed and rendered: a page a picture, ready for their model."""
        context, caller = self.stage.context, self.stage.caller
        files = []
        for number, seed in enumerate(seeds):
            name = names[number] if number < len(names) else f"scan-{seed:03d}.png"
            asked = FileRequest(name, USER_DATA, None)
            kept, _ = userfiles.upload_file(context, caller, asked, io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"%d" % seed))
            files.append(show_id(FILE, kept.id))
        pipeline = {"model": MODEL, "prompt": "Extract.", "ladder": [], **more.pop("pipeline", {})}
        body = {"source": {"files": files}, "pipeline": pipeline, "sample": {"size": sample}, **more}
        made, _ = runs.declare_run(context, caller, body)
        assert self.work(work.LIST)
        claims = work.claim(context, lease_id=self.stage.leases["cpu"], kinds=[work.RENDER], model=None, limit=100)
        for claim, seed in zip(claims, seeds, strict=True):
            page = self.stage._page(1, seed)
            assert work.save_pages(context, self.stage.leases["cpu"], claim, pages=[page], total=1)
            assert work.finish_render(context, self.stage.leases["cpu"], claim, pages=1)
        return self.look_run(made.id)

    def finish_run(self) -> None:
        """Close documents whose pages have ended, and end the run where that was all."""
        while any(self.work(kind) for kind in (work.CLOSE, work.EXPORT, work.SEAL)):
            pass

    def look_run(self, run_id: UUID) -> Run:
        return runs.get_run(self.stage.context, self.stage.caller, run_id)
