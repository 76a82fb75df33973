"""What may stand in paths and queries, and what an answer says of what may not."""

from __future__ import annotations

import functools
from datetime import date
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from batchinfer.domain.fields import check_text, refuse, refuse_unknown
from batchinfer.domain.jobs import JobClass, JobState


def _check_word(text: str | None, info: ValidationInfo) -> str | None:
    """Refuse a NUL, which Postgres cannot take. Raises BadRequest, which pydantic lets through."""
    check_text(text or "", info.field_name or "query")
    return text


Word = Annotated[str, AfterValidator(_check_word), Field(max_length=256)]
Limit = Annotated[int, Field(ge=1, le=100, description="How many at most: a whole number from 1 to 100.")]
_SECONDS = "seconds since 1970, a number from 0 to 10 to the 10th."
Seconds = Annotated[float | None, Field(ge=0, le=1e10, allow_inf_nan=False)]
After = Annotated[Word | None, Field(description="The `last_id` of the page before: an id of this list.")]


class Parameters(BaseModel):
    """Paths and queries. What is not known is refused."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Made once: the router asks for it with every request."""
        return _make_schema(cls, args, tuple(kwargs.items()))


@functools.cache
def _make_schema(model: type[Parameters], args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return super(Parameters, model).model_json_schema(*args, **dict(kwargs))


class JobPath(Parameters):
    """The id of a job."""

    job_id: str = Field(description="As the submission answered it.", examples=["job_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class DocumentPath(Parameters):
    """The id of a document."""

    document_id: str = Field(
        description="As the submission answered it.", examples=["doc_0192f1c07d6a7b3e8f00c0ffee00c0de"]
    )


class ResponsePath(Parameters):
    """The id of a response."""

    response_id: str = Field(
        description="As it was created, or resp_ and the digits of a job.",
        examples=["resp_0192f1c07d6a7b3e8f00c0ffee00c0de"],
    )


class FilePath(Parameters):
    """The id of a file."""

    file_id: str = Field(description="As the upload answered it.", examples=["file-0192f1c07d6a7b3e8f00c0ffee00c0de"])


class UploadPath(Parameters):
    """The id of a file that comes in parts."""

    upload_id: str = Field(description="As it was begun.", examples=["upload_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class BatchPath(Parameters):
    """The id of a batch."""

    batch_id: str = Field(description="As it was created.", examples=["batch_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class EndpointPath(Parameters):
    """The id of a webhook endpoint."""

    endpoint_id: str = Field(description="As it was created.", examples=["we_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class DeliveryPath(EndpointPath):
    """The id of a delivery to a webhook endpoint."""

    delivery_id: str = Field(description="As it is listed.", examples=["whd_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class KeyPath(Parameters):
    """The id of an API key."""

    key_id: str = Field(description="As it was created.", examples=["key_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class ActPath(Parameters):
    """The id of an act on many jobs."""

    act_id: str = Field(description="As it was created.", examples=["bulk_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class RunPath(Parameters):
    """The id of a run."""

    run_id: str = Field(description="As it was created.", examples=["run_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class SchedulePath(Parameters):
    """The id of a schedule."""

    schedule_id: str = Field(description="As it was created.", examples=["sched_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class TemplatePath(Parameters):
    """The id of a prompt template."""

    template_id: str = Field(description="As it was created.", examples=["tmpl_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class SampledPath(RunPath):
    """The id of a run, and of a page of its sample."""

    job_id: str = Field(description="As the sample lists it.", examples=["job_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class GoldenPath(Parameters):
    """The id of a golden prompt."""

    golden_id: str = Field(description="As it is listed.", examples=["gold_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class ModelPath(Parameters):
    """The name of a model; it may hold slashes."""

    model: Word = Field(description="A name that GET /v1/models lists.", examples=["docreader"])


class RevisionPath(ModelPath):
    """The hash of a revision of a model."""

    revision: Word = Field(
        description="As GET /v1/models/{model}/revisions lists it, or its first digits.", examples=["9f86d081884c7d65"]
    )


class DeploymentPath(Parameters):
    """The id of a deployment."""

    deployment_id: str = Field(description="As it was launched.", examples=["dep_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class ReplicaPath(Parameters):
    """The id of a replica."""

    replica_id: str = Field(description="As it is listed.", examples=["rep_0192f1c07d6a7b3e8f00c0ffee00c0de"])


class HostPath(Parameters):
    """The name of a host."""

    host: Word = Field(description="A name that GET /v1/hosts lists.", examples=["gpu-1"])


class WaitQuery(Parameters):
    """How long to wait for the end."""

    wait: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for the job to end: a number, 0 or more. The server waits at most "
        "its setting max_wait_s, 25 unless changed.",
    )


class PageQuery(Parameters):
    """Which page of a list, newest first."""

    limit: Limit = 20
    after: After = None


class KeysQuery(PageQuery):
    """Which keys, newest first."""

    tenant: Word | None = Field(None, description="Keys of this tenant: its name. Only the operator's keys.")


class AuditQuery(PageQuery):
    """Which acts, newest first."""

    action: Word | None = Field(None, description="Acts of this kind: key.create, or key for all on keys.")


class FleetEventsQuery(PageQuery):
    """Which events of the fleet, newest first."""

    subject: Literal["model", "deployment", "replica", "host"] | None = Field(
        None, description="Events of this kind of thing: one of model, deployment, replica, host."
    )
    deployment: Word | None = Field(None, description="Events of this deployment: an id that begins with dep_.")


class JobsQuery(PageQuery):
    """Which jobs, newest first."""

    status: JobState | None = Field(None, description=f"Jobs in this state: one of {', '.join(JobState)}.")
    model: Word | None = Field(None, description="Jobs of this model: its name.")
    job_class: JobClass | None = Field(
        None, alias="class", description=f"Jobs of this class: one of {', '.join(JobClass)}."
    )
    document: Word | None = Field(None, description="Page jobs of this document: an id that begins with doc_.")
    batch: Word | None = Field(None, description="Jobs of this batch: an id that begins with batch_.")
    created_from: Seconds = Field(None, description=f"Jobs made then or later: {_SECONDS}")
    created_before: Seconds = Field(None, description=f"Jobs made before that: {_SECONDS}")
    metadata: Annotated[str | None, AfterValidator(_check_word)] = Field(
        None,
        max_length=16_384,
        description='Jobs that have all these pairs: a JSON object of texts, {"customer": "a"} for example.',
    )


class ItemsQuery(PageQuery):
    """Which lines of a batch, in the order of its file."""

    status: JobState | None = Field(None, description=f"Lines in this state: one of {', '.join(JobState)}.")
    code: Word | None = Field(None, description="Lines that ended with this code, as `errors` of the batch has it.")
    custom_id: Word | None = Field(None, description="The line of this name.")


class RunsQuery(PageQuery):
    """Which runs, newest first."""

    schedule_id: Word | None = Field(None, description="Runs of this schedule: an id that begins with sched_.")


class RunDocumentsQuery(PageQuery):
    """Which documents of a run, as they were listed."""

    stage: Word | None = Field(None, description="Documents in this stage: one of listed, queued, closed, skipped.")
    outcome: Word | None = Field(
        None,
        description="Documents that ended so: one of completed, completed_with_errors, failed, cancelled, expired.",
    )


class NextQuery(Parameters):
    """How many instants of a schedule."""

    n: int = Field(5, ge=1, le=100, description="How many: a whole number from 1 to 100.")


class SampleQuery(PageQuery):
    """Which pages of a sample, in the order of its drawing."""

    verdict: Literal["right", "wrong", "none"] | None = Field(
        None, description="Pages that are judged so: right or wrong; none: those that nobody has judged."
    )


class ReportQuery(Parameters):
    """How a report is shown."""

    form: Literal["json", "html"] | None = Field(
        None, alias="format", description="json or html; as `Accept` says if left out, and else JSON."
    )


class EventsQuery(Parameters):
    """Which events, oldest first."""

    limit: Limit = 20
    after: Word | None = Field(
        None, description="The `next_after` of the page before, the id of an event, or `now`: nothing of before."
    )


class UsageQuery(Parameters):
    """Usage of which days, and by what."""

    group_by: Word = Field("day", description="What to add up by: some of day, model, key, schedule, with commas.")
    since: date | None = Field(None, alias="from", description="The first day, as 2026-11-30, of UTC.")
    until: date | None = Field(None, alias="to", description="The last day, as 2026-11-30, of UTC.")
    model: Word | None = Field(None, description="Usage of this model: its name.")
    key: Word | None = Field(None, description="Usage of this key: an id that begins with key_.")


class FilesQuery(Parameters):
    """Which files."""

    limit: int = Field(10_000, ge=1, le=10_000, description="How many at most: a whole number from 1 to 10000.")
    after: After = None
    order: Literal["asc", "desc"] = Field("desc", description="desc: newest first; asc: oldest first.")
    purpose: Word | None = Field(None, description="Files of this purpose.")


class LinesQuery(Parameters):
    """What stands beside lines that are a body. `domain.batches` reads it."""

    endpoint: Word | None = Field(None, description="What every line asks for; /v1/jobs unless set.")
    completion_window: Word | None = Field(None, description="24h unless set, or any time up to 30 days.")
    priority: Word | None = Field(None, description="low (unless set), normal or high.")
    cache: Word | None = Field(None, description="Of those lines that do not say: off, reuse, refresh, reuse_any.")
    metadata: str | None = Field(None, description="Pairs of texts, as an object of JSON.")
    output_expires_s: int | None = Field(None, description="Seconds after which its output expires.")


def refuse_query(error: ValidationError) -> NoReturn:
    """Raise BadRequest for the first thing that is wrong: the name of the parameter and what it takes."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    known = {
        model.__name__: {field.alias or name: field for name, field in model.model_fields.items()}
        for model in _list_kinds(Parameters)
    }
    fields = known.get(error.title, {})
    if first["type"] == "extra_forbidden":
        refuse_unknown([name], fields)
    refuse(name, f"is not valid. {fields[name].description or ''}".strip())


def _list_kinds(parent: type[Parameters]) -> list[type[Parameters]]:
    """Every path and query there is."""
    return [kind for child in parent.__subclasses__() for kind in (child, *_list_kinds(child))]
