"""Weights in several files load as the one file does, and go to the device without a whole copy on the host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file

from workers.engine import weights
from workers.engine.loader import load_model
from workers.engine.protocol import ModelError
from workers.engine.weights import load_weights


@pytest.fixture(scope="module")
def sharded(qwen3_vl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint in shards of at most 200 kB, by transformers' own hand."""
    folder = tmp_path_factory.mktemp("sharded")
    model = tf.AutoModelForImageTextToText.from_pretrained(qwen3_vl_folder)
    model.save_pretrained(folder, max_shard_size="200KB")
    for file in qwen3_vl_folder.iterdir():
        if not file.name.startswith(("model", "config")):
            (folder / file.name).write_bytes(file.read_bytes())
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def read(folder: Path, device: str, dtype: torch.dtype = torch.float32) -> Any:
    return load_weights(folder, tf.AutoConfig.from_pretrained(folder), dtype, device)


def states(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and every buffer, also those that no checkpoint holds."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def test_shards_load_as_one_file_does(sharded: Path, qwen3_vl_folder: Path) -> None:
    whole, parts = (states(load_model(folder, threads=1).model) for folder in (qwen3_vl_folder, sharded))
    assert whole.keys() == parts.keys()
    assert any(name.endswith("inv_freq") for name in whole)
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_named_placement_gives_what_the_plain_way_gives(
    sharded: Path, qwen3_vl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cpu:0` is a device like any other for transformers, so that this path runs where no GPU is."""
    plain, placed = read(qwen3_vl_folder, "cpu", torch.bfloat16), read(sharded, "cpu:0", torch.bfloat16)
    assert placed.dtype == torch.bfloat16
    expected = states(plain)
    for name, tensor in states(placed).items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name
    assert plain.get_output_embeddings().weight.data_ptr() == plain.get_input_embeddings().weight.data_ptr()
    assert placed.get_output_embeddings().weight.data_ptr() == placed.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("name", ["qwen3_vl_moe"])
def test_merged_experts_are_placed_too(name: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import families

    model = families.load_family(name).model
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    expected = states(model)
    for key, tensor in states(read(tmp_path, "cpu:0")).items():
        assert torch.equal(tensor, expected[key]), key


def test_everything_goes_to_the_device_that_was_named(sharded: Path) -> None:
    assert {tensor.device.type for tensor in states(read(sharded, "meta")).values()} == {"meta"}


def test_without_the_hook_weights_go_through_the_host(
    sharded: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights, "_QUESTION", "asked_elsewhere")
    model = read(sharded, "meta")
    assert {tensor.device.type for tensor in states(model).values()} == {"meta"}
    assert "through the host's memory" in caplog.text


def test_weights_that_do_not_fit_are_told_apart(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(weights, "_read", fail)
    with pytest.raises(ModelError, match="do not fit into the memory of cuda") as caught:
        read(sharded, "cuda")
    assert caught.value.code == "weights_too_large"


def test_the_question_for_accelerate_is_answered_as_before_afterwards(sharded: Path) -> None:
    from transformers.integrations import accelerate

    before = accelerate.is_accelerate_available
    read(sharded, "meta")
    assert accelerate.is_accelerate_available is before


#: Reads a folder onto a device and prints the most anonymous memory, in bytes, that came on top while it did.
MEASURE = """
import json, sys, threading, time
from pathlib import Path
import torch, transformers
from transformers import AutoModelForImageTextToText
from workers.engine import weights

def resident():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0]) * 1024

folder, device, small, weights._QUESTION = Path(sys.argv[1]), *sys.argv[2:]
config = transformers.AutoConfig.from_pretrained(folder)
# What the first model of a process costs is no matter here.
AutoModelForImageTextToText.from_config(transformers.AutoConfig.from_pretrained(small))
before, most, stop = resident(), [0], threading.Event()
def watch():
    while not stop.is_set():
        most[0] = max(most[0], resident())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
model = weights.load_weights(folder, config, torch.bfloat16, device)
stop.set()
thread.join()
print(json.dumps({"more": max(most[0], resident()) - before}))
"""


@pytest.mark.long
def test_memory_of_the_host_while_weights_are_read(tmp_path: Path, qwen3_vl_folder: Path) -> None:
    """300 MB in shards of 40 MB, to bfloat16: one copy where the CPU is the device, some tensors where it is not."""
    config = tf.AutoConfig.from_pretrained(qwen3_vl_folder)
    config.text_config.vocab_size = config.vocab_size = 1000
    for name, value in {"hidden_size": 512, "intermediate_size": 6144, "num_hidden_layers": 8}.items():
        setattr(config.text_config, name, value)
    config.vision_config.out_hidden_size = 512
    model = tf.AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(tmp_path, max_shard_size="40MB")
    del model
    files = list(tmp_path.glob("*.safetensors"))
    made_bytes = sum(tensor.nbytes for file in files for tensor in load_file(file).values()) // 2
    assert made_bytes > 150 * 10**6

    def measure(device: str, question: str = weights._QUESTION) -> int:
        command = [sys.executable, "-c", MEASURE, str(tmp_path), device, str(qwen3_vl_folder), question]
        made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        return int(json.loads(made.stdout.splitlines()[-1])["more"])

    assert 0.9 * made_bytes < measure("cpu") < 1.6 * made_bytes
    assert 0.9 * made_bytes < measure("cpu:0") < 1.6 * made_bytes
    assert measure("meta") < 0.5 * made_bytes
    assert measure("meta", question="asked_elsewhere") > 0.9 * made_bytes, "the plain way holds a whole copy"
