"""The GPU path on a GPU: the kernel's sums, recorded steps, weights placed directly, reads of the device."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.engine.continuous import open_continuous
from workers.engine.decode import build_decoder
from workers.engine.features import ALL_OFF, UNPROVEN, Features
from workers.engine.loader import load_model
from workers.engine.prefill import Prefiller
from workers.engine.protocol import Sampling
from workers.engine.sampling import RowSampler, next_tokens, read_back
from workers.engine.scheduler import LengthClass
from workers.engine.specimens import draw_requests, prepare_specimens
from workers.engine.varlen import LiveRows, find_kernel
from workers.engine.verify import verify_model
from workers.engine.vision import VisionEncoder

recording: Any = importlib.import_module("recording")

PATIENCE_S = 300.0
WAYS = {
    "kernel": dataclasses.replace(ALL_OFF, varlen_kernel=True),
    "graphs": dataclasses.replace(ALL_OFF, cuda_graphs=True),
    "both": dataclasses.replace(ALL_OFF, varlen_kernel=True, cuda_graphs=True),
}


@pytest.mark.parametrize("back", [-1, 0, 20])
@pytest.mark.parametrize("heads", [(4, 4), (16, 8), (32, 4)])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_kernel_gives_the_plain_sums(cuda: torch.device, size: int, heads: tuple[int, int], back: int) -> None:
    kernel = find_kernel(cuda, torch.bfloat16)
    lengths, slot = [1, 37, 700, 1023], 1024
    queries, shared = heads
    query = torch.randn(4, queries, size, device=cuda, dtype=torch.bfloat16)
    keys, values = (torch.randn(4, slot, shared, size, device=cuda, dtype=torch.bfloat16) for _ in range(2))
    for row, length in enumerate(lengths):
        keys[row, length:] = values[row, length:] = torch.nan
    edges = torch.arange(5, dtype=torch.int32, device=cuda)
    rows = LiveRows(torch.tensor(lengths, dtype=torch.int32, device=cuda), edges, slot)
    flat = [part.view(4 * slot, shared, size) for part in (keys, values)]
    found = kernel.run(query, flat[0], flat[1], rows, slot, 0.1, back)
    expected = recording.plain_varlen(query.float(), flat[0].float(), flat[1].float(), rows, slot, 0.1, back)
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("way", sorted(WAYS))
@torch.inference_mode()
def test_steps_give_the_scores_of_plain_steps(cuda: torch.device, folder: Path, way: str) -> None:
    loaded = load_model(folder, device="cuda:0")
    with draw_requests() as requests:
        items = prepare_specimens(loaded, requests)[:3]
    scores = {}
    for name, features in {"plain": ALL_OFF, way: WAYS[way]}.items():
        decoder = build_decoder(loaded.model, features)
        pool = decoder.new_pool(LengthClass(4, 512), device=cuda)
        prefiller = Prefiller(loaded.model, VisionEncoder(loaded.model, cache_bytes=0), pad_id=0, use_encoder=True)
        for item in items:
            filled = prefiller.run([item])
            slot = pool.add(item, token=20, last_position=filled.last_positions[0], length=item.prompt_tokens)
            filled.copy_row(pool.cache, slot, 0, item.prompt_tokens)
        made = []
        for token in range(5):
            made.append(decoder.step(pool).float())
            pool.close_step([30 + token] * 3)
        scores[name] = torch.stack(made)
        assert decoder.graphs is None or (decoder.graphs.replays == 5 and not decoder.graphs.failed)
        assert decoder.kernel is None or decoder.kernel.passed_on == 0
    width = scores["plain"].max() - scores["plain"].min()
    assert (scores["plain"] - scores[way]).abs().max() < 0.02 * width


@torch.inference_mode()
def test_a_step_reads_the_device_once(cuda: torch.device, folder: Path) -> None:
    loaded = load_model(folder, device="cuda:0")
    decoder = build_decoder(loaded.model, ALL_OFF)
    pool = decoder.new_pool(LengthClass(2, 512), device=cuda)
    with draw_requests() as requests:
        item = prepare_specimens(loaded, requests)[0]
    prefiller = Prefiller(loaded.model, VisionEncoder(loaded.model, cache_bytes=0), pad_id=0, use_encoder=True)
    filled = prefiller.run([item])
    slot = pool.add(item, token=20, last_position=filled.last_positions[0], length=item.prompt_tokens)
    filled.copy_row(pool.cache, slot, 0, item.prompt_tokens)
    width = filled.logits.shape[-1]
    asked = Sampling(temperature=1.0, seed=1, top_p=0.9, logprobs=True, repetition_penalty=1.2)
    sampler = RowSampler.for_request(asked, item.prompt_ids, vocabulary=width, device=cuda)
    decoder.step(pool)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            tokens, logprobs = next_tokens(decoder.step(pool), [sampler], [None])
        assert not waits, "nothing waits before the read"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    made, _ = read_back(tokens, logprobs)
    assert 0 <= made[0] < width


def test_weights_are_those_of_the_cpu(folder: Path) -> None:
    here, there = (load_model(folder, device=device, dtype="bfloat16").model for device in ("cpu", "cuda:0"))
    buffers = dict(there.named_buffers())
    assert {tensor.device.type for tensor in (*there.parameters(), *buffers.values())} == {"cuda"}
    for name, tensor in (*here.named_parameters(), *here.named_buffers()):
        found = buffers[name] if name in buffers else there.get_parameter(name)
        assert torch.equal(found.cpu(), tensor), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_self_test_agrees(folder: Path, dtype: str) -> None:
    verdict = verify_model(load_model(folder, device="cuda:0", dtype=dtype), attempt=UNPROVEN)
    assert verdict.engine == "transformers", verdict.reasons
    assert verdict.exact == verdict.of
    assert verdict.features["cuda_graphs"], verdict.reasons
    assert verdict.features["varlen_kernel"] == (dtype == "bfloat16"), verdict.reasons


def test_the_engine_answers_with_everything_on(folder: Path) -> None:
    loaded = load_model(folder, device="cuda:0", dtype="float32")
    with draw_requests() as requests:
        engine = open_continuous(loaded, slots=3, attempt=UNPROVEN)
        done = [handle.result(PATIENCE_S) for handle in [engine.submit(request) for request in requests]]
        engine.close()
        plain = open_continuous(loaded, slots=1, verdict=dataclasses.replace(engine.verdict, features=_as_off()))
        expected = [handle.result(PATIENCE_S) for handle in [plain.submit(request) for request in requests]]
        plain.close()
    assert [one.error for one in done] == [None] * len(done)
    assert [one.token_ids for one in done] == [one.token_ids for one in expected]


def _as_off() -> dict[str, bool]:
    return {field.name: getattr(ALL_OFF, field.name) for field in dataclasses.fields(Features)}
