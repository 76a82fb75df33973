"""The client: a service's nouns, and the verbs that most people need."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from batchinfer.client.acts import Acts
from batchinfer.client.batches import Batches
from batchinfer.client.deployments import Deployments, Hosts
from batchinfer.client.files import Files
from batchinfer.client.folders import find_files
from batchinfer.client.jobs import Documents, Jobs
from batchinfer.client.journal import Journal
from batchinfer.client.mapping import Flow, Item, Outcome
from batchinfer.client.models import Models
from batchinfer.client.nouns import Batch, Document, Job
from batchinfer.client.reviews import Goldens, Reviews
from batchinfer.client.runs import Runs
from batchinfer.client.schedules import Schedules
from batchinfer.client.submission import make_body, make_form, name_fields, read_parts
from batchinfer.client.sweep import Sweep
from batchinfer.client.templates import Templates
from batchinfer.client.transport import Patience, Transport
from batchinfer.client.usage import Usage
from batchinfer.errors import BadRequest, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Unpack

    from batchinfer.client.progress import Display
    from batchinfer.client.submission import Options, Part, Source

Thing = TypeVar("Thing", bound="Job | Document | Batch")
URL, KEY = "BATCHINFER_URL", "BATCHINFER_API_KEY"


class Client:
    """Speaks with one service, from any number of threads. Close it, or use it in a `with`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        patience_s: float = 120.0,
        timeout_s: float = 60.0,
    ) -> None:
        """Address and key, else those of `BATCHINFER_URL` and `BATCHINFER_API_KEY`.

        `patience_s`: how long a request is tried again while the service is away or full; `timeout_s`: how long one
        try may be silent. Raises SettingsError.
        """
        address, key = url or os.environ.get(URL), api_key or os.environ.get(KEY)
        if not address or not key:
            raise SettingsError(f"No {'address' if not address else 'key'} of a service. Set {URL} and {KEY}.")
        self._patience_s, self.url = patience_s, address
        self._transport = Transport(address, key, patience=Patience(patience_s, patience_s), timeout_s=timeout_s)
        self.jobs = Jobs(self._transport)
        self.acts = Acts(self._transport)
        self.documents = Documents(self._transport)
        self.files = Files(self._transport)
        self.batches = Batches(self._transport)
        self.models = Models(self._transport)
        self.deployments = Deployments(self._transport)
        self.hosts = Hosts(self._transport)
        self.usage = Usage(self._transport)
        self.runs = Runs(self._transport)
        self.schedules = Schedules(self._transport)
        self.templates = Templates(self._transport)
        self.reviews = Reviews(self._transport)
        self.goldens = Goldens(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def submit(
        self,
        prompt: str,
        files: Source | Sequence[Source] | None = None,
        *,
        model: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Job | Document:
        """Submit a prompt, with pictures or one PDF or TIFF (paths or bytes); the latter answers with a document, all
        else with a job. Without `model` it is one that is ready. It does not wait.

        Raises BadRequest, TooLarge, Unsupported, Busy and NotFound (no model), OSError.
        """
        parts, name = read_parts(files), model or self.models.find_ready().id
        if not parts:
            messages = [{"role": "user", "content": prompt}]
            return self._make(make_body(name, messages, options), idempotency_key)
        return self._make(make_form(name, prompt, parts, options), idempotency_key)

    def submit_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Job | Document:
        """The same with messages as OpenAI writes them."""
        return self._make(make_body(model or self.models.find_ready().id, messages, options), idempotency_key)

    def wait(self, thing: Thing, timeout_s: float | None = None) -> Thing:
        """A job, document or batch once it has ended, however it did. Raises Overrun after `timeout_s` seconds."""
        ended: Job | Document | Batch
        if isinstance(thing, Job):
            ended = self.jobs.wait(thing.id, timeout_s)
        elif isinstance(thing, Document):
            ended = self.documents.wait(thing.id, timeout_s)
        else:
            ended = self.batches.wait(thing.id, timeout_s)
        return cast("Thing", ended)

    def map(
        self,
        files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        prompt: str,
        *,
        model: str | None = None,
        in_flight: int = 64,
        ordered: bool = False,
        state: str | os.PathLike[str] | None = None,
        retry_failed: bool = False,
        progress: Display | bool = False,
        **options: Unpack[Options],
    ) -> Iterator[Outcome]:
        """One prompt for each file of a folder (and below), or for these files; outcomes as they come, or with
        `ordered` in the order of the files. At most `in_flight` files are uploaded and not yet told of.

        A file that is refused or fails is an outcome like any other. What concerns all files (no key, an option that is
        wrong, a service that is away for `patience_s`) is raised; a full service is waited for. With a `state` file a
        second run tells only of what the first has not: an outcome is told once the next one is asked for, and with
        `retry_failed` those that were not answered are tried again. `progress` True draws a bar on stderr.

        Raises NotFound (the model), Conflict (the state file is of another request), and as said.
        """
        if in_flight < 1:
            raise BadRequest("`in_flight` must be at least 1.", code="invalid_value", param="in_flight")
        items, name = _list_items(files), model or self.models.find_ready().id
        asked = {"model": self.models.get(name).id, "prompt": prompt, **name_fields(options)}
        patience = Patience(self._patience_s, busy_s=math.inf, stop=Event())

        def submit(part: Part, key: str) -> Job | Document:
            return self._make(make_form(name, prompt, [part], options), key, patience)

        with ExitStack() as stack:
            journal = stack.enter_context(closing(Journal(state, asked)))
            tell = _make_tell(stack, progress, len(items))
            flow = Flow(
                items, submit, Sweep(self.jobs, self.documents), journal, in_flight=in_flight, ordered=ordered,
                retry_failed=retry_failed, stop=patience.stop.set, tell=tell,
            )  # fmt: skip
            yield from stack.enter_context(closing(cast("Any", flow.run())))

    def _make(self, request: Mapping[str, Any], key: str | None, patience: Patience | None = None) -> Job | Document:
        made = self._transport.create("/v1/jobs", key=key, patience=patience, **request)
        return Document.model_validate(made) if made["object"] == "document" else Job.model_validate(made)


def _list_items(files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Item]:
    """The files of a folder under their names in it; others under those that they were given."""
    if isinstance(files, str | os.PathLike):
        folder = Path(files)
        if not folder.is_dir():
            return [Item(0, folder.as_posix(), folder)]
        found, _ = find_files(folder)
        return [Item(index, path.relative_to(folder).as_posix(), path) for index, path in enumerate(found)]
    return [Item(index, path.as_posix(), path) for index, path in enumerate(map(Path, files))]


def _make_tell(stack: ExitStack, progress: Display | bool, total: int) -> Callable[[int, int, int], None]:
    """What hears of a run's progress: nobody, a bar of its own until the stack ends, or the one that was given."""
    if progress is False:
        return lambda _done, _bad, _flying: None
    from batchinfer.client.progress import Bar, Meter, describe, open_console

    meter, display = Meter(), stack.enter_context(Bar(open_console())) if progress is True else progress

    def tell(done: int, bad: int, flying: int) -> None:
        meter.note(done)
        more = f"{bad:,} not answered" if bad else "", f"{flying:,} in flight" if flying else ""
        display.show(done, total, describe(meter, done, total, "files", *more))

    return tell
