"""The self-test: what matches is on, what does not is off with the reason, and what slots cannot hold is static."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

import workers
from workers.engine.continuous import find_slot_bytes, open_continuous
from workers.engine.engine import TransformersEngine
from workers.engine.features import UNPROVEN, Features
from workers.engine.loader import LoadedModel, load_model
from workers.engine.prefill import Prefiller
from workers.engine.prefix import Prefix
from workers.engine.protocol import Request
from workers.engine.slots import SlotPool
from workers.engine.specimens import draw_requests, prepare_specimens
from workers.engine.static import StaticBatchEngine
from workers.engine.trial import Answer, agrees
from workers.engine.verify import Verdict, main, verify_model
from workers.engine.vision import VisionEncoder

sys.path.insert(0, str(Path(__file__).parent))
families: Any = importlib.import_module("families")

PATIENCE_S = 60.0
DOCREADER = Path(workers.__file__).parent / "models" / "docreader"
NewRequest = Callable[..., Request]
#: Layers as small as these gain nothing by packed weights.
UNTRIED = {*UNPROVEN, "packed_weights"}
ALL = dataclasses.asdict(Features(packed_weights=False))


@pytest.fixture(scope="module", params=["qwen3_vl_folder", "llava_folder", "docreader"])
def any_model(request: pytest.FixtureRequest) -> LoadedModel:
    folder = DOCREADER if request.param == "docreader" else request.getfixturevalue(request.param)
    return load_model(folder, threads=1)


def test_a_sound_model_has_everything_on(any_model: LoadedModel) -> None:
    verdict = verify_model(any_model)
    # The bundled model's template puts pictures first, so nothing can be said there about a text before one.
    untested = UNTRIED | ({"prefix_before_pictures"} if any_model.name == "docreader" else set())
    assert {name for name, on in verdict.features.items() if not on} == untested == set(verdict.reasons)
    assert (verdict.engine, verdict.exact, verdict.of) == ("transformers", 6, 6)
    assert verdict.token_bytes > 0
    assert json.loads(json.dumps(verdict.as_json())) == verdict.as_json()
    assert set(verdict.versions) == {"torch", "transformers"}


def test_the_specimens_are_ragged_and_two_begin_alike(qwen3_vl: LoadedModel) -> None:
    with draw_requests() as requests:
        items = prepare_specimens(qwen3_vl, requests)
    assert len({item.prompt_tokens for item in items}) > 3
    assert {len(item.request.images) for item in items} == {0, 1, 2}
    assert len({item.vision_key for item in items}) >= 4
    for one, other in ((items[0], items[2]), (items[1], items[5])):
        assert one.block_keys[1] == other.block_keys[1] != b""


def shift_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SlotPool.open_step

    def shifted(self: SlotPool, *args: Any) -> Any:
        tokens, positions, mask = original(self, *args)
        return tokens, positions + 3, mask

    monkeypatch.setattr(SlotPool, "open_step", shifted)


def spoil_group(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Prefiller._stack

    def spoilt(self: Prefiller, group: Any, name: str, skip: int, width: int) -> torch.Tensor:
        found = original(self, group, name, skip, width)
        return found.roll(1, dims=0) if name == "input_ids" and len(group) > 1 else found

    monkeypatch.setattr(Prefiller, "_stack", spoilt)


def spoil_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    original = VisionEncoder.combine

    def spoilt(self: VisionEncoder, features: Any, *rest: Any) -> Any:
        output = original(self, features, *rest)
        if self.hits:
            output["pooler_output"] = [part * 0 for part in output["pooler_output"]]
        return output

    monkeypatch.setattr(VisionEncoder, "combine", spoilt)


def spoil_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = VisionEncoder._encode_batch

    def spoilt(self: VisionEncoder, batch: Any) -> Any:
        found = original(self, batch)
        return found[::-1] if len(batch) > 1 else found

    monkeypatch.setattr(VisionEncoder, "_encode_batch", spoilt)


def spoil_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Prefix.expand

    def spoilt(self: Prefix, rows: int) -> Any:
        cache = original(self, rows)
        cache.layers[0].values = cache.layers[0].values * -1
        return cache

    monkeypatch.setattr(Prefix, "expand", spoilt)


@pytest.mark.parametrize(
    ("spoil", "off"),
    [
        (spoil_group, {"grouped_prefill", "batched_encoder"}),
        (spoil_cache, {"encoder_cache", "batched_encoder", "chunked_prefill"}),
        (spoil_batch, {"batched_encoder"}),
        (spoil_prefix, {"prefix_reuse", "prefix_before_pictures"}),
    ],
)
def test_what_does_not_match_is_off_and_the_rest_stays_on(
    qwen3_vl: LoadedModel, monkeypatch: pytest.MonkeyPatch, spoil: Any, off: set[str]
) -> None:
    spoil(monkeypatch)
    verdict = verify_model(qwen3_vl)
    assert {name for name, on in verdict.features.items() if not on} == off | UNTRIED
    assert set(verdict.reasons) == off | UNTRIED
    assert (verdict.engine, verdict.exact) == ("transformers", 6)


def test_a_feature_that_raises_is_off(qwen3_vl: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: VisionEncoder, features: Any) -> Any:
        raise KeyError("a secret path")

    monkeypatch.setattr(VisionEncoder, "combine", fail)
    verdict = verify_model(qwen3_vl)
    assert verdict.reasons["encoder_cache"] == "It fails on this model (KeyError)."
    assert verdict.features == {**ALL, "encoder_cache": False, "batched_encoder": False, "chunked_prefill": False}


def test_slots_that_do_not_match_fall_back(
    qwen3_vl: LoadedModel, monkeypatch: pytest.MonkeyPatch, new_request: NewRequest
) -> None:
    shift_decode(monkeypatch)
    engine = open_continuous(qwen3_vl, slots=3, preparers=1)
    assert isinstance(engine, StaticBatchEngine)
    assert engine.verdict is not None
    assert engine.verdict.engine == "static"
    assert "of 6 answers" in engine.verdict.reasons["engine"]
    assert engine.submit(new_request()).result(PATIENCE_S).error is None
    engine.close()


def prepare_some(loaded: LoadedModel) -> list[Any]:
    requests = [
        families.new_request(str(number), list(range(20, 100 + number)), images, before=before, max_tokens=4)
        for number, (images, before) in enumerate(
            [(("cat",), 3), ((), 3), (("dog",), 3), (("cat",), 40), (("dog",), 40), (("cat",), 3)]
        )
    ]
    return [loaded.processing.prepare(request, loaded.processing.render(request), 0.0) for request in requests]


def test_layers_of_another_kind_fall_back_with_their_name() -> None:
    """Qwen3.5: three of four layers are linear attention, whose state is no list of keys and values."""
    text = families._text(
        layer_types=["linear_attention", "full_attention"],
        rope_parameters={**families._axes(1, 1, 0), "partial_rotary_factor": 0.25},
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
    )
    tower = families._qwen_tower(hidden_size=32, out_hidden_size=64, num_position_embeddings=64)
    config = tf.Qwen3_5Config(text_config=text, vision_config=tower, **families._SPOTS)
    model = tf.Qwen3_5ForConditionalGeneration(config).eval()
    family = families.Family(lambda: model, families._grid(3 * 2 * 8 * 8), families._MM_TYPES)
    processing: Any = families.StubProcessing(family, model)
    loaded = LoadedModel(model, processing, "qwen3_5", "random", frozenset(), 0, families.CONTEXT)
    verdict = verify_model(loaded, prepare_some(loaded))
    assert verdict.engine == "static"
    assert "linear_attention" in verdict.reasons["engine"]
    assert not any(verdict.features.values())


def test_a_family_that_refuses_masks_by_layer_falls_back() -> None:
    """PaliGemma 2: layers that look back a limited distance, and a forward that builds their masks itself."""
    tower = families._TOWER | {"model_type": "siglip_vision_model", "projection_dim": 64, "vision_use_head": False}
    text = tf.Gemma2Config(**families._text(sliding_window=16, query_pre_attn_scalar=16))
    config = tf.PaliGemmaConfig(
        text_config=text, vision_config=tower, image_token_index=families.IMAGE, projection_dim=64, hidden_size=64
    )
    model = tf.PaliGemmaForConditionalGeneration(config).eval()
    family = families.Family(lambda: model, families._square(16), families._types("token_type_ids", zero=True))
    processing: Any = families.StubProcessing(family, model)
    loaded = LoadedModel(model, processing, "paligemma2", "random", frozenset(), 0, families.CONTEXT)
    verdict = verify_model(loaded, prepare_some(loaded))
    assert (verdict.engine, verdict.exact) == ("static", 0)
    assert "The slot path fails on this model" in verdict.reasons["engine"]


def test_an_encoder_decoder_falls_back(qwen3_vl: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen3_vl.model.config, "is_encoder_decoder", True, raising=False)
    with draw_requests() as requests:
        items = prepare_specimens(qwen3_vl, requests)
    monkeypatch.setattr("workers.engine.trial.run_reference", lambda *_: Answer([], torch.empty(0)))
    verdict = verify_model(qwen3_vl, items)
    assert verdict.engine == "static"
    assert "encoder-decoder" in verdict.reasons["engine"]


@pytest.mark.parametrize("name", ["gemma3", "smolvlm", "glm4v", "mistral3", "got_ocr2"])
def test_families_without_a_processor_are_judged_by_given_requests(name: str) -> None:
    loaded = families.load_family(name)
    verdict = verify_model(loaded, prepare_some(loaded))
    assert (verdict.engine, verdict.exact) == ("transformers", 6), verdict.reasons
    # Gemma's pictures attend both ways, and its masks count from the first token that is computed.
    off = dict.fromkeys(["prefix_before_pictures", "chunked_prefill"] if name == "gemma3" else [], False)
    # The convolutions of these two say how they pad, and are left alone.
    off |= dict.fromkeys(["patch_matmul"] if name in ("gemma3", "smolvlm") else [], False)
    assert verdict.features == ALL | off, verdict.reasons


def test_half_precision_may_differ_at_a_tie_only() -> None:
    scores = torch.tensor([[0.0, 9.0, 10.0], [0.0, 9.9, 10.0]])
    reference = Answer([2, 2], scores)

    def found(tokens: list[int], shift: float = 0.0) -> Answer:
        return Answer(tokens, scores + torch.tensor([shift, 0.0, 0.0]))

    assert agrees(reference, found([2, 2]), exact=True)
    assert agrees(reference, found([2, 2], 0.001), exact=True)
    assert not agrees(reference, found([2, 2], 0.1), exact=True), "the same tokens by other scores"
    assert not agrees(reference, found([2, 1]), exact=True)
    assert agrees(reference, found([2, 1], 0.1), exact=False)
    assert not agrees(reference, found([2, 1], 0.3), exact=False)
    assert not agrees(reference, found([1, 2]), exact=False)
    assert not agrees(reference, found([2, 0]), exact=False)
    assert not agrees(reference, found([2, 2], float("nan")), exact=False)


def test_bfloat16_is_verified_with_that_tolerance(qwen3_vl_folder: Path) -> None:
    verdict = verify_model(load_model(qwen3_vl_folder, dtype="bfloat16", threads=1))
    assert (verdict.engine, verdict.dtype) == ("transformers", "bfloat16"), verdict.reasons


def test_what_half_precision_would_hide_is_off() -> None:
    loaded = families.load_family("gemma3", torch.bfloat16)
    verdict = verify_model(loaded, prepare_some(loaded))
    assert verdict.engine == "transformers", verdict.reasons
    off = {"prefix_reuse", "prefix_before_pictures", "chunked_prefill", "patch_matmul", "matmul_attention"}
    assert {name for name, on in verdict.features.items() if not on} == off | UNTRIED
    assert "half precision" in verdict.reasons["prefix_reuse"]


def test_a_given_verdict_is_taken(qwen3_vl: LoadedModel, new_request: NewRequest) -> None:
    only_slots = dict.fromkeys(ALL, False)
    verdict = Verdict("transformers", 6, 6, only_slots, {}, {}, "cpu", "float32", 0.1, token_bytes=1024)
    engine = open_continuous(qwen3_vl, slots=8, verdict=verdict, slot_bytes=3 * 512 * 1024)
    assert isinstance(engine, TransformersEngine)
    assert dataclasses.asdict(engine.features) == only_slots
    assert engine.slots < 8, "memory for three whole contexts"
    assert engine.submit(new_request(images=1)).result(PATIENCE_S).usage.cached_tokens == 0
    engine.close()


def test_memory_for_slots_is_a_share_of_what_is_free() -> None:
    assert 2**20 < find_slot_bytes(torch.device("cpu")) < 2**50


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers.engine.verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def test_the_command_ends_with_one_json_object(qwen3_vl_folder: Path, tmp_path: Path) -> None:
    """In a process that can import nothing but what the engine needs."""
    guard = tmp_path / "sitecustomize.py"
    forbidden = ["batchinfer", "celery", "sqlalchemy", "flask", "redis", "psycopg", "pydantic", "llguidance"]
    guard.write_text(f"import sys\nfor name in {forbidden}:\n    sys.modules[name] = None\n")
    root = Path(workers.__file__).parents[1]
    environment = {"PYTHONPATH": f"{tmp_path}:{root}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = run_command(str(qwen3_vl_folder), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.strip().splitlines()
    found = json.loads(last)
    assert {"engine", "exact", "of", "features", "reasons"} <= set(found)
    assert (found["engine"], found["exact"], found["features"]) == ("transformers", found["of"], ALL)
    assert "continuous batching" in lines[0]


def test_a_broken_folder_is_one_line_and_a_failure(
    qwen3_vl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(qwen3_vl_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main([str(folder)]) == 1
    line, last = capsys.readouterr().out.strip().splitlines()
    assert "cut short" in line
    found = json.loads(last)
    assert (found["engine"], found["exact"], found["of"]) == (None, 0, 0)
    assert list(found["reasons"]) == ["weights_truncated"]
    assert main([str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["engine"] is None
