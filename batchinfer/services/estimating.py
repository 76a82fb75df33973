"""A dry run of a batch: every line looked at, nothing made, and what it may take by what was measured here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from batchinfer.domain.ids import FILE, parse_id
from batchinfer.services.batches import check_file
from batchinfer.services.findings import Findings, LineForm, check_lines, refuse_file
from batchinfer.services.userfiles import make_missing
from batchinfer.store import measuring, userfiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.domain.batch_lines import Line
    from batchinfer.domain.batches import BatchRequest
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.measuring import Measured

#: Jobs below which nothing is said: a mean of a handful is a guess.
LEAST_JOBS = 20


@dataclass
class Demand:
    """What the lines for one model ask for. `files` are pictures, and documents of any number of pages."""

    model: str
    requests: int = 0
    files: int = 0
    max_output_tokens: int = 0

    def add(self, line: Line) -> None:
        """Count a line."""
        self.requests += 1
        self.files += len(line.job.uploads)
        self.max_output_tokens += line.job.max_tokens


@dataclass(frozen=True)
class Estimate:
    """What a demand may take. Without a basis (`jobs` below LEAST_JOBS) tokens and seconds are None.

    `basis_jobs` and `basis_minutes` are the jobs of the last day on which it rests, and the minutes they ended in.
    """

    demand: Demand
    basis_jobs: int
    basis_minutes: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Validation:
    """What a dry run found: faults, and an estimate a model."""

    findings: Findings
    estimates: list[Estimate] = field(default_factory=list)


def validate_file(ctx: Context, caller: Caller, request: BatchRequest) -> Validation:
    """Look at a file as its batch would. Raises NotFound (code file_not_found), BadRequest, Unavailable."""
    caller.require("submit")
    file_id = parse_id(FILE, request.input_file_id or "")
    with ctx.db.transaction() as tx:
        check_file(tx, caller, file_id)
        source = userfiles.find_source(tx, caller.tenant_id, file_id)
    if source is None or not ctx.blobs.exists(caller.tenant_id, source.blob):
        raise make_missing()
    if source.size_bytes > ctx.settings.max_batch_bytes:
        raise refuse_file(ctx.settings.max_batch_bytes)
    with ctx.blobs.open(caller.tenant_id, source.blob) as file:
        return validate_lines(ctx, caller, request, file)


def validate_lines(
    ctx: Context,
    caller: Caller,
    request: BatchRequest,
    lines: BinaryIO,
    wanted: Callable[[], bool] = lambda: True,
) -> Validation:
    """Look at lines as a batch of them would, and forget them. Raises Unavailable, and what reading them raises."""
    caller.require("submit")
    demands: dict[str, Demand] = {}

    def count(line: Line) -> None:
        demands.setdefault(line.job.model, Demand(line.job.model)).add(line)

    form = LineForm(caller.tenant_id, request.endpoint, request.job_class)
    findings = check_lines(ctx, form, lines, wanted, count) or Findings()
    with ctx.db.transaction() as tx:
        measured = [measuring.measure(tx, caller.tenant_id, model) for model in demands]
    return Validation(findings, [estimate(*pair) for pair in zip(demands.values(), measured, strict=True)])


def estimate(demand: Demand, measured: Measured) -> Estimate:
    """What a demand may take, by the means of what was measured; behind what waits already."""
    if measured.jobs < LEAST_JOBS:
        return Estimate(demand, measured.jobs, measured.minutes)
    share = demand.requests / measured.jobs
    rate = measured.jobs / (60.0 * measured.minutes)
    return Estimate(
        demand,
        measured.jobs,
        measured.minutes,
        input_tokens=round(measured.prompt_tokens * share),
        output_tokens=min(round(measured.completion_tokens * share), demand.max_output_tokens),
        seconds=round((measured.waiting + demand.requests) / rate, 1),
    )
