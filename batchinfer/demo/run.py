"""One run of the demo, step by step."""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from batchinfer.client import Client
from batchinfer.demo import report
from batchinfer.demo.accuracy import find_card, measure
from batchinfer.demo.display import Screen
from batchinfer.demo.files import File, describe, draw_files, find_files
from batchinfer.demo.ledger import Submission, count
from batchinfer.demo.nights import print_nights, run_nights
from batchinfer.demo.options import BadOption, Options
from batchinfer.demo.service import NotStarted, Service
from batchinfer.demo.watch import Killing, Watch
from batchinfer.errors import NotFound

if TYPE_CHECKING:
    from rich.console import Console

    from batchinfer.demo.ledger import Ledger

_READY_S = 180.0
#: A model of the reader's may have to be read from a slow disk.
_READY_OWN_MODEL_S = 3600.0
_SUBMITTERS = 4


def run(options: Options, console: Console) -> bool:
    """The whole demo; says whether the ledger is clean and the accuracy as good as the card's.

    Raises BadOption, NotStarted and BatchinferError. The service has ended afterwards, except with `KEEP=1`.
    """
    folder = Path(tempfile.mkdtemp(prefix="batchinfer-demo-"))
    console.print(Text("batchinfer demo", style="bold"))
    files = _choose_files(options, folder, console)
    with ExitStack() as ending:
        ending.callback(_clear, folder / "home")
        place = options.files or folder / "files"
        service = Service(folder, options.model, sources=place)
        ending.callback(service.stop)
        _wait_ready(options, console, service)
        ledger = _read_all(options, console, service, files)
        good = _report(options, console, folder, service, ledger)
        good = _read_nights(options, console, service, place) and good
        if options.keep:
            ending.pop_all()
    _say_what_next(options, console, folder, service)
    return good


def _choose_files(options: Options, folder: Path, console: Console) -> list[File]:
    if options.files is None:
        files = draw_files(folder / "files", options.seed)
        console.print(f"  Drew {describe(files)}, never seen by the model: {folder / 'files'}", soft_wrap=True)
        return files
    files, others = find_files(options.files)
    if not files:
        raise BadOption(f"FILES={options.files} holds no PDF, TIFF, JPEG, PNG or WebP file.")
    console.print(f"  Found {describe(files)}" + (f"; left out {others} of other kinds" if others else ""))
    return files


def _wait_ready(options: Options, console: Console, service: Service) -> None:
    began_s = time.monotonic()
    console.print("  Starting Postgres, Valkey, the web server, beat, CPU workers and a model worker")
    with console.status("waiting until all are healthy", spinner_style="cyan"):
        service.wait_ready(_READY_S if options.model is None else _READY_OWN_MODEL_S)
    console.print(f"  Ready in {time.monotonic() - began_s:.1f} s: {service.url}/admin/")


def _read_all(options: Options, console: Console, service: Service, files: list[File]) -> Ledger:
    with Client(service.url, service.api_key) as client, Screen(console) as screen:
        try:
            model = client.models.find_ready().id
        except NotFound:
            raise NotStarted(f"No model is ready. The service said:\n{service.tail()}") from None
        began_s = time.monotonic()
        submissions = _submit_all(client, files, options.prompt, model)
        took_s = time.monotonic() - began_s
        screen.say(f"Submitted over HTTP in {took_s:.1f} s, prompt {options.prompt!r}, model {model}")
        killing = None if options.calm else Killing(lambda: service.find_pids("model"), screen)
        watch = Watch(client, submissions, screen, killing)
        watch.run()
    console.print(f"  Done in {time.monotonic() - began_s:.1f} s")
    return count(submissions, watch.documents, watch.jobs)


def _read_nights(options: Options, console: Console, service: Service, place: Path) -> bool:
    """The same files as nights; says whether the second one had nothing to read."""
    with Client(service.url, service.api_key) as client:
        model = client.models.find_ready().id
        nights = run_nights(client, console, place, options.prompt, model, clean=options.files is None)
        print_nights(client, console, nights)
    return nights.good or options.files is not None


def _submit_all(client: Client, files: list[File], prompt: str, model: str) -> list[Submission]:
    with ThreadPoolExecutor(_SUBMITTERS) as threads:
        receipts = threads.map(lambda file: client.submit(prompt, file.path, model=model), files)
        return [Submission(file, receipt.as_dict()) for file, receipt in zip(files, receipts, strict=True)]


def _report(options: Options, console: Console, folder: Path, service: Service, ledger: Ledger) -> bool:
    report.print_table(console, ledger.rows)
    results = folder / "results.jsonl"
    report.write_results(results, ledger.rows)
    report.print_ledger(console, ledger)
    accuracy = measure(ledger.rows, find_card(options.model, service.home))
    if accuracy is not None:
        report.print_accuracy(console, accuracy)
    console.print(Text.assemble(("Results   ", "bold"), str(results)), soft_wrap=True)
    # A drawn page has no reason to fail.
    whole = options.files is not None or not (ledger.failed or ledger.unread)
    measured = accuracy is None or options.model is not None or accuracy.expected is not None
    if not measured:
        console.print("          The bundled model has no evaluation.json to hold this against.", style="bold red")
    return ledger.clean and whole and measured and (accuracy is None or accuracy.good)


def _say_what_next(options: Options, console: Console, folder: Path, service: Service) -> None:
    if options.keep:
        console.print(
            Text.assemble(("Running   ", "bold"), f"{service.url}/admin/  key {service.api_key}"),
            soft_wrap=True,
        )
        console.print(f"          home {service.home}; end it with: kill {service.pid}", soft_wrap=True)
        console.print("Next      submit a page of yours:")
        console.print(
            f"          curl -s {service.url}/v1/jobs -H 'Authorization: Bearer {service.api_key}' "
            "-F file=@page.png -F prompt=Extract.",
            soft_wrap=True,
        )
        return
    console.print("Next      KEEP=1 make demo                    leave it running and look at the admin page")
    console.print("          FILES=~/scans MODEL=DIR make demo   your own pages on a model of yours")
    console.print("          make up                             the service on this machine, until Ctrl-C")
    console.print(f"          rm -r {folder}   when the files are no longer wanted")


def _clear(home: Path) -> None:
    """Remove a home but for its logs."""
    for path in home.iterdir() if home.is_dir() else []:
        if path.is_dir() and path.name != "logs":
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)
