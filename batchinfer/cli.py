"""The command line: one verb a command. What goes wrong is one line with the remedy, never a traceback."""

from __future__ import annotations

import os
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import click
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from batchinfer import __version__
from batchinfer.errors import BatchinferError, SettingsError, Unavailable
from batchinfer.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from batchinfer.services.context import Caller, Context
    from batchinfer.services.scheduling import ShownPause


#: Exit statuses: done, could not be done, was asked wrongly.
DONE, FAILED, MISUSED = 0, 1, 2
HOME = click.option("--home", type=click.Path(path_type=Path), help="Folder of everything that this host keeps.")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """The console script."""
    try:
        cli.main(arguments, prog_name="batchinfer", standalone_mode=False)
        sys.exit(DONE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BatchinferError as error:
        err.print(f"[red]{escape(error.message)}[/red]")
        sys.exit(MISUSED if isinstance(error, SettingsError) else FAILED)


@click.group()
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Asynchronous batch inference for vision-language models."""


@cli.command()
@HOME
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the web server; 0 takes a free one.")
@click.option("--engine", type=click.Choice(["auto", "transformers", "fake"]), default="auto", show_default=True)
@click.option("--model", metavar="NAME|DIR", help="A model folder, or its name under home/models.")
@click.option("--cpu-workers", metavar="N|auto", default="auto", show_default=True, help="Processes that open files.")
@click.option("--reload", is_flag=True, help="Start web and workers anew when the code changes.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="JSON with url, api_key and pids, once all work.")
def up(home: Path | None, port: int | None, cpu_workers: str, ready_file: Path | None, **wishes: Any) -> None:
    """Run the whole service on this machine, until Ctrl-C."""
    from batchinfer.stack.up import Wishes, run_up

    if cpu_workers != "auto" and not (cpu_workers.isdecimal() and 1 <= int(cpu_workers) <= 256):
        raise click.BadParameter("a number from 1 to 256, or auto", param_hint="--cpu-workers")
    settings = _load(home, **({} if port is None else {"port": port}))
    place = ready_file.expanduser().absolute() if ready_file else None
    run_up(settings, Wishes(cpu_workers=cpu_workers, ready_file=place, **wishes), _say)


@cli.command()
@HOME
def migrate(home: Path | None) -> None:
    """Bring the database to this release's schema."""
    from batchinfer.stack.running import find_servers
    from batchinfer.store.migrate import upgrade

    upgrade(find_servers(_load(home)).require_database_url())
    _say("The database has this release's schema.")


@cli.command()
def demo() -> None:
    """The main job, told while it runs: documents in, a worker killed half way, nothing lost."""
    os.execv(sys.executable, [sys.executable, "-m", "batchinfer.demo"])  # noqa: S606 - no shell is wanted


@cli.command()
def settings() -> None:
    """Every setting: what is in force, the default, and where it comes from."""
    rows = [("variable", "in force", "default", "from"), *_setting_rows(load_settings())]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        out.print(escape("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()))


@cli.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@HOME
@click.option("--name", default="cli", show_default=True, help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, help="What it may do; several times for more; all if left out.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires.")
def create_key(home: Path | None, name: str, scopes: tuple[str, ...], days: float | None) -> None:
    """Make a key and show it, this once."""
    from batchinfer.services import keys as service
    from batchinfer.services.context import SCOPES

    with _context(home) as ctx:
        service.ensure_default_tenant(ctx)
        expires_in_s = None if days is None else days * 86400
        key, token = service.create_key(ctx, name, scopes or SCOPES, expires_in_s=expires_in_s)
    out.print(token)
    err.print(f"May: {_words(key.scopes)}. Only its hash is stored: it cannot be shown again.")


@keys.command("list")
@HOME
def list_keys(home: Path | None) -> None:
    """The keys there are, without their secrets."""
    from batchinfer.domain.ids import DEFAULT_TENANT, KEY, show_id
    from batchinfer.store import keys as store

    with _context(home) as ctx, ctx.db.transaction() as tx:
        for key in store.list_keys(tx, DEFAULT_TENANT):
            state = "valid" if key.valid else "ended"
            out.print(escape(f"{show_id(KEY, key.id)}  {state}  bi_{key.prefix}_…  {key.name}  {_words(key.scopes)}"))


@keys.command("revoke")
@HOME
@click.argument("key_id")
def revoke_key(home: Path | None, key_id: str) -> None:
    """End a key at once; its id is in `keys list`."""
    from batchinfer.services import keys as service

    with _context(home) as ctx:
        ended = service.revoke_key(ctx, _operator(), key_id)
    _say("Revoked." if ended else "It had ended before.")


@cli.group()
def models() -> None:
    """Models."""


@models.command("add")
@HOME
@click.argument("model", required=False, metavar="[NAME|DIR]")
def add_model(home: Path | None, model: str | None) -> None:
    """Make a model folder known, so that jobs may name it and workers load it; the bundled one if left out."""
    from batchinfer.services import models as service
    from batchinfer.stack.models import find_model

    folder = find_model(model, _load(home).home, fake=False)
    with _context(home) as ctx:
        service.register_model(ctx, folder.name, str(folder.path), folder.revision, folder.facts)
        service.ensure_deployment(ctx, folder.name)
    _say(f"{folder.name} is known, revision {folder.revision}.")


@models.command("verify")
@HOME
@click.argument("model", metavar="NAME|DIR")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one JSON object and nothing else.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--try", "attempt", default="", metavar="FEATURE,...", help="Test what is off by default as well.")
def verify_model(home: Path | None, model: str, as_json: bool, device: str, dtype: str, attempt: str) -> None:
    """Load a model and tell which optimisations answer as `generate` does; ends with 1 where no engine serves it."""
    folder = _find_folder(home, model)
    command = [sys.executable, "-m", "workers.engine.verify", str(folder), "--device", device, "--dtype", dtype]
    command += ["--try", attempt]
    os.execv(sys.executable, [*command, *(["--json"] if as_json else [])])  # noqa: S606 - no shell is wanted


@cli.group()
def queue() -> None:
    """What waits: pause it, resume it, look at it."""


_TENANT = click.option("--tenant", help="A tenant's name; all tenants if left out.")
_MODEL = click.option("--model", help="A model's name; all models if left out.")


@queue.command("show")
@HOME
def show_queue(home: Path | None) -> None:
    """What waits and runs of the first tenant, every pause, and the limits."""
    from batchinfer.services import quotas, scheduling

    with _context(home) as ctx:
        state, quota = scheduling.read_queue(ctx, _operator()), quotas.read_quota(ctx, _operator())
    for row in state.waiting:
        waits = f"{row.waiting:>9,} waiting {row.running:>7,} running"
        out.print(escape(f"{row.kind:<8} {row.job_class:<12} {waits}  {row.model}"))
    out.print(f"{quota.jobs:,} of at most {quota.max_jobs:,}; all tenants {quota.backlog:,} of {quota.max_backlog:,}")
    _show_pauses(state.pauses)


@queue.command("pause")
@HOME
@_TENANT
@_MODEL
def pause_queue(home: Path | None, tenant: str | None, model: str | None) -> None:
    """Begin nothing more of a tenant, a model, both or all; what runs ends as it would."""
    from batchinfer.services import scheduling

    with _context(home) as ctx:
        _show_pauses(scheduling.pause(ctx, _operator(), tenant=tenant, model=model))


@queue.command("resume")
@HOME
@_TENANT
@_MODEL
def resume_queue(home: Path | None, tenant: str | None, model: str | None) -> None:
    """End the pause of exactly this tenant, model, both or all."""
    from batchinfer.services import scheduling

    with _context(home) as ctx:
        _show_pauses(scheduling.resume(ctx, _operator(), tenant=tenant, model=model))


def _show_pauses(pauses: Iterable[ShownPause]) -> None:
    for pause in pauses:
        who, what = pause.tenant or "every tenant", pause.model or "every model"
        _say(f"paused: {who}, {what}, since {pause.created_at.isoformat(timespec='seconds')} by {pause.actor}")
    if not pauses:
        _say("Nothing is paused.")


@cli.group()
def jobs() -> None:
    """Jobs."""


@jobs.command("list")
@HOME
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--state", help="Only those in this state, quarantined for example.")
def list_jobs(home: Path | None, limit: int, state: str | None) -> None:
    """The newest jobs."""
    from batchinfer.domain.ids import JOB, show_id
    from batchinfer.domain.jobs import JobState
    from batchinfer.services import jobs as service

    if state is not None and state not in list(JobState):
        raise click.BadParameter(f"one of {', '.join(JobState)}", param_hint="--state")
    wanted = JobState(state) if state is not None else None
    with _context(home) as ctx:
        for job in service.list_jobs(ctx, _operator(), state=wanted, limit=limit).data:
            created = job.created_at.isoformat(timespec="seconds")
            out.print(f"{show_id(JOB, job.id)}  {job.state:<11}  {created}  {escape(job.model)}")


@jobs.command("show")
@HOME
@click.argument("job_id")
def show_job(home: Path | None, job_id: str) -> None:
    """One job and what it answered."""
    from batchinfer.domain.ids import JOB, parse_id
    from batchinfer.services import jobs as service

    with _context(home) as ctx:
        job = service.get_job(ctx, _operator(), parse_id(JOB, job_id))
    facts = {"status": job.state, "model": job.model, "attempts": job.attempts, "crashes": job.crashes}
    facts |= {"usage": job.usage, "error": job.error}
    for name, value in facts.items():
        out.print(escape(f"{name:<9} {value}"))
    if job.result:
        out.print(escape(str(job.result["text"])))


@jobs.command("release")
@HOME
@click.argument("job_id")
def release_job(home: Path | None, job_id: str) -> None:
    """Let a quarantined job run once more, alone; `jobs list --state quarantined` shows them."""
    from batchinfer.domain.ids import JOB, parse_id
    from batchinfer.services import jobs as service

    with _context(home) as ctx:
        job = service.release_job(ctx, _operator(), parse_id(JOB, job_id))
    _say(f"Released: it is {job.state} again.")


def _find_folder(home: Path | None, model: str) -> Path:
    """A model's folder: on disk as `up` finds it, or where the running service knows it. Raises StartError."""
    from batchinfer.errors import StartError
    from batchinfer.services.models import find_model as find_known
    from batchinfer.stack.models import find_model

    try:
        folder = find_model(model, _load(home).home, fake=False).path
    except StartError:
        with suppress(StartError, Unavailable), _context(home) as ctx:
            known = find_known(ctx, model)
            if known is not None and (Path(known.path) / "config.json").is_file():
                return Path(known.path)
        raise
    return cast("Path", folder)


def _operator() -> Caller:
    """Whoever may read the home may do all in its tenant."""
    from batchinfer.domain.ids import DEFAULT_TENANT
    from batchinfer.services.context import SCOPES, Caller

    return Caller(DEFAULT_TENANT, UUID(int=0), "the command line", frozenset(SCOPES))


def _words(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _load(home: Path | None, **overrides: Any) -> Settings:
    return load_settings(**overrides, **({} if home is None else {"home": home}))


def _context(home: Path | None) -> AbstractContextManager[Context]:
    from batchinfer.services.context import open_context
    from batchinfer.stack.running import find_servers

    return closing(open_context(find_servers(_load(home)), name="batchinfer-cli", pool_size=1))


def _setting_rows(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    """Variable, value in force, default and source; secrets never in clear."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        shown = "unset" if value is None else "set" if isinstance(value, SecretStr) else str(value)
        default = "unset" if field.default is None else str(field.default)
        variable = PREFIX + name.upper()
        source = "environment" if variable in os.environ else "default"
        yield variable, shown, default, source


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads any more: no reason to end
        out.print(escape(line))


if __name__ == "__main__":
    main()
