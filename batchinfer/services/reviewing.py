"""A user's verbs for what a run brought: seal it again, draw its sample, judge pages, keep golden prompts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import RUN, new_id, show_id
from batchinfer.domain.runs import TERMINAL, RunState
from batchinfer.errors import BatchinferError, Conflict, NotFound
from batchinfer.services.context import Page
from batchinfer.services.files import record_made
from batchinfer.services.reports import find_accuracy
from batchinfer.services.runs import get_own
from batchinfer.services.sampling import choose_pages
from batchinfer.store import batches, runs
from batchinfer.store import reports as report_store
from batchinfer.store import reviews as store
from batchinfer.store import shards as shard_store
from batchinfer.store.events import Event, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from batchinfer.domain.review import Accuracy, Golden, Judgement, Review
    from batchinfer.domain.runs import Run
    from batchinfer.services.context import Caller, Context

_GOLDENS = 50


def seal_run(ctx: Context, caller: Caller, run_id: UUID) -> Run:
    """Write once more what of a run's results could not be written; a run that failed by it ends anew. Of one that has
    nothing to be written it changes nothing. Raises NotFound."""
    caller.require("cancel")
    run = get_own(ctx, caller, run_id)
    failed_by_it = run.state is RunState.FAILED and str((run.cause or {}).get("code", "")).startswith("sink_")
    if run.state in TERMINAL and not failed_by_it:
        return run
    with ctx.db.transaction() as tx:
        ids = shard_store.seal_again(tx, run_id)
        if failed_by_it and report_store.reopen_run(tx, run_id):
            ids += batches.count_lines(tx, {run_id: {}})
        record(tx, [Event(caller.tenant_id, "run", run_id, "sealed_again", caller.actor)])
    ctx.announcer.announce_cpu(ids)
    return get_own(ctx, caller, run_id)


def draw_sample(ctx: Context, caller: Caller, run_id: UUID, size: int) -> Run:
    """Let the sample of a run that has ended have at least `size` pages, as far as there are so many; what is judged
    stays. Raises NotFound, Conflict (code run_not_ended)."""
    caller.require("submit")
    run = get_own(ctx, caller, run_id)
    if run.finished_at is None or run.batch is None:
        raise Conflict(
            f"Run {show_id(RUN, run_id)} has not ended: a sample of some of its pages would say nothing of the others. "
            "Draw it once the run has ended.",
            code="run_not_ended",
        )
    chosen = choose_pages(ctx, run, size)
    with ctx.db.transaction() as tx:
        runs.lock_run(tx, run_id)
        store.add_pages(tx, run.tenant_id, run_id, chosen)
    return run


def list_sample(
    ctx: Context,
    caller: Caller,
    run_id: UUID,
    *,
    verdict: str | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> tuple[Page[Review], Accuracy | None]:
    """Pages of a run's sample in the order of its drawing, behind the page `after`, and what the verdicts say so far.

    Raises NotFound.
    """
    caller.require("read")
    run = get_own(ctx, caller, run_id)
    with ctx.db.transaction() as tx:
        number = 0 if after is None else store.find_number(tx, run_id, after)
        if number is None:
            raise make_missing()
        found = store.list_reviews(tx, run_id, after=number, verdict=verdict, limit=limit + 1)
    return Page.cut(found, limit, backwards=False), find_accuracy(ctx, run)


def get_page(ctx: Context, caller: Caller, run_id: UUID, job_id: UUID) -> Review:
    """A page of a run's sample, whatever the caller's scopes. Raises NotFound."""
    get_own(ctx, caller, run_id)
    return _find(ctx, caller, run_id, job_id)


def judge_page(ctx: Context, caller: Caller, run_id: UUID, job_id: UUID, judgement: Judgement) -> Review:
    """Say whether the answer of a page is right; the last word counts. Raises NotFound."""
    caller.require("submit")
    get_own(ctx, caller, run_id)
    with ctx.db.transaction() as tx:
        if not store.judge(tx, caller.tenant_id, run_id, job_id, judgement, caller.actor):
            raise make_missing()
    return _find(ctx, caller, run_id, job_id)


def make_missing() -> NotFound:
    """The error for a page that is not in a sample."""
    return NotFound(
        "This page is not in the run's sample. GET /v1/runs/{id}/sample lists what is.", code="sample_page_not_found"
    )


def _find(ctx: Context, caller: Caller, run_id: UUID, job_id: UUID) -> Review:
    with ctx.db.transaction() as tx:
        found = store.find_review(tx, caller.tenant_id, run_id, job_id)
    if found is None:
        raise make_missing()
    return found


@dataclass(frozen=True)
class Picture:
    """A picture of a page in the blob store; `whole` says that it is the one that the model saw, and no thumbnail."""

    sha256: str
    media_type: str
    whole: bool


def find_picture(ctx: Context, tenant_id: UUID, prompt: dict[str, Any]) -> Picture | None:
    """The best picture of a page that is still there, or None. A page's own is removed once its job has ended; its
    thumbnail stays as long as the job."""
    for image in prompt.get("images", ()):
        forms = [(image.get("normal") or {}, True), (image, True), (image.get("thumbnail") or {}, False)]
        for form, whole in forms:
            name = form.get("sha256")
            if name and ctx.blobs.exists(tenant_id, name):
                return Picture(name, form.get("media_type", "image/jpeg"), whole)
    return None


def get_picture(ctx: Context, caller: Caller, run_id: UUID, job_id: UUID) -> Picture:
    """A picture of a page of a sample. Raises NotFound (code picture_not_kept)."""
    caller.require("read")
    get_own(ctx, caller, run_id)
    found = find_picture(ctx, caller.tenant_id, _find(ctx, caller, run_id, job_id).prompt)
    if found is None:
        raise NotFound("The picture of this page is no longer kept.", code="picture_not_kept")
    return found


def keep_golden(ctx: Context, caller: Caller, run_id: UUID, job_id: UUID, answer: str | None) -> Golden:
    """Keep a page of a sample as a golden prompt: what was asked, its picture, and the right answer (None: the one that
    it has). Twice is as once; a new answer replaces the old.

    Raises NotFound (codes sample_page_not_found, picture_not_kept), Conflict (code no_right_answer).
    """
    caller.require("submit")
    get_own(ctx, caller, run_id)
    review = _find(ctx, caller, run_id, job_id)
    if answer is None and (review.verdict == "wrong" or review.text is None):
        raise Conflict("The answer of this page is not right. Send the right one as `answer`.", code="no_right_answer")
    picture = find_picture(ctx, caller.tenant_id, review.prompt)
    if picture is None or not picture.whole:
        raise NotFound(
            "The picture of this page is no longer kept in its full size, so that no golden prompt can be made of it.",
            code="picture_not_kept",
        )
    image = {"sha256": picture.sha256, "media_type": picture.media_type}
    golden = store.NewGolden(
        new_id(), caller.tenant_id, job_id, run_id, review.model or "", {**review.prompt, "images": [image]},
        picture.sha256, answer if answer is not None else review.text or "", caller.actor,
    )  # fmt: skip
    with ctx.db.transaction() as tx:
        record_made(ctx, tx, caller.tenant_id, [(picture.sha256, picture.media_type)])
        return store.keep_golden(tx, golden)


def list_goldens(ctx: Context, caller: Caller, *, after: UUID | None = None, limit: int = 20) -> Page[Golden]:
    """Golden prompts, newest first, beginning below the id `after`."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = store.list_goldens(tx, caller.tenant_id, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)


def iterate_goldens(ctx: Context, caller: Caller) -> Iterator[tuple[Golden, bytes]]:
    """All golden prompts with their pictures, newest first; one whose picture is gone is left out."""
    caller.require("read")
    return _iterate_goldens(ctx, caller.tenant_id)


def _iterate_goldens(ctx: Context, tenant_id: UUID) -> Iterator[tuple[Golden, bytes]]:
    after: UUID | None = None
    while True:
        with ctx.db.transaction() as tx:
            some = store.list_goldens(tx, tenant_id, after=after, limit=_GOLDENS)
        for golden in some:
            with suppress(BatchinferError):
                yield golden, ctx.blobs.read(golden.tenant_id, golden.blob)
            after = golden.id
        if len(some) < _GOLDENS:
            return


def delete_golden(ctx: Context, caller: Caller, golden_id: UUID) -> None:
    """Forget a golden prompt. Raises NotFound (code golden_not_found)."""
    caller.require("submit")
    with ctx.db.transaction() as tx:
        if not store.drop_golden(tx, caller.tenant_id, golden_id):
            raise NotFound("No golden prompt with this id.", code="golden_not_found")
