"""Memory plans: arithmetic held against sums done by hand, budgets, the ledger of a device, and what is advised."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.domain import memory
from batchinfer.domain.launches import DEFAULT_SLOTS, Holding, LaunchSpec, fit_device, make_plan, parse_launch
from batchinfer.domain.memory import Allowance, count_free, fits, hold_mib, plan_lengths, plan_memory, reserve_mib
from batchinfer.domain.memory_facts import LARGE_VALUES, ModelFacts, read_facts
from batchinfer.domain.model_shapes import ModelShape
from batchinfer.errors import BadRequest
from batchinfer.media.weight_headers import read_model_facts
from batchinfer.store.hosts import Device

DOCREADER = Path(__file__).resolve().parents[2] / "workers/models/docreader"
#: 2^30 values in bfloat16, all in large matrices; 4 KiB of keys and values a token in half precision.
SHAPE = ModelShape(2**30, 2**30, 2**30, 0, 4096, token_side=32, patches_per_token=4, width=1024, middle=4096,
                   vision_width=0, vision_middle=0, vocabulary=1000)  # fmt: skip
FACTS = ModelFacts(SHAPE, {"BF16": 2**31}, 2**30, 2**30, 8192, image_pixels=2**16)
PLAIN = LaunchSpec()
H100 = Device("cuda:0", "cuda", 81_559, "H100")


def plan(**options):
    return plan_memory(FACTS, **{"slots": 8, **options})


def test_the_sums_on_a_gpu():
    found = plan(device_kind="cuda")
    assert (found.dtype, found.weights_mib) == ("bfloat16", 2048)
    assert found.kv_mib == 8 * 8192 * 4096 // 2**20 == 256
    # Layers of 8,192 tokens, their keys and values, and three copies of the scores.
    layers = 8192 * 2 * (6 * 1024 + 3 * 4096) + 8192 * 4096 + 8 * 1000 * 4 * 3
    assert found.activations_mib == -(-layers // 2**20)
    assert found.workspace_mib == memory.CUDA_BASE_MIB + 256 + 256
    assert found.total_mib == 2048 + 256 + found.activations_mib + found.workspace_mib


def test_the_sums_on_a_cpu():
    found = plan()
    assert (found.dtype, found.weights_mib) == ("float32", 2 * 4096)  # converted, and a second time as a copy
    assert (found.copies_mib, plan(dtype="bfloat16").copies_mib, plan(device_kind="cuda").copies_mib) == (4096, 0, 0)
    assert plan(dtype="bfloat16").weights_mib == 2048
    assert found.kv_mib == 512
    ready = 2 * 8 * 2**16 * 6 * 4 // 2**20
    words = memory.VOCABULARY_BYTES * 1000 / 2**20
    assert found.workspace_mib == -(-(memory.CPU_BASE_MIB + words) // 1) + 3 * 256 + ready
    assert found.loaded_mib < found.total_mib


def test_quantisation_makes_matrices_smaller_and_files_that_are_quantised_stay():
    assert plan(device_kind="cuda", quantisation="int8").weights_mib == 1056
    assert plan(device_kind="cuda", quantisation="int4").weights_mib == 576
    mixed = ModelFacts(SHAPE, {"I8": 2**30, "F32": 2**20}, 0, 0, 8192, is_quantised=True)
    assert plan_memory(mixed, slots=1, device_kind="cuda").weights_mib == 1025


def test_what_was_measured_replaces_the_guess_and_what_work_adds_stays():
    guess = plan()
    found = plan(measured_mib=guess.loaded_mib + 500)
    assert found.measured
    assert found.loaded_mib == guess.loaded_mib + 500
    assert found.total_mib == guess.total_mib + 500
    assert hold_mib(1000, 600, None) == 1000
    assert hold_mib(1000, 600, 500) == 900
    assert hold_mib(1000, None, 500) == 1000
    assert hold_mib(1000, 600, 5000) == 5400


def test_long_contexts_are_planned_in_two_lengths():
    assert plan_lengths(8, 8192) == [(8, 8192)]
    assert plan_lengths(8, 32_768) == [(6, 4096), (2, 32_768)]
    assert plan_lengths(1, 32_768) == [(1, 32_768)]
    long = ModelFacts(SHAPE, {"BF16": 2**31}, 2**30, 2**30, 262_144)
    assert plan_memory(long, slots=8).context_tokens == memory.PLANNED_CONTEXT
    assert plan_memory(long, slots=8, context_tokens=100_000).context_tokens == 100_000


def test_a_budget_shrinks_caches_then_slots_then_contexts():
    whole = plan()
    assert plan(budget_mib=whole.total_mib) == whole
    caches = plan(budget_mib=whole.total_mib - 1)
    assert (caches.slots, caches.allowance.encoder_cache_mib, caches.allowance.copies) == (8, 64, True)
    tight = memory.ALLOWANCES[-1]
    no_copies = plan(budget_mib=5500)
    assert (no_copies.slots, no_copies.allowance) == (8, tight)
    fewer = plan(budget_mib=no_copies.total_mib - 100)
    assert 0 < fewer.slots < 8
    short = plan_memory(ModelFacts(SHAPE, {"F16": 2**31}, 0, 0, 100_000), slots=8, budget_mib=4096 + 800)
    assert (short.slots, short.context_tokens) == (1, memory.LEAST_CONTEXT)


def test_a_budget_below_one_slot_is_refused_with_what_it_needs():
    with pytest.raises(BadRequest, match="one slot of 4,096 tokens takes") as refused:
        plan(budget_mib=1000)
    assert refused.value.code == "memory_budget_too_small"
    needed = int(refused.value.message.split("takes ")[1].split(" MiB")[0].replace(",", ""))
    assert plan(budget_mib=needed).slots == 1


@settings(deadline=None)
@given(st.integers(600, 20_000), st.integers(1, 64), st.sampled_from(["cpu", "cuda"]), st.integers(1, 200_000))
def test_no_plan_is_over_its_budget(budget, slots, kind, context):
    try:
        found = plan_memory(FACTS, slots=slots, budget_mib=budget, device_kind=kind, context_tokens=context)
    except BadRequest:
        return
    assert found.total_mib <= budget
    assert 1 <= found.slots <= slots
    assert found.loaded_mib <= found.total_mib


@settings(deadline=None)
@given(
    st.integers(0, 100_000),
    st.sampled_from(["cpu", "cuda"]),
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 40_000), st.integers(-2000, 2000)), max_size=40),
)
def test_whatever_the_order_of_launches_and_stops_no_plan_exceeds_the_device(total, kind, acts):
    """A name that is there is stopped, else launched if it fits; once loaded, what was measured is held instead."""
    held = {}
    for name, wanted, off in acts:
        if name in held:
            del held[name]
        elif fits(kind, total, held.values(), wanted):
            held[name] = wanted
            measured = hold_mib(wanted, wanted // 2, max(1, wanted // 2 + min(0, off)))
            held[name] = min(measured, wanted)
        assert sum(held.values()) <= total - reserve_mib(kind, total)
        assert count_free(kind, total, held.values()) >= 0
    # Whoever was refused fits once all others are gone, if it does at all: no order leaves anything behind.
    for _, wanted, _ in acts:
        assert fits(kind, total, [], wanted) == (wanted <= total - reserve_mib(kind, total))


@settings(deadline=None)
@given(st.permutations([("a", 30_000), ("b", 20_000), ("c", 15_000), ("d", 10_000)]))
def test_what_fits_together_fits_in_any_order(order):
    held = []
    for _, wanted in order:
        assert fits("cuda", H100.total_mib, held, wanted)
        held.append(wanted)


def fit(held, spec=PLAIN, device=H100, facts=FACTS):
    return fit_device("reader", device, "box", held, make_plan(facts, spec, device.kind),
                      lambda other: make_plan(facts, other, device.kind), spec)  # fmt: skip


def test_a_launch_that_fits_says_what_it_needs_and_what_is_free():
    found = fit([Holding("model0@box", "other", 10_000)])
    assert (found.fits, found.missing_mib, found.advice) == (True, 0, ())
    assert found.free_mib == 81_559 - 1631 - 10_000
    assert found.text == (
        f"reader fits on cuda:0 of box: it needs {found.plan.total_mib:,} MiB, 69,928 MiB are free of 81,559."
    )


def test_a_launch_that_does_not_fit_says_what_to_stop_to_shrink_and_to_quantise():
    needed = make_plan(FACTS, LaunchSpec(), "cuda").total_mib
    left = 2800
    kept = 81_559 - 1631 - left
    held = [Holding("model0@box", "big", kept - 3000, pinned=True), Holding("model1@box", "small", 600),
            Holding("model2@box", "middle", 2400)]  # fmt: skip
    found = fit(held)
    assert found.fits is False
    assert (found.free_mib, found.missing_mib) == (left, needed - left)
    advice = {one.action: one for one in found.advice}
    assert advice["stop"].text == "Stop model2@box (middle, 2,400 MiB): then 5,200 MiB are free."
    assert set(advice) == {"stop", "quantise", "budget"}
    assert advice["quantise"].needs_mib <= left
    assert "Or quantise it to int8: it then needs" in found.text or "Or quantise it to int4" in found.text
    assert advice["budget"].needs_mib <= left
    assert found.text.startswith(
        f"reader does not fit on cuda:0 of box: it needs {needed:,} MiB, 2,800 MiB are free of 81,559 "
        "(1,631 are kept for the system; held by model0@box (big, "
    )
    assert f"{needed - left:,} MiB are missing." in found.text


def test_slots_and_contexts_are_advised_with_their_sums():
    long = ModelFacts(SHAPE, {"BF16": 2**31}, 2**30, 2**30, 262_144, image_pixels=2**16)
    spec = LaunchSpec(slots=64, context_tokens=262_144)
    found = fit([], spec, Device("cuda:0", "cuda", 24_000), long)
    advice = {one.action: one for one in found.advice}
    assert advice["slots"].needs_mib <= found.free_mib
    assert advice["context"].text == (
        f"Or a context of 131,072 tokens: it then needs {advice['context'].needs_mib:,} MiB."
    )
    count = int(advice["slots"].text.split("take ")[1].split(" slots")[0])
    again = make_plan(long, LaunchSpec(slots=count + 1, context_tokens=262_144), "cuda")
    assert again.total_mib > found.free_mib


def test_smaller_numbers_are_advised_on_a_cpu():
    found = fit([], device=Device("cpu", "cpu", 7000))
    advice = {one.action: one for one in found.advice}
    assert {"dtype", "quantise", "budget"} <= set(advice)
    assert advice["dtype"].text.startswith("Or load it in bfloat16: it then needs ")


def test_two_are_stopped_where_one_is_not_enough_and_nothing_where_none_is():
    held = [Holding("model0@box", "a", 2000), Holding("model1@box", "b", 2000), Holding("model2@box", "c", 100)]
    device = Device("cuda:0", "cuda", 5000)
    assert "Stop model0@box (a, 2,000 MiB) and model1@box (b, 2,000 MiB): then" in fit(held, device=device).text
    small = Device("cuda:0", "cuda", 1000)
    assert fit([], device=small).text.endswith("Nothing that could be stopped or made smaller here is enough.")
    assert fit([], device=Device("cuda:0", "cuda")).fits is None


def test_the_body_of_a_question():
    assert parse_launch({}) == LaunchSpec()
    assert parse_launch({"device": "cuda:1", "slots": 4, "memory_mib": None}) == LaunchSpec("cuda:1", 4)
    for body, param in (
        ({"device": "tpu"}, "device"),
        ({"device": "cpu:1"}, "device"),
        ({"device": "cuda:"}, "device"),
        ({"slots": 0}, "slots"),
        ({"dtype": "int3"}, "dtype"),
        ({"quantisation": "gguf"}, "quantisation"),
        ({"memory_mib": -1}, "memory_mib"),
        ({"shots": 1}, "shots"),
    ):
        with pytest.raises(BadRequest) as refused:
            parse_launch(body)
        assert refused.value.param == param


def test_the_facts_of_the_bundled_model():
    kept = json.loads(json.dumps(read_model_facts(DOCREADER)))
    facts = read_facts(kept)
    assert facts.weights == {"F16": kept["weights_bytes"]}
    assert (facts.context_tokens, facts.image_pixels, facts.large_values) == (1024, 65_536, 0)
    assert facts.shape.kv_bytes_per_token == 3072
    assert len(json.dumps(kept)) < 1500
    assert read_facts({}) is read_facts({"memory": {"shape": {}}}) is None


def write_model(folder, tensors, config=None):
    """A folder with one weight file of zeros."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = memory.STORED_BYTES.get(dtype, 1)
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + at)
    (folder / "config.json").write_text(json.dumps(config or json.loads((DOCREADER / "config.json").read_text())))
    return folder


