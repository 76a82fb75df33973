"""The report of a run, as JSON: how its documents and pages ended, why some failed, what was slow, how right it was."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchinfer.domain import reports as domain
from batchinfer.domain.fields import decode_json
from batchinfer.domain.ids import FILE, parse_id
from batchinfer.domain.review import measure_accuracy
from batchinfer.errors import BatchinferError
from batchinfer.observe.clock import utc_now
from batchinfer.services.runs import get_run
from batchinfer.store import reports as store
from batchinfer.store import reviews, userfiles

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.review import Accuracy
    from batchinfer.domain.runs import Run
    from batchinfer.services.context import Caller, Context

#: Lines of which failures are grouped in one transaction.
_LINES = 100_000
#: Bytes of pictures in one page.
_MOST_PICTURE_BYTES = 2 * 2**20


def get_report(ctx: Context, caller: Caller, run_id: UUID) -> dict[str, Any]:
    """The report of a run: of one that has ended as it was written then, of one under way as it stands; the accuracy
    always as it is now. Raises NotFound."""
    run = get_run(ctx, caller, run_id)
    report = _load_written(ctx, run) or build_report(ctx, run)
    with ctx.db.transaction() as tx:
        verdicts = reviews.count_verdicts(tx, run.id)
    return {**report, "state": run.state.value, "accuracy": _show_accuracy(run, verdicts)}


def find_accuracy(ctx: Context, run: Run) -> Accuracy | None:
    """What the verdicts on a run's sample say; None where it has no sample."""
    with ctx.db.transaction() as tx:
        return _measure(run, reviews.count_verdicts(tx, run.id))


def build_report(
    ctx: Context, run: Run, *, ended_as: str | None = None, cause: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The report as of now. `ended_as` is what its batch is about to be, and `cause` why it failed."""
    with ctx.db.transaction() as tx:
        documents = store.count_documents(tx, run.id)
        slowest = store.list_slowest(tx, run.id, limit=domain.MAX_SLOWEST)
        errors = store.list_document_errors(
            tx, run.id, limit=domain.MAX_CAUSES * domain.MAX_EXAMPLES, examples=domain.MAX_EXAMPLES
        )
        written = store.count_files(tx, run.id)
        verdicts = reviews.count_verdicts(tx, run.id)
    facts = domain.Facts(
        documents=documents,
        failures=_gather_failures(ctx, run),
        document_errors=errors,
        slowest=slowest,
        written=written,
        accuracy=_show_accuracy(run, verdicts),
        now=utc_now(),
        ended_as=ended_as,
        cause=cause or run.cause,
    )
    return domain.show_report(run, facts)


def _gather_failures(ctx: Context, run: Run) -> list[dict[str, Any]]:
    """Causes of failed pages over the whole run, read some lines at a time."""
    total = run.batch.counts.total if run.batch else 0
    causes: dict[str, domain.Cause] = {}
    for after in range(0, total, _LINES):
        with ctx.db.transaction() as tx:
            rows = store.list_failures(
                tx, run.id, after=after, upto=after + _LINES, limit=domain.MAX_CAUSES * domain.MAX_EXAMPLES,
                examples=domain.MAX_EXAMPLES,
            )  # fmt: skip
        domain.add_causes(causes, rows)
    return domain.list_causes(causes)


def _show_accuracy(run: Run, verdicts: dict[str, int]) -> dict[str, Any] | None:
    accuracy = _measure(run, verdicts)
    return None if accuracy is None else accuracy.as_dict()


def _measure(run: Run, verdicts: dict[str, int]) -> Accuracy | None:
    if not verdicts["sampled"] or run.batch is None:
        return None
    population = max(verdicts["sampled"], run.batch.counts.completed - run.counts.pages_blank)
    return measure_accuracy(**verdicts, population=population)


def _load_written(ctx: Context, run: Run) -> dict[str, Any] | None:
    """The report as it was written at the run's end; None where it has none, or its time is over."""
    shown_id = run.files.get("report.json")
    if run.finished_at is None or shown_id is None:
        return None
    with ctx.db.transaction() as tx:
        file = userfiles.find_file(tx, run.tenant_id, parse_id(FILE, shown_id))
    if file is None:
        return None
    with suppress(BatchinferError):
        found = decode_json(ctx.blobs.read(run.tenant_id, file.blob))
        return found if isinstance(found, dict) else None
    return None


def load_thumbnails(ctx: Context, tenant_id: UUID, report: dict[str, Any]) -> dict[str, bytes]:
    """The thumbnails of the examples of a report that are there, by SHA-256; so many as fit into one page."""
    found: dict[str, bytes] = {}
    room = _MOST_PICTURE_BYTES
    for name in domain.list_thumbnails(report):
        with suppress(BatchinferError, ValueError):
            size_bytes = ctx.blobs.size_bytes(tenant_id, name)
            if size_bytes <= min(room, domain.MAX_THUMBNAIL_BYTES):
                found[name] = ctx.blobs.read(tenant_id, name)
                room -= size_bytes
    return found
