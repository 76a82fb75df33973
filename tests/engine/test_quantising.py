"""Quantised weights answer, and what cannot be had is refused with what to do instead."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workers.engine.loader import load_model
from workers.engine.protocol import ModelError
from workers.engine.quantising import find_method, list_versions, make_config

DOCREADER = Path(__file__).resolve().parents[2] / "workers" / "models" / "docreader"
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="The extra `quantised` is not installed.")


def configuration(quantised: dict[str, Any] | None = None) -> Any:
    made = SimpleNamespace(quantization_config=quantised)
    made.get_text_config = lambda: SimpleNamespace(quantization_config=None)
    return made


def refuse(quantisation: str, *, checkpoint: dict[str, Any] | None = None, device: str = "cpu") -> ModelError:
    with pytest.raises(ModelError) as caught:
        make_config(quantisation, configuration(checkpoint), torch.bfloat16, device)
    return caught.value


def test_nothing_asked_nothing_done() -> None:
    assert make_config("none", configuration(), torch.float32, "cpu") is None
    assert find_method(configuration()) is None
    assert list_versions("none") == {}


def test_an_unknown_kind_is_no_model_error() -> None:
    with pytest.raises(ValueError, match="none, int8, int4, fp8, not int3"):
        make_config("int3", configuration(), torch.float32, "cpu")
    with pytest.raises(ValueError, match="not int3"):
        load_model(DOCREADER, quantisation="int3")


@pytest.mark.parametrize("quantisation", ["int4", "fp8"])
def test_what_needs_a_gpu_is_refused_on_a_cpu(quantisation: str) -> None:
    error = refuse(quantisation)
    assert error.code == "quantisation_not_on_device"
    assert "say int8" in error.message


@pytest.mark.parametrize(
    ("capability", "quantisation", "dtype", "said"),
    [
        ((7, 5), "int4", torch.bfloat16, "compute capability 8.0"),
        ((8, 6), "fp8", torch.bfloat16, "compute capability 8.9"),
        ((9, 0), "fp8", torch.float16, "computes in bfloat16"),
    ],
)
def test_a_gpu_that_cannot_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], quantisation: str, dtype: Any, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with pytest.raises(ModelError, match=said) as caught:
        make_config(quantisation, configuration(), dtype, "cuda:0")
    assert caught.value.code == "quantisation_not_on_device"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    error = refuse("int8")
    assert error.code == "quantisation_not_installed"
    assert "extra `quantised`" in error.message


def test_a_checkpoint_is_not_quantised_twice() -> None:
    error = refuse("int8", checkpoint={"quant_method": "gptq", "bits": 4})
    assert error.code == "already_quantised"
    assert "gptq" in error.message


def test_a_checkpoint_whose_library_is_missing_names_it() -> None:
    error = refuse("none", checkpoint={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert error.code == "quantisation_not_installed"
    assert "bitsandbytes" in error.message
    assert len(error.message) < 500


def test_a_checkpoint_of_an_unknown_method_is_refused() -> None:
    assert refuse("none", checkpoint={"quant_method": "abacus"}).code == "quantisation_unusable"


@pytest.mark.long
def test_a_half_precision_loads_and_answers(tmp_path: Path) -> None:
    from workers.engine.verify import verify_model

    loaded = load_model(DOCREADER, threads=1, dtype="bfloat16")
    assert loaded.quantisation == "none"
    verdict = verify_model(loaded)
    assert (verdict.engine, verdict.dtype, verdict.quantisation) == ("transformers", "bfloat16", "none")


#: Loads a model as int8, writes it as a checkpoint of its own, loads that, and prints both verdicts. In a process of
#: its own, as what torchao logs and warns of when it is imported is its own business.
ROUND = """
import json, shutil, sys
from pathlib import Path
from workers.engine.loader import load_model
from workers.engine.verify import verify_model

source, out = Path(sys.argv[1]), Path(sys.argv[2])
loaded = load_model(source, threads=1, quantisation="int8")
first = verify_model(loaded)
kinds = {type(p).__name__ for p in loaded.model.model.language_model.layers[0].parameters()}
loaded = load_model(source, threads=1, dtype="bfloat16", quantisation="int8")
loaded.model.save_pretrained(out)
for file in source.iterdir():
    if not (out / file.name).exists():
        shutil.copy(file, out / file.name)
second = verify_model(load_model(out, threads=1))
sizes = [(folder / "model.safetensors").stat().st_size for folder in (source, out)]
print(json.dumps({"verdicts": [first.as_json(), second.as_json()], "kinds": sorted(kinds), "sizes": sizes}))
"""


@needs_torchao
@pytest.mark.parametrize("bundled", [False, pytest.param(True, marks=pytest.mark.long)])
def test_int8_is_exact_against_its_own_generate_and_as_a_checkpoint(
    tmp_path: Path, qwen3_vl_folder: Path, bundled: bool
) -> None:
    """A tiny model, and the bundled one."""
    command = [sys.executable, "-c", ROUND, str(DOCREADER if bundled else qwen3_vl_folder), str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout.splitlines()[-1])
    first, second = found["verdicts"]
    assert "Int8Tensor" in found["kinds"]
    assert (first["quantisation"], first["dtype"], first["engine"]) == ("int8", "float32", "transformers")
    assert first["exact"] == first["of"] > 0
    assert first["versions"]["torchao"]
    assert (second["quantisation"], second["dtype"], second["engine"]) == ("torchao", "bfloat16", "transformers")
    assert second["exact"] == second["of"]
    assert found["sizes"][1] < 0.7 * found["sizes"][0]
