"""Pages from file to text: our engine, `generate` in static batches, and any OpenAI-compatible server."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Resampling

from batchinfer.samples import draw_page
from bench.contestants import PATIENCE_S, Generate, Served
from bench.gpu_models import GpuShape
from workers.engine.continuous import open_continuous
from workers.engine.loader import LoadedModel
from workers.engine.protocol import Image, Request
from workers.engine.survival import is_device_lost, is_out_of_memory
from workers.engine.verify import Verdict

Line = dict[str, Any]
_BATCHES = (8, 16, 32, 64, 128)
_PROMPTS = {
    "transcription": "Read the page and give the text back line by line, in reading order.",
    "extraction": "Extract the invoice number, the date and the total as JSON.",
}
#: Pages before the measured ones, and tokens of each answer to them.
_WARM, _WARM_TOKENS = 2, 4


@dataclass(frozen=True)
class Job:
    """Pages that are asked the same; each answer has exactly `tokens` tokens."""

    name: str
    tokens: int
    requests: tuple[Request, ...]
    #: Other pages, answered shortly before anything is measured.
    warm: tuple[Request, ...]


def draw_jobs(shape: GpuShape, folder: Path, count: int) -> list[Job]:
    """Both kinds of job on the same pages, drawn into a folder."""
    images = [_draw(shape, folder, number) for number in range(count + _WARM)]
    lengths = {"transcription": shape.transcription, "extraction": shape.extraction}
    jobs = []
    for name, tokens in lengths.items():
        asked = [_ask(name, number, image, tokens) for number, image in enumerate(images)]
        warm = [dataclasses.replace(request, max_tokens=_WARM_TOKENS) for request in asked[count:]]
        jobs.append(Job(name, tokens, tuple(asked[:count]), tuple(warm)))
    return jobs


def _draw(shape: GpuShape, folder: Path, number: int) -> Image:
    path = folder / f"page-{number}.png"
    draw_page(number).image.convert("RGB").resize(shape.page, Resampling.BILINEAR).save(path)
    return Image(hashlib.sha256(path.read_bytes()).hexdigest(), path)


def _ask(name: str, number: int, image: Image, tokens: int) -> Request:
    content = [{"type": "image", "index": 0}, {"type": "text", "text": _PROMPTS[name]}]
    return Request(f"{name}-{number}", ({"role": "user", "content": content},), (image,), max_tokens=tokens)


def measure_ours(loaded: LoadedModel, verdict: Verdict, job: Job, slots: int, preparers: int) -> Line:
    """Our engine, pages waiting from the start, pictures opened and scaled within the time."""

    def open_engine() -> Any:
        return open_continuous(loaded, slots=slots, verdict=verdict, preparers=preparers)

    run = Served("ours", "", open_engine, slots).run(job.requests, job.warm)
    return _describe(job, "ours", run.seconds, len(job.requests)) | {"slots": slots, "occupancy": run.occupancy}


def measure_generate(loaded: LoadedModel, job: Job) -> Iterator[Line]:
    """`generate` with each size of batch that memory holds, and at last the best of them."""
    found: list[Line] = []
    for batch in _BATCHES:
        if batch > max(_BATCHES[0], len(job.requests)):
            break
        try:
            run = Generate(loaded, batch).run(job.requests[:batch], job.warm)
        except Exception as error:
            if is_device_lost(error):
                raise
            reason = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"[:300]
            yield {"what": "pages", "job": job.name, "who": f"generate, batch {batch}", "failed": reason}
            if loaded.model.device.type == "cuda":
                torch.cuda.empty_cache()
            break
        count = min(batch, len(job.requests))
        found.append(_describe(job, f"generate, batch {batch}", run.seconds, count))
        yield found[-1]
    if found:
        yield max(found, key=lambda line: line["pages_per_s"]) | {"best_static": True}


def _describe(job: Job, who: str, seconds: float, pages: int) -> Line:
    return {
        "what": "pages",
        "job": job.name,
        "who": who,
        "tokens_per_page": job.tokens,
        "pages": pages,
        "pages_per_s": pages / seconds,
        "tokens_per_s": pages * job.tokens / seconds,
    }


def measure_peer(url: str, model: str | None, job: Job, concurrency: int) -> Line:
    """The same pages to a server, up to `concurrency` at once. `ignore_eos` is vLLM's and SGLang's.

    Raises OSError where the server refuses or is not there.
    """
    name = model or _call(url, "/v1/models")["data"][0]["id"]
    for request in job.warm:
        _call(url, "/v1/chat/completions", _body(request, name))
    bodies = [_body(request, name) for request in job.requests]
    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as threads:
        answers = list(threads.map(lambda body: _call(url, "/v1/chat/completions", body), bodies))
    seconds = time.perf_counter() - began
    made = sum(answer.get("usage", {}).get("completion_tokens", 0) for answer in answers)
    line = _describe(job, f"peer {name}", seconds, len(bodies)) | {"concurrency": concurrency}
    # A server that ends answers before their length does less than is compared.
    return line | {"tokens_per_s": made / seconds, "tokens_made": made, "tokens_asked": len(bodies) * job.tokens}


def _body(request: Request, model: str) -> dict[str, Any]:
    data = base64.b64encode(request.images[0].path.read_bytes()).decode()
    text = request.messages[0]["content"][1]["text"]
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": text},
    ]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


def _call(url: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise OSError(f"{url} is not the address of a server; give one that begins with http://")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url.rstrip("/") + path, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:  # noqa: S310
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def prepare_pages(loaded: LoadedModel, requests: Sequence[Request]) -> list[Any]:
    """Requests as the engine's parts take them."""
    return [loaded.processing.prepare(request, loaded.processing.render(request), 0.0) for request in requests]
