"""The GPU path without a GPU: a kernel that reads live tokens, and recorded steps, by stand-ins with their rules."""

from __future__ import annotations

import dataclasses
import importlib
import random
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from workers.engine import decode, varlen
from workers.engine.continuous import open_continuous
from workers.engine.decode import Decoder, build_decoder
from workers.engine.engine import TransformersEngine
from workers.engine.features import ALL_OFF, UNPROVEN, Features
from workers.engine.graphs import Recorded, StepGraphs, find_recorder, round_rows, round_window
from workers.engine.loader import LoadedModel
from workers.engine.protocol import Request, Sampling
from workers.engine.scheduler import LengthClass
from workers.engine.slots import SlotPool
from workers.engine.varlen import LiveRows, UnavailableError, find_kernel
from workers.engine.verify import main, verify_model

sys.path.insert(0, str(Path(__file__).parent))
families: Any = importlib.import_module("families")
recording: Any = importlib.import_module("recording")

PATIENCE_S = 120.0
CPU = torch.device("cpu")
CLASSES = (LengthClass(3, 160), LengthClass(2, families.CONTEXT))
BOTH = dataclasses.replace(Features(), varlen_kernel=True, cuda_graphs=True)
ON = {
    "kernel": dataclasses.replace(ALL_OFF, varlen_kernel=True),
    "graphs": dataclasses.replace(ALL_OFF, cuda_graphs=True),
    "both": dataclasses.replace(ALL_OFF, varlen_kernel=True, cuda_graphs=True),
}


class Bench:
    """The stand-ins, and what they did."""

    def __init__(self) -> None:
        self.recorder, self.kernels = recording.TapeRecorder(), []

    def find_kernel(self, *_: Any) -> Any:
        self.kernels.append(recording.new_kernel(recording.masked_varlen))
        return self.kernels[-1]

    @property
    def calls(self) -> int:
        return sum(kernel.calls for kernel in self.kernels)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench()
    monkeypatch.setattr(varlen, "find_kernel", bench.find_kernel)
    monkeypatch.setattr(decode, "find_recorder", lambda _: bench.recorder)
    return bench


def draw_requests(name: str, count: int, seed: int = 3) -> list[Request]:
    dice, family = random.Random(seed), families.FAMILIES[name]
    requests = []
    for number in range(count):
        ids = [dice.randrange(20, families.VOCABULARY) for _ in range(dice.randrange(4, 60))]
        shown = 1 if family.image_first else dice.choice([0, 1, 1, 2])
        images = tuple(f"picture {dice.randrange(5)}" for _ in range(shown))
        fields = {"max_tokens": dice.randrange(1, 14), "sampling": Sampling(logprobs=number % 3 > 0)}
        before = 0 if family.image_first else 3
        requests.append(families.new_request(str(number), ids, images, before=before, **fields))
    return requests


@lru_cache(maxsize=2)
def refer(name: str, count: int) -> tuple[list[Request], list[list[int]]]:
    """Requests and what `generate` answers to each alone: the same whatever is switched on."""
    loaded, requests = families.load_family(name), draw_requests(name, count)
    return requests, [families.generate(loaded, request) for request in requests]


def check_exact(name: str, features: Features, count: int = 12) -> TransformersEngine:
    loaded = families.load_family(name)
    requests, expected = refer(name, count)
    engine = TransformersEngine(loaded, classes=CLASSES, features=features)
    done = [handle.result(PATIENCE_S) for handle in [engine.submit(request) for request in requests]]
    engine.close()
    assert [one.error for one in done] == [None] * count
    assert [list(one.token_ids) for one in done] == expected
    return engine


@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl"])
def test_families_are_exact_with_both(name: str, bench: Bench) -> None:
    engine = check_exact(name, dataclasses.replace(BOTH, prefix_before_pictures=name != "gemma3"))
    assert bench.calls > 0
    assert bench.recorder.tapes
    assert engine._forwards._decoder.graphs.replays > len(bench.recorder.tapes), "steps were replayed"
    assert not engine._forwards._decoder.graphs.failed


@pytest.mark.long
@pytest.mark.parametrize("which", sorted(ON))
@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_every_family_is_exact_with_each(name: str, which: str, bench: Bench) -> None:
    engine = check_exact(name, ON[which], count=20)
    decoder = engine._forwards._decoder
    assert (bench.calls > 0) == ON[which].varlen_kernel
    assert (len(bench.recorder.tapes) > 0) == ON[which].cuda_graphs
    assert decoder.graphs is None or not decoder.graphs.failed