def test_matrices_are_told_from_tables_vectors_and_experts(tmp_path):
    tensors = {
        "model.embed_tokens.weight": ("F16", [2048, 1024]),
        "model.layers.0.mlp.up_proj.weight": ("F16", [1024, 1024]),
        "model.layers.0.mlp.down_proj.weight": ("F32", [1024, 512]),
        "model.layers.0.norm.weight": ("F16", [1024]),
        "model.layers.0.experts.weight": ("F16", [2, 1024, 1024]),
        "visual.pos_embed.weight": ("F16", [2048, 1024]),
        "q.qweight": ("I8", [10, 10]),
    }
    facts = read_facts(read_model_facts(write_model(tmp_path, tensors)))
    assert facts.linear_values == 2048 * 1024 + 1024 * 1024 + 1024 * 512  # the output is tied to the table
    assert facts.large_values == 2048 * 1024 + 1024 * 1024
    assert facts.weights["F32"] == 1024 * 512 * 4
    assert facts.weights["I8"] == 100


@pytest.mark.parametrize("damage", ["config", "header", "short", "none"])
def test_a_folder_that_cannot_be_read_has_no_facts(tmp_path, damage):
    folder = write_model(tmp_path, {"a.weight": ("F16", [8, 8])})
    if damage == "config":
        (folder / "config.json").write_text("[]")
    elif damage == "header":
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10**12) + b"{}")
    elif damage == "short":
        (folder / "model.safetensors").write_bytes(b"abc")
    else:
        folder = folder / "nothing"
    found = read_model_facts(folder)
    assert read_facts(found) is None
    # Of weights that cannot be read the rest is told all the same.
    assert set(found) == ({"architecture", "model_type", "weights_bytes"} if damage in ("header", "short") else set())


