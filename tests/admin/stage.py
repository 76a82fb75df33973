"""Jobs in every state for the pages: submitted, prepared, answered and failed through the services, as workers do."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from PIL import Image

from batchinfer.domain.jobs import Job, JobClass, Usage
from batchinfer.domain.prompts import JobRequest, Upload
from batchinfer.domain.retries import RetryClass
from batchinfer.samples import draw_page
from batchinfer.services import documents, jobs, models, work
from batchinfer.services.context import Caller, Context
from batchinfer.store.claims import Claim, Ending, Outcome

MODEL = "reader"


def as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@dataclass
class Stage:
    """A tenant's installation with one model worker and one CPU worker, each moved by the test."""

    context: Context
    caller: Caller
    leases: dict[str, UUID] = field(default_factory=dict)

    def open(self) -> Stage:
        models.register_model(self.context, MODEL, "/nowhere", "0123456789abcdef")
        for role in ("model", "cpu"):
            self.leases[role] = work.open_lease(
                self.context,
                role=role,
                worker=f"{role}@stage",
                host="stage",
                pid=os.getpid(),
                model=MODEL if role == "model" else None,
                device="cpu",
                slots=8,
            )
        return self

    def submit(
        self, text: str = "Extract.", *, pictures: Sequence[bytes] = (), model: str = MODEL, **changes: Any
    ) -> Job:
        """A job with pictures in front of its text."""
        places = [{"type": "image", "index": index} for index in range(len(pictures))]
        values: dict[str, Any] = {
            "model": model,
            "job_class": JobClass.NORMAL,
            "messages": ({"role": "user", "content": [*places, {"type": "text", "text": text}]},),
            "uploads": tuple(Upload(data, "page.png", "file") for data in pictures),
            "sampling": {},
            "max_tokens": 256,
            "stop": (),
            "response_format": None,
            "metadata": {},
            "expires_in_s": None,
        }
        job, _ = jobs.submit(self.context, self.caller, JobRequest(**(values | changes)))
        assert isinstance(job, Job)
        return job

    def claim(self, job: Job, kind: str = work.INFER) -> Claim:
        """Claim exactly this job; whatever else is ready goes back."""
        lease = self.leases["model" if kind == work.INFER else "cpu"]
        claims = work.claim(
            self.context,
            lease_id=lease,
            kinds=[kind],
            model=job.model if kind == work.INFER else None,
            limit=500,
        )
        others = [claim for claim in claims if claim.subject_id != job.id]
        if others:
            work.release(self.context, lease, others)
        (mine,) = [claim for claim in claims if claim.subject_id == job.id]
        return mine

    def prepare(self, job: Job) -> None:
        """What a CPU worker does, less the checks: the picture as sent becomes the normalised one."""
        claim = self.claim(job, work.PREPARE)
        images = []
        for image in job.prompt["images"]:
            data = self.context.blobs.read(self.caller.tenant_id, image["sha256"])
            with Image.open(io.BytesIO(data)) as picture:
                normal = as_png(picture.convert("RGB"))
                width, height = picture.size
            sha256 = self.context.blobs.put(self.caller.tenant_id, normal)
            shown = {"sha256": sha256, "media_type": "image/png", "width": width, "height": height}
            images.append({**image, "normal": shown})
        assert work.mark_prepared(self.context, self.leases["cpu"], claim, images)

    def answer(self, job: Job, text: str, *, finish: str = "stop") -> Job:
        """End a ready job well."""
        claim = self.claim(job)
        outcome = Outcome(
            claim.id,
            claim.attempt,
            text,
            finish,
            Usage(prompt_tokens=80, completion_tokens=60, image_tokens=64, images=len(job.prompt["images"])),
            job.model,
            "0123456789abcdef",
            "fake",
            {"preparing": 0.021, "prefill": 0.094, "decoding": 0.412, "rows": 5.5},
        )
        group = work.complete_group(self.context, self.leases["model"], [outcome])
        assert group.completed == {job.id}
        return jobs.get_job(self.context, self.caller, job.id)

    def fail(self, job: Job, message: str, *, code: str = "engine_error", transient: bool = False) -> Job:
        """End a try of a ready job with an error."""
        claim = self.claim(job)
        error = {"message": message, "type": "server_error", "param": None, "code": code}
        retry = RetryClass.TRANSIENT if transient else RetryClass.PERMANENT
        work.fail(self.context, self.leases["model"], [Ending(claim.id, claim.attempt, error, retry)])
        return jobs.get_job(self.context, self.caller, job.id)

    def page_job(self, seed: int = 7, *, answer: str | None = None) -> Job:
        """A job about a drawn page, prepared, and answered where an answer is given."""
        job = self.submit(pictures=[as_png(draw_page(seed).image)])
        self.prepare(job)
        job = jobs.get_job(self.context, self.caller, job.id)
        return job if answer is None else self.answer(job, answer)

    def document(self, seeds: Sequence[int], *, filename: str = "november-invoices.pdf") -> tuple[UUID, list[Job]]:
        """A document whose pages are drawn: its id and its page jobs in page order, ready for their model."""
        upload = Upload(b"%PDF-1.7 drawn by the stage", filename, "file")
        request = JobRequest(
            MODEL,
            JobClass.NORMAL,
            ({"role": "user", "content": [{"type": "text", "text": "Extract."}, {"type": "image", "index": 0}]},),
            (upload,),
            {},
            256,
            (),
            None,
            {},
            None,
        )
        document, _ = jobs.submit(self.context, self.caller, request)
        claims = work.claim(self.context, lease_id=self.leases["cpu"], kinds=[work.RENDER], model=None, limit=1)
        pages = [self._page(number, seed) for number, seed in enumerate(seeds, 1)]
        assert work.save_pages(self.context, self.leases["cpu"], claims[0], pages=pages, total=len(pages))
        assert work.finish_render(self.context, self.leases["cpu"], claims[0])
        found = documents.list_page_ids(self.context, self.caller, document.id)
        return document.id, [jobs.get_job(self.context, self.caller, job_id) for job_id in found]

    def _page(self, number: int, seed: int) -> work.PagePicture:
        image = draw_page(seed).image
        sha256 = self.context.blobs.put(self.caller.tenant_id, as_png(image.convert("RGB")))
        return work.PagePicture(number, sha256, "image/png", *image.size)
