"""What the remote engine costs: the same requests to the same server, through the adapter and sent directly, by turns.

    python -m bench.remote [--server fake|vllm] [--repeats N] [--requests N] [--slots N] [--out DIR]

The direct client is asyncio with httpx at the same concurrency. Both begin with the same requests and picture files,
and write their bodies while they run. Writes remote.json and remote.md, which keep what they hold of the other server.
Ends with 1 where a ratio is below the goal or the fake server's texts differ, 2 where the server cannot be started.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import PIL.Image

from bench import machine
from bench.chat import ChatClient
from bench.goals import DIRECT as GOAL
from bench.recipes import VLLM, PeerError
from bench.report import number, table
from workers.engine.protocol import Image, Request
from workers.engine.remote import RemoteEngine, open_remote
from workers.engine.vllm import open_vllm

RESULTS = Path(__file__).with_name("results")
_PATIENCE_S = 300.0
_ids = itertools.count()


@dataclass(frozen=True)
class Target:
    """A server that runs: its address, the model's name there, its key, and an engine before it."""

    url: str
    model: str
    key: str | None
    engine: RemoteEngine
    extra: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One workload: requests a second each time, the ratio of the medians, and of each pair. `cpu_ms` is processor time
    of the client a request, direct and through the adapter."""

    workload: str
    direct: list[float]
    adapter: list[float]
    ratio: float
    pairs: list[float]
    same_texts: int
    texts: int
    cpu_ms: tuple[float, float]


def make_requests(kind: str, count: int, folder: Path) -> list[Request]:
    """`text` is short prompts, `pages` a picture of 200 KB or so with each, `ragged` answers of many lengths."""
    found = []
    for at in range(count):
        images = (_draw(folder, at % 8),) if kind == "pages" else ()
        tokens = 8 + 56 * (at % 5) // 4 if kind == "ragged" else 32
        content: list[dict[str, Any]] = [{"type": "image", "index": 0}] if images else []
        content.append({"type": "text", "text": f"Question {at}: what is on this page? [[steps:{tokens}]]"})
        name = f"{kind}-{next(_ids)}"
        found.append(Request(name, ({"role": "user", "content": content},), images, max_tokens=tokens))
    return found


def _draw(folder: Path, number: int) -> Image:
    """A noisy page, which PNG cannot make small."""
    import hashlib
    import random

    path = folder / f"{number}.png"
    if not path.exists():
        noise = random.Random(number)
        PIL.Image.frombytes("RGB", (256, 256), noise.randbytes(256 * 256 * 3)).save(path)
    return Image(hashlib.sha256(path.read_bytes()).hexdigest(), path)


@contextmanager
def open_fake_target(slots: int, steps_per_s: float) -> Iterator[Target]:
    """The fake server in a process of its own."""
    command = [sys.executable, "-m", "bench.openai_server", "--slots", str(slots), "--steps-per-s", str(steps_per_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            engine = open_remote(slots=slots, url=url, model="fake", dialect="vllm")
            try:
                yield Target(url, "fake", None, engine, {})
            finally:
                engine.close()
        finally:
            process.stdin.close()


@contextmanager
def open_vllm_target(slots: int, folder: Path) -> Iterator[Target]:
    """vLLM's CPU build in its own environment, owned by the managed engine."""
    from bench.models import SHAPES, build_model

    model = build_model("tiny", folder)
    variables = {name: value for name, value in VLLM.variables().items() if os.environ.get(name) != value}
    engine = open_vllm(
        model,
        slots=slots,
        python=str(VLLM.python()),
        dtype="float32",
        context_tokens=SHAPES["tiny"].context,
        max_images=1,
        arguments=["--enforce-eager", "--mm-processor-cache-gb", "0"],
        environment=variables,
        extra={"ignore_eos": True},
        log=str(folder / "vllm.log"),
        start_s=280.0,
    )
    upstream = engine._upstream
    try:
        yield Target(upstream.root, upstream.model, upstream.key, engine, {"ignore_eos": True})
    finally:
        engine.close()


def run_adapter(target: Target, requests: Sequence[Request]) -> tuple[float, list[str]]:
    """Seconds and texts through the engine, which holds as many as it has slots and as many waiting."""
    began = time.perf_counter()
    most = 2 * target.engine.slots
    handles = []
    for at, request in enumerate(requests):
        if at >= most:
            handles[at - most].result(_PATIENCE_S)
        handles.append(target.engine.submit(request))
    ends = [handle.result(_PATIENCE_S) for handle in handles]
    seconds = time.perf_counter() - began
    wrong = next((done.error for done in ends if done.error), None)
    if wrong is not None:
        raise PeerError(f"the engine failed: {wrong.code}: {wrong.message}")
    return seconds, [done.text for done in ends]


