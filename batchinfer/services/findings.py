"""A first look at the lines of a batch: each is parsed as it will be when it is made a job, and what is wrong is noted.

Lines are read one at a time and forgotten; what stays is a digest of each custom id.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, BinaryIO

from batchinfer.domain.batch_items import ALL, Selection
from batchinfer.domain.batch_lines import Line, parse_line, show_field
from batchinfer.domain.batches import MAX_ERRORS
from batchinfer.domain.limits import Limits
from batchinfer.errors import BadRequest, BatchinferError, NotFound, TooLarge, Unsupported
from batchinfer.services.files import find_type, pin_files
from batchinfer.services.models import find_model, make_unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from batchinfer.domain.jobs import JobClass
    from batchinfer.domain.reuse import Reuse
    from batchinfer.services.context import Context


@dataclass(frozen=True)
class LineForm:
    """What every line of a batch is: a tenant's request for this endpoint, of this class and with this use of kept
    answers where it names none. Others than those of `selection` are as if they were not there."""

    tenant_id: UUID
    endpoint: str
    job_class: JobClass
    cache: Reuse | None = None
    selection: Selection = ALL


@dataclass
class Findings:
    """What a first look brought: how many requests, of which models, and what is wrong."""

    total: int = 0
    models: dict[str, bool] = field(default_factory=dict)
    #: Digests of the custom ids so far: of a fixed size, however long the ids are.
    names: set[bytes] = field(default_factory=set)
    #: The first MAX_ERRORS faults, as a batch tells of them, and how many there are.
    errors: list[dict[str, Any]] = field(default_factory=list)
    faults: int = 0

    @property
    def model(self) -> str | None:
        """The one model of all requests, or None."""
        return next(iter(self.models)) if len(self.models) == 1 else None

    def add(self, error: BatchinferError, line: int | None) -> None:
        """Note what is wrong with a line, or with the whole file."""
        self.faults += 1
        if len(self.errors) < MAX_ERRORS:
            told = {"code": error.code, "line": line, "message": error.message, "param": error.param}
            self.errors.append(told)


def iterate_lines(file: BinaryIO, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(number, line) of those that are not blank. A line that is longer comes as its first `most_bytes` + 1 bytes."""
    number = 0
    while raw := file.readline(most_bytes + 1):
        number += 1
        rest = raw
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(2**20)
        if raw.strip():
            yield number, raw


def check_lines(
    ctx: Context,
    form: LineForm,
    file: BinaryIO,
    wanted: Callable[[], bool],
    on_line: Callable[[Line], None] = lambda _: None,
) -> Findings | None:
    """Look at every line; `on_line` is told the good ones. None where nobody wants it any more. Raises Unavailable."""
    settings, limits, findings = ctx.settings, Limits.of(ctx.settings), Findings()
    for number, raw in iterate_lines(file, settings.max_body_bytes):
        if not wanted():
            return None
        if not form.selection.takes(number):
            continue
        findings.total += 1
        if findings.total > settings.max_batch_lines:
            most = f"The file has over {settings.max_batch_lines:,} requests. Make several batches of it."
            findings.add(TooLarge(most, code="too_many_requests_in_file"), number)
            break
        try:
            line = parse_one(ctx, form, raw, number, limits)
            _check_line(ctx, form, line, findings)
        except BatchinferError as error:
            if error.retry_helps:
                raise
            findings.add(error, number)
        else:
            on_line(line)
    if not findings.total:
        findings.add(BadRequest("The file has no request in it.", code="empty_file"), None)
    return findings


def refuse_file(most_bytes: int) -> TooLarge:
    """The error for an input of a batch that is over the limit."""
    return TooLarge(
        f"The file is over the limit of {most_bytes:,} bytes. Make several batches of it.", code="file_too_large"
    )


def _check_line(ctx: Context, form: LineForm, line: Line, findings: Findings) -> None:
    name = blake2b(line.custom_id.encode(), digest_size=16).digest()
    if name in findings.names:
        raise BadRequest("An earlier line has the same custom_id.", code="duplicate_custom_id", param="custom_id")
    findings.names.add(name)
    model = line.job.model
    if model not in findings.models:
        findings.models[model] = find_model(ctx, model) is not None
    if not findings.models[model]:
        error = make_unknown(model)
        raise NotFound(error.message, code=error.code, param=show_field(form.endpoint, "model"))
    try:
        for upload in pin_files(ctx, form.tenant_id, line.job.uploads):
            find_type(upload)
    except (BadRequest, NotFound, Unsupported) as error:
        raise type(error)(error.message, code=error.code, param=show_field(form.endpoint, error.param)) from None


def parse_one(ctx: Context, form: LineForm, raw: bytes, number: int, limits: Limits) -> Line:
    """A line as it becomes a job. Raises TooLarge (code line_too_large), BadRequest, BadImage."""
    if len(raw) > ctx.settings.max_body_bytes:
        raise TooLarge(f"The line is over {ctx.settings.max_body_bytes:,} bytes.", code="line_too_large")
    line = parse_line(raw, number, endpoint=form.endpoint, limits=limits, job_class=form.job_class)
    if form.cache is None or line.job.cache is not None:
        return line
    return replace(line, job=replace(line.job, cache=form.cache))