def test_a_model_of_an_unknown_shape_has_no_plan(tmp_path):
    config = {"architectures": ["Mamba"], "model_type": "mamba"}
    kept = read_model_facts(write_model(tmp_path, {"a.weight": ("F16", [8, 8])}, config))
    assert kept == {"architecture": "Mamba", "model_type": "mamba", "weights_bytes": 128}
    assert read_facts(kept) is None


def test_numbers_are_those_of_the_engine():
    from workers.engine import quick_modules, scheduler
    from workers.engine.features import Budgets
    from workers.model import DEFAULT_SLOTS as SLOTS

    shares = (scheduler._SHORT_SHARE, scheduler._SHORTER, scheduler._SHORTEST)
    assert shares == (memory.SHORT_SHARE, memory.SHORTER, memory.SHORTEST)
    assert (LARGE_VALUES, DEFAULT_SLOTS) == (quick_modules.LARGE, SLOTS)
    mib = memory.MIB
    budgets = Budgets()
    sizes = (budgets.encoder_cache_bytes, budgets.prefix_cache_bytes, budgets.pixel_cache_bytes, budgets.ready_bytes)
    plain = Allowance()
    assert (budgets.prefill_tokens, *(size // mib for size in sizes)) == (
        plain.prefill_tokens, plain.encoder_cache_mib, plain.prefix_cache_mib, plain.pixel_cache_mib, plain.ready_mib,
    )  # fmt: skip


@settings(deadline=None)
@given(st.integers(1, 64), st.sampled_from([1024, 4096, 8192, 16_384, 32_768, 262_144]))
def test_the_engine_makes_the_slots_that_were_planned(slots, context):
    from workers.engine.scheduler import plan_classes

    planned = plan_lengths(slots, context)
    limit = 7 * sum(count * length for count, length in planned)
    made = plan_classes(slots, context, bytes_per_token=7, limit_bytes=limit)
    assert [(one.slots, one.length) for one in made] == planned
