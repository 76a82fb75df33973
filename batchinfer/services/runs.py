"""A user's verbs for runs: declare, get, list, pause, resume, cancel; and how a due run begins."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import RUN, new_id, show_id
from batchinfer.domain.limits import Limits
from batchinfer.domain.pipelines import make_recipe
from batchinfer.domain.runs import DOCUMENTS, LONGEST_WINDOW, TERMINAL, Run, RunState, parse_spec
from batchinfer.domain.templates import check_template
from batchinfer.errors import BatchinferError, Conflict, NotFound
from batchinfer.services import batch_controls, batches, models
from batchinfer.services.context import Page
from batchinfer.services.quotas import admit
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.services.sealing import check_sinks
from batchinfer.services.sourcing import check_source
from batchinfer.store import batches as batch_store
from batchinfer.store import fleet, queue, templates
from batchinfer.store import runs as store
from batchinfer.store.claims import LIST
from batchinfer.store.events import Event, record
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.runs import RunSpec
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction

_LEAST_WINDOW = timedelta(minutes=1)


def declare_run(
    ctx: Context, caller: Caller, body: dict[str, Any], idempotency: Idempotency | None = None
) -> tuple[Run, bool]:
    """Make a run from decoded JSON and begin it. Answers it, and whether it is a replay.

    Raises BadRequest (what is wrong with the declaration), NotFound (a model, template or file), KeyReused, Busy.
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return get_own(ctx, caller, found.resource_id), True
    spec = check_spec(ctx, caller, body)
    run = store.NewRun(new_id(), caller.tenant_id, body, spec.name, caller.key_id)
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "run", run.id)
            admit(ctx, tx, caller.tenant_id, 1)
            store.insert_run(tx, run)
            begin(tx, store.load_runs(tx, [run.id])[run.id], spec)
    except Replayed as replay:
        return get_own(ctx, caller, replay.found.resource_id), True
    ctx.announcer.announce_cpu([run.id])
    return get_own(ctx, caller, run.id), False


def check_spec(ctx: Context, caller: Caller, body: object, *, more: tuple[str, ...] = ()) -> RunSpec:
    """A run's declaration, held against what is there. Raises BadRequest, NotFound."""
    spec = parse_spec(body, Limits.of(ctx.settings), more=more)
    check_sinks(spec.sinks, ctx.settings)
    check_source(ctx, caller.tenant_id, spec.source)
    with ctx.db.transaction() as tx:
        models.require_model(tx, spec.pipeline.model, "pipeline.model")
        for number, rung in enumerate(spec.pipeline.ladder):
            if rung.model is not None:
                models.require_model(tx, rung.model, f"pipeline.ladder.{number}.model")
        resolve(tx, caller.tenant_id, spec)
    return spec


def resolve(tx: Transaction, tenant_id: UUID, spec: RunSpec) -> dict[str, Any]:
    """What a declaration names, as it is now: {"prompt", "system", "response_format", "template", "revision"}.

    Raises BadRequest (a template that does not work), NotFound.
    """
    pipeline = spec.pipeline
    model = fleet.find_model(tx, pipeline.model)
    if model is None:
        raise models.make_unknown(pipeline.model, "pipeline.model")
    found = None
    if pipeline.template is not None:
        found = templates.find_version(tx, tenant_id, pipeline.template["name"], pipeline.template["version"])
        if found is None:
            raise NotFound(
                f"There is no template {pipeline.template['name']!r} with this version. GET /v1/templates lists them.",
                code="template_not_found",
                param="pipeline.template",
            )
    prompt = found.prompt if found else pipeline.prompt or ""
    system = found.system if found else pipeline.system
    for text, at in ((prompt, "pipeline.prompt"), (system, "pipeline.system"),
                     (pipeline.merge_prompt, "pipeline.merge_prompt")):  # fmt: skip
        if text is not None:
            check_template(text, at)
    form = pipeline.response_format or (found.response_format if found else None)
    named = {"name": pipeline.template["name"], "version": found.version} if found and pipeline.template else None
    return {"prompt": prompt, "system": system, "response_format": form, "template": named, "revision": model.revision}


