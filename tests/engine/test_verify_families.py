"""The self-test judges families that no other test names, from whole folders with the family's own processor."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers.engine.continuous import open_continuous
from workers.engine.features import CPU_ONLY, UNPROVEN
from workers.engine.loader import load_model
from workers.engine.protocol import Done, Engine, ModelError, Request
from workers.engine.static import StaticBatchEngine
from workers.engine.verify import verify_model

sys.path.insert(0, str(Path(__file__).parent))
beyond: Any = importlib.import_module("beyond")

PATIENCE_S = 120.0
NewRequest = Callable[..., Request]
#: What is off beside what no GPU has run: the encodings of Ovis 2 have a part of their own, and Idefics 2 changes
#: pictures before its picture processor gets them, so that nobody can say which they are.
OFF = {"ovis2": {"encoder_cache", "batched_encoder", "chunked_prefill"}, "idefics2": {"pixel_cache"}}
REASONS = {"lfm3_vl": "conv", "mllama": "cross-attention", "qwen3_5": "linear_attention"}
QUICK = {"glm46v", "mllama", "ovis2"}
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in sorted(beyond.CHECKPOINTS)]


def ask(engine: Engine, requests: list[Request]) -> list[Done]:
    done = [handle.result(PATIENCE_S) for handle in [engine.submit(request) for request in requests]]
    engine.close()
    return done


# GLM-4.6V's processor makes an array of tensors.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_family_that_nobody_named(name: str, tmp_path: Path, new_request: NewRequest) -> None:
    loaded = load_model(beyond.write_checkpoint(name, tmp_path / name), threads=1)
    verdict = verify_model(loaded)
    if name in REASONS:
        assert (verdict.engine, verdict.exact) == ("static", 0)
        assert REASONS[name] in verdict.reasons["engine"]
        return
    assert (verdict.engine, verdict.exact, verdict.of) == ("transformers", 6, 6), verdict.reasons
    # What a CPU may do quicker depends on the kinds of a family's layers.
    off = {feature for feature, on in verdict.features.items() if not on} - {*CPU_ONLY}
    assert off == OFF.get(name, set()) | {*UNPROVEN}, verdict.reasons

    def build() -> list[Request]:
        return [
            new_request("word " * (number % 4), images=number % 3, first_image=number, max_tokens=3 + 4 * (number % 3))
            for number in range(9)
        ]

    expected = ask(StaticBatchEngine(loaded, slots=1), build())
    answers = ask(open_continuous(loaded, slots=3, verdict=verdict), build())
    assert [(done.error, done.token_ids) for done in answers] == [(None, done.token_ids) for done in expected]


def test_a_picture_processor_for_torchvision_only_is_refused_with_the_reason(
    qwen3_vl_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "only_torchvision"
    shutil.copytree(qwen3_vl_folder, folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Lfm2VlImageProcessor"}')
    (folder / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(ModelError, match="torchvision only"):
        load_model(folder, threads=1)
