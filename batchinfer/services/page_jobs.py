"""The jobs of a run's document: which pages each is about, what it asks, and what of it has ended before it began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import RUN, new_id, show_id
from batchinfer.domain.pipelines import Blank
from batchinfer.domain.quality import make_quality
from batchinfer.domain.reuse import Reuse
from batchinfer.domain.templates import fill_in
from batchinfer.errors import Failure
from batchinfer.store.clean import clean_text
from batchinfer.store.jobs import NewJob

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchinfer.domain.pipelines import Pipeline
    from batchinfer.services.rendering import PagePicture
    from batchinfer.store.documents import Rendering, RunPart


@dataclass(frozen=True)
class PageJob:
    """A job to be stored. One that is blank, or has an error, ends with the transaction that stores it."""

    job: NewJob
    blank: bool = False
    error: dict[str, Any] | None = None


def build_page_job(
    document: Rendering, pipeline: Pipeline, pages: Sequence[PagePicture], *, line: int, total: int
) -> PageJob:
    """The job of pages that are one prompt; `line` is its place in the batch, `total` the pages of the file."""
    numbers = [page.number for page in pages]
    error = next((page.error for page in pages if page.error is not None), None)
    values = {"page": numbers[0], "pages": numbers, "page_count": total}
    try:
        messages = _build_messages(document, pipeline.prompt, values, places=len(pages))
    except Failure as failure:
        messages, error = [], error or failure.as_dict()
    name = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
    images, blank = [_image(document, pipeline, page) for page in pages], all(page.blank for page in pages)
    prompt = _build_prompt(document, pipeline, messages, images, blank=blank)
    job = _build_job(document, pipeline, prompt, line=line, name=name, page=numbers[0])
    return PageJob(job, blank=error is None and blank and pipeline.blank is Blank.SKIP, error=error)


def build_merged_job(
    document: Rendering, pipeline: Pipeline, answers: Sequence[str], *, line: int, pages: Sequence[int]
) -> PageJob:
    """The last job of a document in mode merged: no picture, the answers to all its pages instead."""
    values = {"pages": list(pages), "page_count": document.pages or 0, "answers": list(answers)}
    messages: list[dict[str, Any]] = []
    error = None
    try:
        messages = _build_messages(document, pipeline.merge_prompt, values, places=0)
    except Failure as failure:
        error = failure.as_dict()
    prompt = _build_prompt(document, pipeline, messages, [])
    return PageJob(_build_job(document, pipeline, prompt, line=line, name="merged", page=None), error=error)


def get_run(document: Rendering) -> RunPart:
    """The run of a document that is of one. Raises ValueError."""
    if document.run is None:
        raise ValueError("this document is of no run")
    return document.run


def _build_job(
    document: Rendering, pipeline: Pipeline, prompt: dict[str, Any], *, line: int, name: str, page: int | None
) -> NewJob:
    run = get_run(document)
    return NewJob(
        id=new_id(),
        tenant_id=document.tenant_id,
        model=pipeline.model,
        job_class=document.job_class,
        prompt=prompt,
        metadata=_find_metadata(document),
        expires_at=document.expires_at,
        document_id=document.id,
        page=page,
        batch_id=run.id,
        line=line,
        custom_id=clean_text(f"{document.filename}#{name}"),
        key_id=document.key_id,
        schedule_id=run.schedule_id,
    )


def _build_messages(
    document: Rendering, template: str | None, values: Mapping[str, Any], *, places: int
) -> list[dict[str, Any]]:
    """The messages of a prompt, pictures before the text. `template` is the run's own where it is of no stored one.

    Raises Failure (`template_failed`).
    """
    run = get_run(document)
    resolved = run.spec.get("resolved", {})
    known = {**_list_variables(document, run), **values}
    asked = template if places == 0 else resolved.get("prompt", template)
    content = [{"type": "image", "index": index} for index in range(places)]
    content.append({"type": "text", "text": fill_in(asked or "", known)})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if resolved.get("system") is not None:
        said = fill_in(resolved["system"], known)
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": said}]})
    return messages


def _list_variables(document: Rendering, run: RunPart) -> dict[str, Any]:
    """Every variable of templates that is the same for all pages of a document."""
    path = document.filename or ""
    return {
        "filename": path.rpartition("/")[2], "path": path, "uri": document.uri or "", "date": f"{run.at:%Y-%m-%d}",
        "run": run.name or show_id(RUN, run.id), "metadata": _find_metadata(document), "answers": [], "page": 0,
    }  # fmt: skip


def _find_metadata(document: Rendering) -> dict[str, str]:
    found: dict[str, str] = document.metadata or get_run(document).spec.get("metadata") or {}
    return found


def _build_prompt(
    document: Rendering,
    pipeline: Pipeline,
    messages: list[dict[str, Any]],
    images: list[dict[str, Any]],
    *,
    blank: bool = False,
) -> dict[str, Any]:
    resolved = get_run(document).spec.get("resolved", {})
    kept = {} if pipeline.cache is Reuse.OFF else {"cache": pipeline.cache.value}
    return {
        "messages": messages,
        "images": images,
        "sampling": dict(pipeline.sampling),
        "max_tokens": pipeline.max_tokens,
        "stop": list(pipeline.stop),
        "response_format": resolved.get("response_format", pipeline.response_format),
        "quality": make_quality(pipeline, blank=blank),
        **kept,
    }


def _image(document: Rendering, pipeline: Pipeline, page: PagePicture) -> dict[str, Any]:
    """A page in a prompt. It says of which document it is and how it was drawn: so it can be drawn again when its
    picture is gone."""
    render = make_quality(pipeline)["render"]
    image: dict[str, Any] = {"document": document.id.hex, "page": page.number, "render": render, "normal": None}
    if page.error is None:
        image |= {"sha256": page.sha256, "media_type": page.media_type, "normal": page.as_normal()}
    return image | ({"thumbnail": page.thumbnail} if page.thumbnail else {})