# The kernel


def fill_slots(spec: LengthClass, lengths: list[int], heads: int, size: int, *, tokens_first: bool) -> Any:
    """Buffers of three slots, with numbers that are not finite wherever no row may look."""
    dice = torch.Generator().manual_seed(1)
    buffers = []
    for _ in range(2):
        shape = (spec.slots, spec.length, heads, size)
        buffer = torch.randn(shape, generator=dice)
        for slot, length in enumerate(lengths):
            buffer[slot, length:] = torch.nan
        logical = buffer.transpose(1, 2)
        buffers.append(logical if tokens_first else logical.contiguous())
    return buffers


def live_rows(lengths: list[int], slot_length: int) -> LiveRows:
    edges = torch.arange(len(lengths) + 1, dtype=torch.int32)
    return LiveRows(torch.tensor(lengths, dtype=torch.int32), edges, slot_length)


class Layer(torch.nn.Module):
    num_key_value_groups = 3


def attend(
    kernel: Any, lengths: list[int], *, slides: bool = False, first: int = 0, tokens_first: bool = True, **options: Any
) -> Any:
    """One layer's attention of the rows from `first` on, and what SDPA with our mask gives on finite buffers."""
    spec, heads, size = LengthClass(4, 40), 2, 8
    keys, values = fill_slots(spec, lengths, heads, size, tokens_first=tokens_first)
    shown, window = lengths[first:], max(lengths[first:]) + 3
    query = torch.randn(len(shown), heads * Layer.num_key_value_groups, 1, size)
    parts = [part[first : first + len(shown), :, :window] for part in (keys, values)]
    columns, newest = torch.arange(window)[None], torch.tensor(shown)[:, None] - 1
    mask = columns <= newest
    width = options.get("sliding_window")
    if width is not None:
        mask &= columns > newest - width
    mask = mask[:, None, None]
    step = varlen._Step(kernel, live_rows(shown, spec.length), slides)
    token = varlen._step.set(step)
    try:
        # SDPA reads what its mask hides, and nothing times NaN is NaN; the kernel must not read it at all.
        given = parts if tokens_first else [part.nan_to_num() for part in parts]
        found, _ = varlen.attend(Layer(), query, *given, mask, scaling=0.3, dropout=0.0, **options)
    finally:
        varlen._step.reset(token)
    finite = [part.nan_to_num().repeat_interleave(Layer.num_key_value_groups, dim=1) for part in parts]
    expected = torch.nn.functional.scaled_dot_product_attention(query, *finite, mask, scale=0.3)
    return found, expected.transpose(1, 2)


@pytest.mark.parametrize("first", [0, 1])
def test_the_kernel_reads_live_tokens_and_nothing_else(first: int) -> None:
    kernel = recording.new_kernel()
    found, expected = attend(kernel, [7, 40 - 3, 1], first=first)
    assert kernel.calls == 1
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("width", [1, 5, 100])
def test_layers_that_look_back_a_limited_distance(width: int) -> None:
    kernel = recording.new_kernel()
    found, expected = attend(kernel, [7, 37, 1], slides=True, sliding_window=width)
    assert kernel.calls == 1
    torch.testing.assert_close(found, expected)


