"""A folder that cannot be served is refused with a code and a remedy, before it costs anything."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from workers.engine.folder import check_folder
from workers.engine.loader import load_model, open_engine
from workers.engine.protocol import ModelError, Request

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def shard(folder: Path) -> None:
    """Split the weights over two files with an index."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def drop_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-2.safetensors").unlink()


def swap_shards(folder: Path) -> None:
    shard(folder)
    shutil.copy(folder / "model-1.safetensors", folder / "model-2.safetensors")


def leave_folder(folder: Path) -> None:
    shard(folder)
    change_json(folder / INDEX, weight_map={"x": "../model-1.safetensors"})


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1000])


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(next(name for name in sorted(tensors) if "q_proj" in name))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def shrink_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 96
    (folder / "config.json").write_text(json.dumps(config))


DAMAGES: list[tuple[str, Callable[[Path], Any]]] = [
    ("model_folder_missing", shutil.rmtree),
    ("config_missing", lambda folder: (folder / "config.json").unlink()),
    ("config_unreadable", lambda folder: (folder / "config.json").write_text("{")),
    ("config_unreadable", lambda folder: (folder / "config.json").write_text("[]")),
    ("remote_code", lambda folder: change_json(folder / "config.json", auto_map={"AutoModel": "m.M"})),
    ("remote_code", lambda folder: change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": "t.T"})),
    ("weights_missing", lambda folder: (folder / WEIGHTS).unlink()),
    ("shard_missing", drop_shard),
    ("shard_incomplete", swap_shards),
    ("index_unreadable", leave_folder),
    ("index_unreadable", lambda folder: (folder / INDEX).write_text("{}")),
    ("weights_truncated", truncate),
    ("weights_truncated", lambda folder: (folder / WEIGHTS).write_bytes(b"")),
    ("weights_truncated", lambda folder: (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + b"{}")),
    ("weights_truncated", lambda folder: (folder / WEIGHTS).write_bytes(struct.pack("<Q", 8) + b'{"a": 1}')),
    (
        "weights_not_fetched",
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ),
    ("pickle_weights", pickle_only),
    ("weights_incomplete", drop_tensor),
    ("weights_unusable", shrink_model),
    ("unsupported_architecture", lambda folder: change_json(folder / "config.json", model_type="bert")),
    ("unsupported_architecture", lambda folder: change_json(folder / "config.json", model_type="of_tomorrow")),
    ("tokenizer_unusable", lambda folder: (folder / "tokenizer.json").write_text("{}")),
    ("image_processor_unusable", lambda folder: (folder / "preprocessor_config.json").unlink()),
    ("chat_template_missing", lambda folder: (folder / "chat_template.jinja").unlink()),
]


@pytest.mark.parametrize(("code", "damage"), DAMAGES, ids=[f"{i}-{code}" for i, (code, _) in enumerate(DAMAGES)])
def test_a_damaged_folder_is_refused(
    qwen3_vl_folder: Path, tmp_path: Path, code: str, damage: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen3_vl_folder, folder)
    damage(folder)
    with pytest.raises(ModelError) as refused:
        load_model(folder, threads=1)
    assert refused.value.code == code
    assert str(tmp_path) not in refused.value.message, "a path is nobody's business"
    assert len(refused.value.message) > 30


def test_shards_are_read(qwen3_vl_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen3_vl_folder, folder)
    shard(folder)
    assert load_model(folder, threads=1).name == "model"


def test_the_revision_changes_with_what_decides_answers(qwen3_vl_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen3_vl_folder, folder)
    revisions = [check_folder(qwen3_vl_folder).revision, check_folder(folder).revision]
    (folder / "chat_template.jinja").write_text("another")
    revisions.append(check_folder(folder).revision)
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    revisions.append(check_folder(folder).revision)
    assert revisions[0] == revisions[1]
    assert len(set(revisions)) == 3


@pytest.mark.parametrize("kind", ["auto", "static", "transformers", "fake"])
def test_open_engine_answers(qwen3_vl_folder: Path, kind: str) -> None:
    engine = open_engine(kind, qwen3_vl_folder, slots=2, threads=1)
    message = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    done = engine.submit(Request("one", (message,), max_tokens=3)).result(60)
    engine.close()
    assert done.finish in {"length", "stop"}
    assert engine.stats().slots == 2


def test_unknown_words_are_refused(qwen3_vl_folder: Path) -> None:
    with pytest.raises(ValueError, match="engine must be one of"):
        open_engine("magic", qwen3_vl_folder)
    with pytest.raises(ValueError, match="dtype must be"):
        load_model(qwen3_vl_folder, dtype="int3")