def begin(tx: Transaction, run: Run, spec: RunSpec) -> bool:
    """A due run begins: its batch is there, its source is to be listed. False: another one began it.

    The caller announces it once this is committed. Raises NotFound (a model or template that is gone).
    """
    resolved = resolve(tx, run.tenant_id, spec)
    recipe = make_recipe(
        spec.pipeline, revision=resolved["revision"], prompt=resolved["prompt"], system=resolved["system"]
    )
    if not store.begin_run(tx, run.id, spec=run.spec | {"resolved": resolved}, recipe=recipe):
        return False
    window, pipeline = spec.window or LONGEST_WINDOW, spec.pipeline
    if spec.window is not None and run.due_at is not None:
        # It closes when the schedule says, however long the run waited for its turn.
        window = max(run.due_at + window - read_now(tx), _LEAST_WINDOW)
    batch_store.insert_batch(
        tx,
        batch_store.NewBatch(
            id=run.id, tenant_id=run.tenant_id, job_class=pipeline.job_class, endpoint=DOCUMENTS,
            completion_window=f"{max(1, int(window.total_seconds() // 60))}m", window=window, input_file_id=None,
            metadata=spec.metadata, options={"cache": pipeline.cache.value}, key_id=run.key_id,
        ),
    )  # fmt: skip
    batch_store.begin_batch(tx, run.id, total=0, model=pipeline.model)
    batch_store.open_lines(tx, run.id, opened=1)
    queue.enqueue(tx, [queue.Entry(run.id, LIST, run.tenant_id, LIST, pipeline.job_class)])
    return True


def get_own(ctx: Context, caller: Caller, run_id: UUID) -> Run:
    """The caller's run, whatever its scopes. Raises NotFound."""
    with ctx.db.transaction() as tx:
        return require_run(store.find_run(tx, caller.tenant_id, run_id))


def require_run(run: Run | None) -> Run:
    """The run. Raises NotFound where there is none."""
    if run is None:
        raise NotFound("No run with this id. It may have been removed after its time.", code="run_not_found")
    return run


def get_run(ctx: Context, caller: Caller, run_id: UUID) -> Run:
    """The run. Raises NotFound."""
    caller.require("read")
    return get_own(ctx, caller, run_id)


def list_runs(
    ctx: Context, caller: Caller, *, schedule_id: UUID | None = None, after: UUID | None = None, limit: int = 20
) -> Page[Run]:
    """Runs, newest first, beginning below the id `after`."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = store.list_runs(tx, caller.tenant_id, schedule_id=schedule_id, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)


def pause_run(ctx: Context, caller: Caller, run_id: UUID) -> Run:
    """Begin no more pages; what runs ends. Twice is as once. Raises NotFound, Conflict (code run_not_pausable)."""
    caller.require("cancel")
    _require_begun(get_own(ctx, caller, run_id))
    batch_controls.pause_batch(ctx, caller, run_id)
    return get_own(ctx, caller, run_id)


def resume_run(ctx: Context, caller: Caller, run_id: UUID) -> Run:
    """Let a run go on, whoever paused it. Twice is as once. Raises NotFound, Conflict (code run_not_pausable)."""
    caller.require("cancel")
    _require_begun(get_own(ctx, caller, run_id))
    with ctx.db.transaction() as tx:
        store.set_cause(tx, run_id, None)
    batch_controls.resume_batch(ctx, caller, run_id)
    return get_own(ctx, caller, run_id)


def _require_begun(run: Run) -> None:
    if run.state not in (RunState.RUNNING, RunState.PAUSED):
        raise Conflict(
            f"Run {show_id(RUN, run.id)} is {run.state}: nothing of it waits. Only one that is running or paused can "
            "be paused or resumed.",
            code="run_not_pausable",
        )


def cancel_run(ctx: Context, caller: Caller, run_id: UUID) -> Run:
    """End what has not ended of a run; its results so far are kept. Twice is as once.

    Raises NotFound, Conflict (code run_not_cancellable) where it has ended otherwise.
    """
    caller.require("cancel")
    run = get_own(ctx, caller, run_id)
    if run.state is RunState.CANCELLED:
        return run
    if run.state in TERMINAL:
        raise Conflict(
            f"Run {show_id(RUN, run_id)} has already ended as {run.state}. Only a run that has not ended can be "
            "cancelled.",
            code="run_not_cancellable",
        )
    if run.batch is None:
        with ctx.db.transaction() as tx:
            store.pass_over(tx, run_id, RunState.CANCELLED, {"code": "cancelled", "message": "It was cancelled."})
            record(tx, [Event(caller.tenant_id, "run", run_id, "cancelled", caller.actor)])
    else:
        batches.cancel_batch(ctx, caller, run_id)
    return get_own(ctx, caller, run_id)


def fail_due(ctx: Context, run: Run, error: BatchinferError) -> None:
    """A due run cannot begin: it ends as failed, with the reason."""
    with ctx.db.transaction() as tx:
        store.pass_over(tx, run.id, RunState.FAILED, error.as_dict())
