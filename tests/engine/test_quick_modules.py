"""Modules and attention that do the same sums in less time: equal to what they stand for, and given back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.engine import matmul_attention, quick_modules
from workers.engine.features import ALL_OFF
from workers.engine.loader import LoadedModel
from workers.engine.quick_modules import QuickModules, find_large_linears, find_patch_embeddings
from workers.engine.scheduler import LengthClass
from workers.engine.slots import SlotPool
from workers.engine.varlen import UnavailableError
from workers.engine.verify import verify_model

BOTH = dataclasses.replace(ALL_OFF, patch_matmul=True, packed_weights=True)


class Small(nn.Module):
    """A patch embedding, one that overlaps, and two linear layers."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4))
        self.overlapping = nn.Conv2d(3, 8, kernel_size=4, stride=2)
        self.linear, self.bare = nn.Linear(16, 8), nn.Linear(16, 8, bias=False)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setattr(quick_modules, "LARGE", 1)
    torch.manual_seed(1)
    return Small()


@torch.inference_mode()
def test_what_is_exchanged_gives_the_same(small: Small) -> None:
    single, several, values = torch.randn(5, 3, 2, 4, 4), torch.randn(2, 3, 4, 8, 12), torch.randn(2, 5, 16)
    calls: list[tuple[Any, Tensor]] = [
        (small.patches, single),
        (small.patches, several),
        (small.linear, values),
        (small.bare, values),
    ]
    wanted = [module(given) for module, given in calls]
    with QuickModules(small, BOTH).applied():
        assert {"patches", "linear", "bare"} == {n for n, m in small.named_children() if "forward" in vars(m)}
        for (module, given), reference in zip(calls, wanted, strict=True):
            torch.testing.assert_close(module(given), reference)


def test_modules_get_their_own_forward_back_from_the_last_user(small: Small) -> None:
    one, other = QuickModules(small, BOTH), QuickModules(small, BOTH)
    one.apply()
    other.apply()
    one.undo()
    one.undo()
    assert "forward" in vars(small.linear)
    other.undo()
    assert not any("forward" in vars(module) for module in small.modules())


def test_only_what_gains_is_found(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_patch_embeddings(small) == [small.patches]
    assert find_large_linears(small) == [small.linear, small.bare]
    monkeypatch.setattr(quick_modules, "_count_free_bytes", lambda: 0)
    assert find_large_linears(small) == []
    monkeypatch.undo()
    assert find_large_linears(small) == []


@pytest.fixture
def packing(qwen3_vl: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadedModel]:
    monkeypatch.setattr(quick_modules, "LARGE", 1)
    yield qwen3_vl
    assert not any("forward" in vars(module) for module in qwen3_vl.model.modules())


def test_the_self_test_finds_them_exact(packing: LoadedModel) -> None:
    verdict = verify_model(packing)
    assert all(verdict.features[name] for name in ("patch_matmul", "packed_weights", "matmul_attention"))
    assert verdict.exact == verdict.of


def test_wrong_sums_stay_off(packing: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = quick_modules._with_weights

    def wrong(module: nn.Module) -> quick_modules.Forward:
        forward = right(module)
        return lambda values: 1.01 * forward(values)

    monkeypatch.setattr(quick_modules, "_with_weights", wrong)
    verdict = verify_model(packing)
    assert not verdict.features["packed_weights"]
    assert "generate" in verdict.reasons["packed_weights"]
    assert verdict.features["patch_matmul"]


@torch.inference_mode()
def test_attention_by_products_is_attention() -> None:
    torch.manual_seed(2)
    query, keys, values = torch.randn(3, 6, 1, 8), torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)
    mask = (torch.arange(9)[None] <= torch.tensor([2, 8, 0])[:, None])[:, None, None]
    wanted = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=True)
    made, _ = matmul_attention.attend(nn.Identity(), query, keys, values, matmul_attention.make_additive(mask))
    torch.testing.assert_close(made, wanted.transpose(1, 2))


def test_attention_by_products_is_for_float32_on_a_cpu(qwen3_vl: LoadedModel) -> None:
    matmul_attention.check_model(qwen3_vl.model)
    with pytest.raises(UnavailableError, match="float32"):
        matmul_attention.check_model(type("Half", (), {"device": torch.device("cpu"), "dtype": torch.bfloat16}))


def test_slots_that_grow_keep_what_they_hold() -> None:
    pool = SlotPool(LengthClass(2, 600), device=torch.device("cpu"), bucket=16, grows=True)
    cache, layer = pool.cache, torch.randn(1, 2, 100, 4)
    source = type("Source", (), {"layers": [type("Layer", (), {"keys": layer, "values": -layer})]})
    cache.load(1, source, 0, 0, 100)  # type: ignore[arg-type]
    assert cache.capacity == 128 == cache.keys[0].shape[2]
    cache.reserve(129)
    assert cache.capacity == 256 == cache.values[0].shape[2]
    assert torch.equal(cache.keys[0][1, :, :100], layer[0])
    assert torch.equal(cache.values[0][1, :, :100], -layer[0])
    assert not cache.keys[0][1, :, 100:].any()
    cache.reserve(600)
    assert cache.capacity == 600
