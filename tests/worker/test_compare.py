"""`batchinfer models compare` and `warm`, as a user runs them, on the bundled model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchinfer.cli.trials import split_spec
from batchinfer.samples import draw_page
from workers.compare import CompareError, Spec, describe, parse_spec

DOCREADER = Path("workers/models/docreader").absolute()


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pages with their fields, and one question whose answer cannot be right."""
    folder = tmp_path_factory.mktemp("golden")
    lines = []
    for number, seed in enumerate((70001, 70002, 70003)):
        page = draw_page(seed)
        page.image.save(folder / f"{number}.png")
        lines.append({"prompt": "Extract.", "image": f"{number}.png", "expect": {"json": page.fields}})
    lines.append({"prompt": "What is the total?", "image": "0.png", "expect": {"text": "never"}})
    path = folder / "golden.jsonl"
    path.write_text("".join(json.dumps({**line, "max_tokens": 200}) + "\n" for line in lines))
    return path


def run(tmp_path: Path, *arguments: str, module: str = "batchinfer.cli") -> subprocess.CompletedProcess[str]:
    """The verb in a process of its own, beside no database; or the module that it starts."""
    environment = {**os.environ, "BATCHINFER_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *(["models"] if module == "batchinfer.cli" else []), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def test_two_models_are_shown_side_by_side(golden: Path, tmp_path: Path) -> None:
    """With an engine that answers by rule; the test below has the verb and the weights."""
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "config.json").write_text("{}")
    words = (str(DOCREADER), f"{beside}:bfloat16", "--golden", str(golden), "--engine", "fake", "--device", "cpu")
    done = run(tmp_path, *words, module="workers.compare")
    assert done.returncode == 0, done.stderr
    *table, data = done.stdout.splitlines()
    found = json.loads(data)
    assert found["prompts"] == len(found["a"]["answers"]) == 4
    assert [found[one]["label"] for one in "ab"] == ["docreader", "beside:bfloat16"]
    assert [found[one]["dtype"] for one in "ab"] == ["auto", "bfloat16"]
    for one in (found["a"], found["b"]):
        assert (one["engine"], one["accuracy"], one["pages"]) == ("fake", 0.0, 4)
        assert 'not "never"' in one["faults"][3]
        assert min(one["tokens_per_s"], one["pages_per_s"], one["resident_mib"]) > 0
    assert found["agreement"] == 1 - len(found["differ"]) / 4
    assert any("right answers" in line and "%" in line for line in table)
    assert table[-1] == f"{found['agreement']:.1%} of 4 answers are the same in both."


@pytest.mark.long
def test_two_forms_of_a_model_are_shown_side_by_side(golden: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "compare", "docreader", "docreader:bfloat16", "--golden", str(golden), "--threads", "1")
    assert done.returncode == 0, done.stderr
    *table, data = done.stdout.splitlines()
    found = json.loads(data)
    assert found["prompts"] == len(found["a"]["answers"]) == 4
    assert [found[one]["label"] for one in "ab"] == ["docreader", "docreader:bfloat16"]
    assert [found[one]["dtype"] for one in "ab"] == ["float32", "bfloat16"]
    for one in (found["a"], found["b"]):
        assert 0.25 <= one["accuracy"] <= 0.75
        assert 'not "never"' in one["faults"][3]
        assert one["pages"] == 4
        assert min(one["tokens_per_s"], one["pages_per_s"], one["resident_mib"]) > 0
        assert one["phases"]["verify"] > 0
    assert found["agreement"] == 1 - len(found["differ"]) / 4
    assert any("right answers" in line and "%" in line for line in table)
    assert table[-1] == f"{found['agreement']:.1%} of 4 answers are the same in both."


def test_a_model_that_cannot_be_loaded_is_named(golden: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "compare", "docreader:float32:int4", "docreader", "--golden", str(golden), "--device", "cpu")
    assert (done.returncode, done.stdout) == (1, "")
    assert "docreader:float32:int4: int4 needs an NVIDIA GPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_golden_file_that_cannot_be_read_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "golden.jsonl").write_text('{"prompt": "a"}\n')
    done = run(tmp_path, "compare", "docreader", "docreader", "--golden", str(tmp_path / "golden.jsonl"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "`golden.jsonl.0.expect` must be a text" in done.stderr


def test_warm_says_what_is_in_memory(tmp_path: Path) -> None:
    done = run(tmp_path, "warm", "docreader", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["total_bytes"] == (DOCREADER / "model.safetensors").stat().st_size
    assert found["resident_after"] in (None, 1.0)
    unknown = run(tmp_path, "warm", "nowhere")
    assert unknown.returncode == 1
    assert "no model nowhere" in unknown.stderr


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("", Spec(DOCREADER)),
        (":bfloat16", Spec(DOCREADER, "bfloat16")),
        (":int8", Spec(DOCREADER, "auto", "int8")),
        (":float32:int8", Spec(DOCREADER, "float32", "int8")),
    ],
)
def test_the_form_stands_behind_the_folder(text: str, spec: Spec) -> None:
    assert parse_spec(f"{DOCREADER}{text}") == spec
    name, form = split_spec(f"docreader{text}")
    assert (name, "".join(f":{word}" for word in form)) == ("docreader", text)


def test_what_is_no_form_belongs_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model:v2").mkdir()
    assert parse_spec(f"{tmp_path}/model:v2").folder.name == "model:v2"
    with pytest.raises(CompareError, match=r"There is no folder .*:bf16"):
        parse_spec(f"{DOCREADER}:bf16")


def test_the_first_fault_is_told_and_what_nobody_has_is_left_out() -> None:
    sheet = {"label": "a", "accuracy": 0.5, "faults": [None, "It is no object."], "device_mib": None}
    lines = describe({"prompts": 2, "agreement": 0.5, "a": sheet, "b": {**sheet, "label": "b", "faults": [None] * 2}})
    assert "a, first fault: It is no object." in lines
    assert "b, first fault" not in lines
    assert "GPU" not in lines
