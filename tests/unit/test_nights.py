"""`plan night`: shapes by their configurations, and the arithmetic held against sums done by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchinfer.cli import cli
from batchinfer.domain.model_shapes import ModelShape, read_shape
from batchinfer.domain.nights import DEVICES, Basis, DeviceKind, Measured, Night, plan_night
from batchinfer.errors import BadRequest

DOCREADER = Path(__file__).resolve().parents[2] / "workers/models/docreader"
#: The language model of Qwen3-VL-2B and -30B-A3B by their public configurations.
QWEN_2B = {
    "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
}  # fmt: skip
QWEN_30B = QWEN_2B | {
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "num_experts": 128,
    "num_experts_per_tok": 8, "moe_intermediate_size": 768, "tie_word_embeddings": False,
}  # fmt: skip
VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "patch_size": 16, "spatial_merge_size": 2}
#: One device that multiplies 1 TFLOP/s and reads 1 GB/s at the shares that are assumed, and a shape of round numbers.
ROUND = DeviceKind("round", 2.5, 1 / 0.6, 1000)
SHAPE = ModelShape(10**9, 10**9, 10**9, 10**8, 1000, token_side=None, patches_per_token=4, image_tokens=350)


def number(plan, name):
    return next(found for found in plan.numbers if found.name == name)


def test_a_dense_shape_has_the_published_number_of_parameters():
    shape = read_shape({"text_config": QWEN_2B, "vision_config": VISION})
    assert shape.text_parameters == pytest.approx(1.72e9, rel=0.01)
    assert shape.active_parameters == shape.read_parameters == shape.text_parameters
    assert shape.vision_parameters == pytest.approx(0.302e9, rel=0.01)
    assert shape.kv_bytes_per_token == 2 * 28 * 8 * 128 * 2
    assert shape.count_image_tokens(1024, 1408) == 32 * 44


def test_experts_count_as_far_as_a_token_meets_them_and_a_step_of_many_rows_reads_all():
    shape = read_shape({"text_config": QWEN_30B, "vision_config": VISION})
    assert shape.text_parameters == pytest.approx(30.5e9, rel=0.01)
    assert shape.active_parameters == pytest.approx(3.0e9, rel=0.02)
    assert shape.count_step_bytes(1) == 2 * shape.active_parameters
    assert shape.count_step_bytes(64) == 2 * shape.read_parameters > 50e9


def test_a_family_with_a_fixed_number_of_tokens_a_picture():
    shape = read_shape({"text_config": QWEN_2B, "vision_config": {"patch_size": 14, "image_size": 896},
                        "mm_tokens_per_image": 256})  # fmt: skip
    assert (shape.count_image_tokens(5000, 9000), shape.patches_per_token) == (256, 16)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"text_config": {"hidden_size": "x"}},
        {"text_config": QWEN_2B | {"head_dim": None, "num_attention_heads": 0}},
    ],
)
def test_a_configuration_of_no_language_model_is_refused_with_the_way_on(config):
    with pytest.raises(BadRequest, match="--pages-per-second") as caught:
        read_shape(config)
    assert caught.value.code == "model_shape_unknown"


def test_the_arithmetic_by_hand():
    plan = plan_night(Night(3_600_000, 10, 10.0, 100, ROUND), SHAPE, None)
    # 350 + 150 tokens meet 1e9 parameters, 350 x 4 patches 1e8: 1e12 + 2.8e11 operations at 1e12 a second.
    # Decoding: 100 steps share 2e9 bytes among 256 rows, and read 1000 bytes of 550 tokens on average.
    read = 100 * (2e9 / 256 + 1000 * 550)
    seconds = 1.28 + read / 1e9
    assert number(plan, "rows at once").value == 256
    assert number(plan, "bytes a page").value == pytest.approx(read)
    assert number(plan, "one device").value == pytest.approx(1 / seconds)
    assert plan.hours_needed == pytest.approx(3_600_000 * seconds / 10 / 3600)
    assert plan.devices_needed == -(-3_600_000 * seconds // 36_000)
    assert plan.fits is (plan.hours_needed <= 10)


def test_what_was_measured_goes_before_what_is_computed_and_what_is_given_before_both():
    measured = Measured(pages=5000, device_s=0.5, prompt_tokens=900, output_tokens=200)
    plan = plan_night(Night(1000, 1, 1.0, None, ROUND), SHAPE, measured)
    assert (number(plan, "one device").value, number(plan, "one device").basis) == (2.0, Basis.MEASURED)
    assert number(plan, "tokens of an answer").basis is Basis.MEASURED
    longer = plan_night(Night(1000, 1, 1.0, 400, ROUND), SHAPE, measured)
    assert number(longer, "one device").value == pytest.approx(1.0)
    given = plan_night(Night(1000, 1, 1.0, None, ROUND, 7.0), SHAPE, measured)
    assert (number(given, "one device").value, number(given, "one device").basis) == (7.0, Basis.GIVEN)


def test_weights_that_do_not_fit_a_device_leave_no_rate():
    small = DeviceKind("small", 100, 100, 1)
    plan = plan_night(Night(1000, 1, 1.0, 100, small), SHAPE, None)
    assert number(plan, "rows at once").value == 0
    assert plan.hours_needed is None


def run(*arguments):
    found = CliRunner().invoke(cli, ["plan", "night", *arguments])
    assert found.exit_code == 0, found.output
    return found


def test_the_command_says_of_every_number_where_it_comes_from():
    asked = ("--pages", "2000000", "--model", str(DOCREADER), "--devices", "8", "--device-kind", "h100")
    found = run(*asked)
    assert "[computed]" in found.output
    assert "[assumed]" in found.output
    assert "It fits" in found.output
    plan = json.loads(run(*asked, "--json").output)
    assert {one["basis"] for one in plan["numbers"]} <= set(Basis)
    assert plan["fits"] is True


def test_without_anything_to_go_by_it_says_what_is_missing(tmp_path, monkeypatch):
    for name in ("BATCHINFER_URL", "BATCHINFER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    found = run("--pages", "10", "--model", "no-such", "--home", str(tmp_path))
    assert "--pages-per-second" in found.stderr
    assert sorted(DEVICES) == sorted(kind.name for kind in DEVICES.values())