def test_a_layer_that_does_not_say_how_far_it_looks_keeps_its_mask() -> None:
    kernel = recording.new_kernel()
    found, expected = attend(kernel, [7, 30, 2], slides=True, tokens_first=False)
    assert (kernel.calls, kernel.passed_on) == (0, 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("why", ["layout", "dtype", "head"])
def test_what_the_kernel_does_not_take_goes_through_the_mask(why: str) -> None:
    kernel = recording.new_kernel()
    if why == "dtype":
        kernel.dtypes = varlen.VarlenKernel.dtypes
        found, expected = attend(kernel, [7, 30, 2], tokens_first=False)
    elif why == "head":
        assert not kernel.takes(torch.zeros(1, 2, 1, 12), torch.zeros(1, 9, 2, 12).transpose(1, 2), 9, {})
        assert not kernel.takes(torch.zeros(1, 2, 1, 264), torch.zeros(1, 9, 2, 264).transpose(1, 2), 9, {})
        assert kernel.takes(torch.zeros(1, 2, 1, 8), torch.zeros(1, 9, 2, 8).transpose(1, 2), 9, {"softcap": None})
        assert not kernel.takes(torch.zeros(1, 2, 1, 8), torch.zeros(1, 9, 2, 8).transpose(1, 2), 9, {"softcap": 30.0})
        return
    else:
        found, expected = attend(kernel, [7, 30, 2], tokens_first=False)
    assert (kernel.calls, kernel.passed_on) == (0, 1)
    torch.testing.assert_close(found, expected)


def test_the_model_keeps_its_attention_outside_of_a_step() -> None:
    model = families.load_family("qwen3_vl").model
    config = model.config.get_text_config()
    before = config._attn_implementation
    with varlen.live_attention(model, recording.new_kernel(), live_rows([3], 8), slides=False):
        assert config._attn_implementation == varlen.NAME
    assert config._attn_implementation == before == "sdpa"
    assert varlen._step.get() is None


def test_without_cuda_both_say_why() -> None:
    with pytest.raises(UnavailableError, match="needs a CUDA device; the model is on cpu"):
        find_kernel(CPU, torch.bfloat16)
    with pytest.raises(UnavailableError, match="needs a CUDA device"):
        find_recorder(CPU)
    cuda = torch.device("cuda")
    with pytest.raises(UnavailableError, match="half precision only"):
        find_kernel(cuda, torch.float32)


def test_attention_that_is_not_sdpa_is_left_alone() -> None:
    model = families.load_family("qwen3_vl").model
    model.set_attn_implementation("eager")
    try:
        with pytest.raises(UnavailableError, match="own attention is eager"):
            build_decoder(model, ON["kernel"])
    finally:
        model.set_attn_implementation("sdpa")


def test_the_operator_has_the_arguments_that_are_given_to_it() -> None:
    """The one thing about the real kernel that a CPU can tell."""
    arguments = {one.name: one for one in torch.ops.aten._flash_attention_forward.default._schema.arguments}
    assert list(arguments)[:10] == [
        "query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal",
        "return_debug_mask",
    ]  # fmt: skip
    assert {"scale", "window_size_left", "window_size_right", "seqused_k"} <= set(arguments)


# Recorded steps


@pytest.mark.parametrize(
    ("count", "slots", "rows"), [(1, 8, 1), (2, 8, 2), (3, 8, 4), (5, 8, 8), (5, 6, 6), (9, 64, 16)]
)
def test_rows_are_rounded_up(count: int, slots: int, rows: int) -> None:
    assert round_rows(count, slots) == rows


@pytest.mark.parametrize(
    ("tokens", "length", "window"), [(1, 4096, 256), (257, 4096, 512), (900, 1000, 1000), (9, 99, 99)]
)
def test_windows_are_rounded_up(tokens: int, length: int, window: int) -> None:
    assert round_window(tokens, length) == window


def new_pool(model: Any, decoder: Decoder, rows: int) -> SlotPool:
    """Rows with random keys and values of ragged lengths."""
    from transformers.cache_utils import DynamicCache

    pool = decoder.new_pool(LengthClass(6, 64), device=CPU)
    text, dice = model.config.get_text_config(), torch.Generator().manual_seed(4)
    cache = DynamicCache()
    for layer in range(text.num_hidden_layers):
        shape = (rows, text.num_key_value_heads, 40, text.head_dim)
        cache.update(torch.randn(shape, generator=dice), torch.randn(shape, generator=dice), layer)
    for row in range(rows):
        length = 5 + 9 * row % 31
        slot = pool.add(f"row {row}", token=30 + row, last_position=torch.full((4,), length - 1), length=length)
        pool.cache.load(slot, cache, row, 0, length)
    return pool


@pytest.fixture(scope="module")
def model() -> Any:
    return families.load_family("qwen3_vl").model


def new_graphs() -> tuple[StepGraphs, Any]:
    recorder = recording.TapeRecorder()
    return StepGraphs(recorder), recorder


@pytest.mark.parametrize("kernel", [False, True])
def test_padding_rows_change_nothing(model: Any, kernel: bool) -> None:
    graphs, recorder = new_graphs()
    recorded = Decoder(model, graphs=graphs, kernel=recording.new_kernel(recording.masked_varlen) if kernel else None)
    plain = Decoder(model)
    ours, theirs = new_pool(model, recorded, 3), new_pool(model, plain, 3)
    free = [buffer[3:6].clone() for buffer in (*ours.cache.keys, *ours.cache.values)]
    for tokens in ([40, 41, 42], [50, 51, 52], [60, 61, 62]):
        found, expected = recorded.step(ours), plain.step(theirs)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        ours.close_step(tokens)
        theirs.close_step(tokens)
    for mine, other in zip(
        (*ours.cache.keys, *ours.cache.values), (*theirs.cache.keys, *theirs.cache.values), strict=True
    ):
        for row, length in enumerate(ours._host_lengths):
            torch.testing.assert_close(mine[row, :, :length], other[row, :, :length], atol=2e-5, rtol=1e-4)
    now = [buffer[3:6] for buffer in (*ours.cache.keys, *ours.cache.values)]
    assert all(torch.equal(before, after) for before, after in zip(free, now, strict=True)), (
        "free slots stay as they were"
    )
    assert any(bool(buffer[6].any()) for buffer in ours.cache.keys), "the fourth row of the graph wrote aside"
    assert (len(recorder.tapes), graphs.replays) == (1, 3)


def test_rows_that_come_and_go_between_replays(model: Any) -> None:
    graphs, recorder = new_graphs()
    recorded, plain = Decoder(model, graphs=graphs), Decoder(model)
    ours, theirs = new_pool(model, recorded, 4), new_pool(model, plain, 4)
    for gone in (1, None, 0, None):
        found, expected = recorded.step(ours), plain.step(theirs)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        for pool in (ours, theirs):
            pool.close_step([70 + slot for slot in range(len(pool.owners))])
            if gone is not None:
                pool.remove(gone)
    assert ours.owners == theirs.owners
    assert len(recorder.tapes) == 2, "four rows, and two; three are a padded four"
    assert graphs.replays == 4


def test_a_part_of_the_rows_runs_plainly(model: Any) -> None:
    graphs, recorder = new_graphs()
    recorded, plain = Decoder(model, graphs=graphs), Decoder(model)
    ours, theirs = new_pool(model, recorded, 4), new_pool(model, plain, 4)
    for first, count in ((0, 2), (2, 2)):
        found, expected = recorded.step(ours, first, count), plain.step(theirs, first, count)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert not recorder.tapes


def test_what_cannot_be_recorded_runs_plainly_and_is_said_once(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def record(step: Callable[[], Any]) -> Recorded:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = StepGraphs(record)
    recorded, plain = Decoder(model, graphs=graphs), Decoder(model)
    ours, theirs = new_pool(model, recorded, 3), new_pool(model, plain, 3)
    for _ in range(3):
        torch.testing.assert_close(recorded.step(ours), plain.step(theirs), atol=2e-5, rtol=1e-4)
    for pool in (ours, theirs):
        pool.remove(2)
    torch.testing.assert_close(recorded.step(ours), plain.step(theirs), atol=2e-5, rtol=1e-4)
    assert len(tried) == len(graphs.failed) == 2, "one try for each number of rows"
    assert caplog.text.count("cannot be recorded") == 1
    assert "not permitted" in next(iter(graphs.failed.values()))


def test_the_tape_refuses_what_a_graph_refuses() -> None:
    with pytest.raises(RuntimeError, match="not permitted"), recording.Tape():
        torch.ones(2).sum().item()


def test_a_padded_step_needs_its_spare_slot() -> None:
    with pytest.raises(ValueError, match="spare slot"):
        SlotPool(LengthClass(4, 16), device=CPU).open_padded_step(2, 16)


# One read of the device a step


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in recording.READS
        return func(*args, **(kwargs or {}))


def test_a_step_reads_the_device_once(
    qwen3_vl: LoadedModel, new_request: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its rows ask for: greedy, sampled, penalised, with log-probabilities."""
    kinds = [
        Sampling(),
        Sampling(logprobs=True),
        Sampling(temperature=1.0, seed=3, top_p=0.9, top_k=20, min_p=0.01, logprobs=True),
        Sampling(repetition_penalty=1.7, logprobs=True),
    ]
    counts: list[tuple[int, int]] = []
    #: The thread of each call: what prepares requests reads tensors too, but none that were on the device.
    reads: list[int] = []
    plain_step = TransformersEngine._step

    def count_step(engine: TransformersEngine, pool: SlotPool) -> None:
        before, rows = reads.count(threading.get_ident()), len(pool.owners)
        with Reads() as other:
            plain_step(engine, pool)
        counts.append((rows, reads.count(threading.get_ident()) - before + other.count))

    for way in ("tolist", "cpu", "numpy"):
        plain = getattr(torch.Tensor, way)

        def count_read(*arguments: Any, plain: Any = plain, **options: Any) -> Any:
            reads.append(threading.get_ident())
            return plain(*arguments, **options)

        monkeypatch.setattr(torch.Tensor, way, count_read)
    monkeypatch.setattr(TransformersEngine, "_step", count_step)
    engine = TransformersEngine(qwen3_vl, classes=[LengthClass(4, 512)])
    handles = [engine.submit(new_request("hello", max_tokens=12, sampling=sampling)) for sampling in kinds]
    done = [handle.result(PATIENCE_S) for handle in handles]
    engine.close()
    assert [one.error for one in done] == [None] * 4
    assert max(rows for rows, _ in counts) == 4
    assert {count for rows, count in counts if rows == 4} == {1}


# What the self-test says


def test_the_self_test_leaves_both_off_and_says_why(qwen3_vl: LoadedModel) -> None:
    verdict = verify_model(qwen3_vl)
    assert {name: verdict.features[name] for name in UNPROVEN} == dict.fromkeys(UNPROVEN, False)
    assert {verdict.reasons[name] for name in UNPROVEN} == {"No GPU has run this yet; it is off by default."}
    assert verdict.exact == verdict.of


def test_tried_on_a_cpu_they_stay_off_with_the_reason(qwen3_vl: LoadedModel) -> None:
    verdict = verify_model(qwen3_vl, attempt=UNPROVEN)
    assert {verdict.reasons[name] for name in UNPROVEN} == {"It needs a CUDA device; the model is on cpu."}
    assert not any(verdict.features[name] for name in UNPROVEN)


def test_tried_where_they_match_they_are_on_and_served(
    qwen3_vl: LoadedModel, bench: Bench, new_request: Callable[..., Request]
) -> None:
    engine = open_continuous(qwen3_vl, slots=3, attempt=UNPROVEN)
    assert isinstance(engine, TransformersEngine)
    assert all(engine.verdict.features[name] for name in UNPROVEN), engine.verdict.reasons
    assert engine.verdict.exact == engine.verdict.of
    calls = bench.calls
    done = engine.submit(new_request("hello", images=1, max_tokens=5)).result(PATIENCE_S)
    engine.close()
    assert len(done.token_ids) == 5
    # Layers are called while a step is recorded, not while it is replayed.
    assert bench.calls > calls


def test_a_kernel_that_is_wrong_is_found_out(qwen3_vl: LoadedModel, bench: Bench, monkeypatch: Any) -> None:
    def forget_newest(query: Any, keys: Any, values: Any, rows: LiveRows, *rest: Any) -> Any:
        less = dataclasses.replace(rows, used=(rows.used - 1).clamp(min=1))
        return recording.masked_varlen(query, keys, values, less, *rest)

    monkeypatch.setattr(varlen, "find_kernel", lambda *_: recording.new_kernel(forget_newest))
    verdict = verify_model(qwen3_vl, attempt=UNPROVEN)
    assert (verdict.features["varlen_kernel"], verdict.features["cuda_graphs"]) == (False, True)
    assert "of 6 answers" in verdict.reasons["varlen_kernel"]


def test_graphs_that_fail_to_record_are_off(qwen3_vl: LoadedModel, monkeypatch: Any) -> None:
    def refuse(_: Any) -> Any:
        raise RuntimeError("no capture today")

    monkeypatch.setattr(decode, "find_recorder", lambda _: refuse)
    verdict = verify_model(qwen3_vl, attempt=("cuda_graphs",))
    assert not verdict.features["cuda_graphs"]
    assert "no capture today" in verdict.reasons["cuda_graphs"]


def test_the_command_tries_what_it_is_told(qwen3_vl_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(qwen3_vl_folder), "--json", "--try", "varlen_kernel,cuda_graphs"]) == 0
    assert "needs a CUDA device" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(qwen3_vl_folder), "--try", "magic"])
    assert "magic: only varlen_kernel, cuda_graphs can be tried." in capsys.readouterr().err


def test_a_name_that_is_no_feature_is_refused(qwen3_vl: LoadedModel) -> None:
    with pytest.raises(ValueError, match="magic: only"):
        open_continuous(qwen3_vl, slots=2, attempt=["magic"])
