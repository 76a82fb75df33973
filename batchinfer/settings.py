"""One frozen settings object, read once from `BATCHINFER_*` and passed in. A bad value stops the start and says why."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from batchinfer.errors import SettingsError

PREFIX = "BATCHINFER_"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _check_hosts(text: str) -> str:
    for part in _split(text):
        if not _HOST.fullmatch(part):
            raise ValueError(f"{part!r} is no host; write example.org, *.example.org or *")
    return text


def _check_networks(text: str) -> str:
    for part in _split(text):
        ip_network(part)
    return text


def _check_sink_folders(text: str) -> str:
    for part in _split(text):
        if not part.startswith("/") or ".." in part.split("/"):
            raise ValueError(f"{part!r} is no folder; write whole paths, as /srv/results")
    return text


def _check_sink_buckets(text: str) -> str:
    for part in _split(text):
        if not _BUCKET.fullmatch(part):
            raise ValueError(f"{part!r} is no bucket; write s3://name or s3://name/folder")
    return text


def _check_source_folders(text: str) -> str:
    for part in _split(text):
        if not part.startswith(("/", "~/")) or ".." in part.split("/"):
            raise ValueError(f"{part!r} is no folder; write whole paths, as /data/in")
    return text


def _check_source_buckets(text: str) -> str:
    for part in _split(text):
        if not _SOURCE_BUCKET.fullmatch(part):
            raise ValueError(f"{part!r} is no bucket; write s3://team-a/* or s3://scans/in/*")
    return text


def _check_labels(text: str) -> str:
    for part in _split(text):
        if not _LABEL.fullmatch(part):
            raise ValueError(f"{part!r} is no label; write name=value")
    return text


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


_WEB = r"^https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._/-]*)?$"
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9a-f:.]+")
_BUCKET = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#]+(/[^\s?#]+)*/?")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,60}=[A-Za-z0-9._-]{1,200}")
_SOURCE_BUCKET = re.compile(r"[a-z][a-z0-9+.-]*://[^\s,]+")
Folder = Annotated[Path, AfterValidator(_absolute)]
#: Lists with commas.
Hosts = Annotated[str, AfterValidator(_check_hosts)]
Networks = Annotated[str, AfterValidator(_check_networks)]
SinkFolders = Annotated[str, AfterValidator(_check_sink_folders)]
SinkBuckets = Annotated[str, AfterValidator(_check_sink_buckets)]
SourceFolders = Annotated[str, AfterValidator(_check_source_folders)]
Labels = Annotated[str, AfterValidator(_check_labels)]
SourceBuckets = Annotated[str, AfterValidator(_check_source_buckets)]


class Settings(BaseSettings):
    """Every setting with its default, unit and meaning; docs/settings.md lists them and a test holds it true."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    home: Folder = Field(Path("~/.batchinfer"), description="Folder of everything that this host keeps.")
    database_url: SecretStr | None = Field(None, description="postgresql://… ; unset, `up` runs its own Postgres.")
    redis_url: SecretStr | None = Field(None, description="redis://… ; unset, `up` runs its own Valkey.")
    secret_key: SecretStr | None = Field(None, description="Signs the admin page's session cookie; `up` makes one.")
    host: str = Field("127.0.0.1", description="Address that the web server binds; loopback unless told otherwise.")
    port: int = Field(0, ge=0, le=65535, description="Port of the web server; 0 takes a free one.")
    web_threads: int = Field(16, ge=4, le=256, description="Threads of the web server; a quarter of them may wait.")
    proxies: int = Field(
        0, ge=0, le=8, description="Proxies before the web server whose X-Forwarded-For and -Proto are believed."
    )
    otlp_endpoint: str = Field(
        "", pattern=rf"^$|{_WEB}", description="OpenTelemetry collector (OTLP over HTTP) that spans go to; unset: none."
    )
    trace_ratio: float = Field(1.0, ge=0, le=1, description="Part of traces begun here, and of a batch's jobs, kept.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least level that is logged.")

    lease_ttl_s: float = Field(30.0, ge=1, le=3600, description="Silence after which a worker's lease is dead.")
    heartbeat_s: float = Field(5.0, ge=0.1, le=600, description="Time between two signs of life of a worker.")
    poll_s: float = Field(1.0, ge=0.02, le=60, description="Longest wait of a worker for an announcement.")
    reap_s: float = Field(5.0, ge=0.1, le=600, description="Time between two looks for dead leases.")
    watchdog_s: float = Field(120.0, ge=1, description="Longest time without an engine step before a worker ends.")
    warm_before_s: float = Field(
        600.0, ge=0, le=86400, description="Weights are read ahead so long before a schedule needs them; 0: never."
    )
    task_events: bool = Field(False, description="Workers tell Celery's tools, as Flower, how each job fares.")
    drain_s: float = Field(20.0, ge=0, description="Time that a stopping worker gives to what it runs.")
    cpu_affinity: bool = Field(True, description="Model workers keep to cores of their own, near their device.")
    reserve_cores: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Cores that they leave to the rest; unset: 0 of up to 4, 1 of up to 16, else 2.",
    )
    pressure_some: float = Field(
        40.0, ge=0, le=100, description="% of 10 s in which anything waited for memory: workers pause; 0: never."
    )
    pressure_full: float = Field(
        10.0, ge=0, le=100, description="% of 10 s in which everything waited for memory: workers pause; 0: never."
    )
    swap_in_mib_s: float = Field(
        32.0, ge=0, le=1_000_000, description="MiB read back from swap a second: workers pause; 0: never."
    )

    ageing_s: float = Field(60.0, ge=0, description="Wait after which a job of a later class has a share of its own.")
    aged_share: float = Field(0.125, ge=0, le=1, description="That share of what is claimed; 0 lets classes starve.")
    quota_jobs: int = Field(1_000_000, ge=1, description="Most jobs of a tenant that may wait and run at once.")
    key_requests_per_minute: int = Field(
        0, ge=0, le=1_000_000, description="Requests that a key may send in a minute unless it has its own; 0: any."
    )
    backlog_jobs: int = Field(5_000_000, ge=1, description="Most jobs of all tenants that may wait and run at once.")

    max_attempts: int = Field(3, ge=1, le=100, description="Tries that a job gets when an error may pass.")
    max_output_attempts: int = Field(2, ge=1, le=100, description="Tries when what the model said is no answer.")
    max_backoff_s: float = Field(60.0, ge=0, le=86400, description="Longest wait before another try.")
    max_crashes: int = Field(3, ge=1, le=100, description="Lost workers after which a job is quarantined.")
    default_max_tokens: int = Field(512, ge=1, description="max_tokens of a request that names none.")
    max_tokens: int = Field(32768, ge=1, description="Largest max_tokens that a request may ask for.")
    max_wait_s: float = Field(25.0, ge=0, le=110, description="Longest `?wait=` of a poll.")
    max_answer_s: float = Field(600.0, ge=1, le=86400, description="Longest wait of a chat completion or a response.")
    max_body_bytes: int = Field(64 * 2**20, ge=1024, description="Largest request body.")
    max_file_bytes: int = Field(512 * 2**20, ge=1024, description="Largest file that may be uploaded.")
    max_upload_bytes: int = Field(8 * 2**30, ge=1024, description="Largest file that may be uploaded in parts.")
    max_part_bytes: int = Field(64 * 2**20, ge=1024, description="Largest part of such a file.")
    upload_hours: float = Field(1.0, gt=0, le=720, description="Time in which all parts of a file must have come.")
    max_batch_bytes: int = Field(200 * 2**20, ge=1, description="Largest input file of a batch.")
    max_batch_lines: int = Field(50_000, ge=1, description="Most requests of a batch.")
    max_prompt_chars: int = Field(400_000, ge=1, description="Longest text of a request, all messages together.")
    max_images: int = Field(16, ge=1, description="Most pictures of one request.")
    max_image_pixels: int = Field(40_000_000, ge=1024, description="Most pixels of a picture, checked before decoding.")
    max_frames: int = Field(1, ge=1, description="Most frames of a picture (a TIFF is a document and has pages).")
    max_pages: int = Field(2000, ge=1, description="Most pages of a document.")
    max_side: int = Field(
        2048, ge=32, description="Longest side in pixels of what a model sees; larger is scaled down."
    )
    render_dpi: int = Field(144, ge=36, le=600, description="Resolution at which a page of a PDF is rendered.")
    thumbnail_side: int = Field(
        256,
        ge=0,
        le=1024,
        description="Longest side in pixels of what stays of a page when its job has ended; 0: none.",
    )
    sandbox_memory_mib: int = Field(1536, ge=256, description="Address space of a process that parses users' files.")
    sandbox_timeout_s: float = Field(30.0, ge=1, description="Time that one picture or page may take to be parsed.")
    office_command: str = Field(
        "soffice", description="LibreOffice, for DOCX, PPTX, XLSX and ODT; where it is not found they are refused."
    )
    office_timeout_s: float = Field(120.0, ge=1, description="Time that it may take to turn one document into pages.")
    office_memory_mib: int = Field(4096, ge=512, description="Address space of its process.")
    fetch_hosts: Hosts = Field(
        "", description="Hosts that pictures' addresses may lead to: example.org, *.example.org, or *; unset: none."
    )
    fetch_networks: Networks = Field("", description="Private networks that such hosts may be in, as 10.2.0.0/16.")
    fetch_max_bytes: int = Field(32 * 2**20, ge=1024, description="Largest file that is fetched.")
    fetch_timeout_s: float = Field(20.0, ge=0.1, le=600, description="Time that one fetch may take, all of it.")
    fetch_redirects: int = Field(3, ge=0, le=10, description="Most redirects of one fetch.")
    source_folders: SourceFolders = Field(
        "", description="Folders of the workers' hosts that runs may read, as /data/in,/mnt/scans; unset: none."
    )
    source_buckets: SourceBuckets = Field(
        "", description="Buckets that runs may read, as s3://team-a/*,s3://scans/in/*; unset: none."
    )
    s3_endpoint_url: str | None = Field(None, description="Address of S3's kind of storage, where it is not AWS's.")
    source_timeout_s: float = Field(30.0, gt=0, le=600, description="Time that a bucket has for one answer.")
    render_ahead_pages: int = Field(2000, ge=1, description="Pages of a run that may be rendered or waited for ahead.")
    render_ahead_mib: int = Field(4096, ge=1, description="Disk that the rendered pages of a run may take ahead.")
    keep_days: int = Field(30, ge=0, description="Days that jobs and results are kept; 0 keeps them for ever.")
    changes_days: int = Field(7, ge=1, description="Days that changes of state can be read and followed.")
    blob_grace_hours: float = Field(24.0, ge=2, description="How long an unused file is kept before it is removed.")
    snapshot_warn_s: float = Field(300.0, gt=0, description="Age of a database snapshot that is warned of.")
    snapshot_warn_xids: int = Field(5_000_000, ge=1, description="Transactions that a snapshot may lag behind.")
    delivery_hours: float = Field(24.0, gt=0, description="How long something is tried to be delivered outside.")
    webhook_timeout_s: float = Field(10.0, gt=0, le=60, description="Time that a webhook's receiver has to answer.")
    webhook_patience_hours: float = Field(24.0, gt=0, description="Failing so long disables a webhook endpoint.")
    webhook_http: bool = Field(False, description="Webhook endpoints may be http://, not https:// alone.")
    webhook_networks: Networks = Field(
        "", description="Private networks that webhooks may go to: 10.1.0.0/16, ::1/128."
    )
    sink_folders: SinkFolders = Field(
        "", description="Folders that results of runs may be written to, with what is below them; unset: none."
    )
    sink_buckets: SinkBuckets = Field(
        "", description="Buckets that they may be written to: s3://name or s3://name/folder; unset: none."
    )
    hub_url: str = Field(
        "https://huggingface.co", pattern=_WEB, description="Hub that models are fetched from, or a mirror of it."
    )
    modelscope_url: str = Field("https://modelscope.cn", pattern=_WEB, description="The same for ModelScope.")
    hub_networks: Networks = Field("", description="Private networks that these may be in, as 10.2.0.0/16.")
    hub_timeout_s: float = Field(
        60.0, ge=0.1, le=3600, description="Time that one request to a hub may take; what came by then is kept."
    )
    vllm_python: str = Field("", description="Python of an environment with vLLM, for the engines vllm and auto.")
    idempotency_hours: int = Field(48, ge=1, description="How long an idempotency key is remembered.")
    host_name: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,200}$", description="Name of this machine among the hosts; unset: its own."
    )
    host_labels: Labels = Field(
        "", description="Labels of this machine, as zone=north,gpu=l4, by which deployments choose it."
    )

    metrics_token: SecretStr | None = Field(
        None, description="Bearer token without which nobody reads metrics; unset: metrics_networks say who does."
    )
    metrics_networks: Networks = Field(
        "127.0.0.0/8, ::1/128", description="Networks that may read metrics while no token is set."
    )
    metrics_port: int = Field(
        0, ge=0, le=65435, description="Workers tell their metrics on the first free port from here on; 0: they do not."
    )
    metrics_host: str = Field("127.0.0.1", description="Address that they bind for it; loopback unless told otherwise.")

    @property
    def machine_name(self) -> str:
        """What this machine is called among the hosts."""
        return self.host_name or socket.gethostname()

    @property
    def machine_labels(self) -> dict[str, str]:
        """The labels of this machine by name."""
        return dict(part.split("=", 1) for part in _split(self.host_labels))

    @property
    def blobs_dir(self) -> Path:
        """Where bytes lie, by SHA-256; shared by every process that reads or writes pictures."""
        return self.home / "blobs"

    @property
    def models_dir(self) -> Path:
        """Where models lie that were fetched: a folder a model, in it one a revision."""
        return self.home / "models"

    @property
    def crumbs_dir(self) -> Path:
        """What each worker of this host is at, a small file a lease."""
        return self.home / "crumbs"

    @property
    def logs_dir(self) -> Path:
        """One log file a process."""
        return self.home / "logs"

    @property
    def keep_ratio(self) -> float:
        """Which part of the traces that begin here is kept: none where nobody takes them."""
        return self.trace_ratio if self.otlp_endpoint else 0.0

    def require_database_url(self) -> str:
        """The database URL for SQLAlchemy with psycopg 3.

        Raises SettingsError where it is unset or not Postgres.
        """
        url = self.database_url.get_secret_value() if self.database_url else ""
        if not url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            raise SettingsError(
                f"{PREFIX}DATABASE_URL must be a postgresql:// address. Set it, or start with `batchinfer up`."
            )
        return "postgresql+psycopg://" + url.split("://", 1)[1]

    def require_redis_url(self) -> str:
        """The address of Redis or Valkey. Raises SettingsError where it is unset: Celery would look for RabbitMQ."""
        url = self.redis_url.get_secret_value() if self.redis_url else ""
        if not url.startswith(("redis://", "rediss://")):
            raise SettingsError(
                f"{PREFIX}REDIS_URL must be a redis:// or rediss:// address. Set it, or start with `batchinfer up`."
            )
        return url


@dataclass(frozen=True)
class SettingRow:
    """A setting for people: its variable, what is in force and the default as text, where it comes from (environment,
    default, or the command that started this), and what it means. A secret is "set" or "unset"."""

    name: str
    variable: str
    value: str
    default: str
    source: str
    meaning: str


def list_settings(settings: Settings) -> list[SettingRow]:
    """Every setting, in the order in which they are declared; secrets never in clear."""
    return [
        SettingRow(
            name,
            PREFIX + name.upper(),
            _show(getattr(settings, name)),
            _show(field.default),
            _find_source(PREFIX + name.upper(), getattr(settings, name) == field.default),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _find_source(variable: str, is_default: bool) -> str:
    return "environment" if variable in os.environ else "default" if is_default else "command"


def _show(value: object) -> str:
    if value is None:
        return "unset"
    return "set" if isinstance(value, SecretStr) else str(value)


def load_settings(**overrides: object) -> Settings:
    """Read the environment once. Raises SettingsError with the variable, what is wrong and what is allowed."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(
            f"{name}: {first['msg']}. Correct or unset it; docs/settings.md lists every setting."
        ) from None