def run_direct(target: Target, requests: Sequence[Request]) -> tuple[float, list[str]]:
    """Seconds and texts of an asyncio client that has as many requests at the server."""
    writer = ChatClient(target.url, target.model, target.engine.slots, target.extra)

    async def work() -> tuple[float, list[str]]:
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {target.key}"} if target.key else {}
        texts, waiting = [""] * len(requests), iter(enumerate(requests))
        async with httpx.AsyncClient(headers=headers, timeout=_PATIENCE_S, trust_env=False) as client:

            async def send() -> None:
                for at, request in waiting:
                    body = json.dumps(writer.body(request)).encode()
                    response = await client.post(f"{target.url}/v1/chat/completions", content=body)
                    response.raise_for_status()
                    texts[at] = response.json()["choices"][0]["message"]["content"]

            began = time.perf_counter()
            await asyncio.gather(*(send() for _ in range(target.engine.slots)))
            return time.perf_counter() - began, texts

    return asyncio.run(work())


def measure(target: Target, kind: str, count: int, repeats: int, folder: Path) -> Row:
    """Both ways by turns, the order changed each time; the first pair warms up and is thrown away."""
    requests = make_requests(kind, count, folder)
    rates: dict[str, list[float]] = {"direct": [], "adapter": []}
    same, spent = 0, {"direct": 0.0, "adapter": 0.0}
    for turn in range(repeats + 1):
        ways = [("direct", run_direct), ("adapter", run_adapter)]
        texts = {}
        for name, run in ways if turn % 2 else ways[::-1]:
            began = time.process_time()
            seconds, texts[name] = run(target, requests)
            if turn:
                spent[name] += time.process_time() - began
                rates[name].append(count / seconds)
        if turn:
            same += sum(one == other for one, other in zip(texts["direct"], texts["adapter"], strict=True))
    pairs = [adapter / direct for adapter, direct in zip(rates["adapter"], rates["direct"], strict=True)]
    ratio = statistics.median(rates["adapter"]) / statistics.median(rates["direct"])
    cpu = (spent["direct"] * 1000 / count / repeats, spent["adapter"] * 1000 / count / repeats)
    print(f"{kind}: {ratio:.3f} of the direct rate, pairs {[round(pair, 3) for pair in pairs]}", flush=True)
    return Row(kind, rates["direct"], rates["adapter"], ratio, pairs, same, count * repeats, cpu)


def render(results: dict[str, Any]) -> str:
    """The page: a table for each server that was measured."""
    parts = [
        "# The remote engine beside a direct client",
        f"The same requests to the same server, by turns. The goal is {GOAL} of the direct rate or more.",
    ]
    for server, run in results.items():
        about = run["machine"]
        rows = [
            [
                row["workload"],
                _spread(row["direct"]),
                _spread(row["adapter"]),
                f"{row['ratio']:.3f} ({min(row['pairs']):.3f}-{max(row['pairs']):.3f})",
                f"{row['cpu_ms'][0]:.1f} / {row['cpu_ms'][1]:.1f}",
                f"{row['same_texts']} of {row['texts']}",
            ]
            for row in run["rows"]
        ]
        head = [
            "",
            "direct, requests/s",
            "adapter, requests/s",
            "adapter / direct",
            "client's CPU, ms a request",
            "same text",
        ]
        parts += [f"## {server}", run["setting"], table(head, rows)]
        parts.append(
            f"{about['cpu']}, {about['cores']} cores of which {about['cores_used']} used, load average "
            f"{about['load_average']} at the start; Python {about['python']}, httpx {httpx.__version__}; "
            f"{about['date']}."
        )
    parts.append(
        "Not measured: a server on a GPU, another host between which a network lies, several hundred requests at once, "
        "SGLang, TGI and Xinference."
    )
    return "\n\n".join(parts) + "\n"


def _spread(rates: list[float]) -> str:
    return f"{number(statistics.median(rates))} ({number(min(rates))}-{number(max(rates))})"


def write(results: dict[str, Any], out: Path) -> None:
    """Both files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "remote.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / "remote.md").write_text(render(results))


def main() -> int:
    """Measure one server and keep what the files hold of the other."""
    parser = argparse.ArgumentParser(prog="bench.remote")
    parser.add_argument("--server", choices=["fake", "vllm"], default="fake")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--steps-per-s", type=float, default=100.0)
    parser.add_argument("--workloads", nargs="+", default=["text", "ragged", "pages"])
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    given = parser.parse_args()
    about = machine.describe_machine(1, 0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.server == "fake":
            setting = f"The fake engine behind HTTP, {given.slots} rows, {given.steps_per_s:g} steps a second."
            opening = open_fake_target(given.slots, given.steps_per_s)
        else:
            setting = f"{VLLM.package}'s server on the CPU, tiny model, float32, {given.slots} rows, prefix cache on."
            opening = open_vllm_target(given.slots, folder)
        try:
            with opening as target:
                rows = [measure(target, kind, given.requests, given.repeats, folder) for kind in given.workloads]
        except PeerError as error:
            print(error, file=sys.stderr)
            return 2
    found = given.out / "remote.json"
    results = json.loads(found.read_text()) if found.exists() else {}
    results[given.server] = {"setting": setting, "machine": about, "rows": [asdict(row) for row in rows]}
    write(results, given.out)
    missed = [
        row.workload for row in rows if row.ratio < GOAL or (given.server == "fake" and row.same_texts < row.texts)
    ]
    print(f"missed: {', '.join(missed)}" if missed else "The goal is met.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
