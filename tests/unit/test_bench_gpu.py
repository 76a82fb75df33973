"""The GPU bench where no GPU is: it runs as a whole with a tiny model, and its sums are those of the real shapes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from bench import gpu, gpu_models, gpu_pages, gpu_rates, tokens

ROOT = Path(__file__).parents[2]
TINY = ["--device", "cpu", "--pages", "3", "--steps", "2", "--preparers", "1", "--slots", "2"]
#: What the public model cards say, in parameters.
PUBLIC = {"2b": 2_127_532_032, "8b": 8_767_123_696, "30b-a3b": 31_070_754_032}


def read_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def build_empty(name: str) -> Any:
    """A model of real size that takes no memory."""
    config = gpu_models.build_config(gpu_models.SHAPES[name], {s: n for n, s in enumerate(tokens.SPECIAL)})
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_shapes_have_the_public_number_of_parameters(name: str) -> None:
    model = build_empty(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLIC[name]
    needs = gpu_rates.Needs(model)
    text = model.config.get_text_config()
    assert needs.token_bytes == 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * 128
    one, many = needs.decode_bytes(1, 1000), needs.decode_bytes(1000, 1000)
    total = 2 * PUBLIC[name]
    if name == "30b-a3b":
        assert needs.active_experts(1) == pytest.approx(8 / 128)
        assert 0.05 * total < one["weights"] < 0.12 * total
        assert 0.9 * total < many["weights"] < total
    else:
        # All but the vision tower, and the input's table where it is another than the output's.
        assert 0.75 * total < one["weights"] == many["weights"] < total
    assert many["keys_and_values"] == 1000 * one["keys_and_values"] == 10**6 * needs.token_bytes
    # Per token: two operations a parameter of the layers, experts as many as are chosen.
    active = {"2b": 1.41e9, "8b": 6.95e9, "30b-a3b": 2.73e9}[name]
    assert needs.prefill_flops(1, 1) == pytest.approx(2 * active, rel=0.01)


@pytest.mark.parametrize("name", ["tiny", pytest.param("tiny-moe", marks=pytest.mark.long)])
def test_a_run_on_a_cpu_prints_every_part(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "figures.jsonl"
    assert gpu.main(["--model", name, *TINY, "--out", str(out)]) == 0
    lines = read_lines(capsys.readouterr().out)
    assert lines == read_lines(out.read_text())
    assert "the figures say nothing" in lines[0]["note"]
    found = {line["what"] for line in lines}
    assert {"model", "device at most", "self-test", "vision", "prefill", "decode", "pages"} <= found
    assert not [line for line in lines if "failed" in line]
    decoded = [line for line in lines if line["what"] == "decode" and "rows" in line]
    assert [line["rows"] for line in decoded] == [1, 4]
    assert all(line["share_of_copy_rate"] > 0 for line in decoded)
    missing = {line["variant"] for line in lines if "needs a CUDA device" in line.get("unavailable", "")}
    assert missing == {"varlen kernel", "graphs", "varlen kernel and graphs"}
    pages = {(line["job"], line["who"]): line for line in lines if line["what"] == "pages"}
    assert set(pages) == {
        (job, who) for job in ("transcription", "extraction") for who in ("ours", "generate, batch 8")
    }
    assert all(line["pages_per_s"] > 0 and line["pages"] == 3 for line in pages.values())


def test_a_real_model_without_a_gpu_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--model", "2b", "--device", "cpu"]) == 2
    told = capsys.readouterr()
    assert "needs a CUDA device" in told.err
    assert not told.out


def test_a_part_that_fails_is_told_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr("bench.gpu_steps.measure_vision", fail)
    assert gpu.main(["--model", "tiny", *TINY, "--parts", "vision", "prefill"]) == 1
    lines = read_lines(capsys.readouterr().out)
    assert [line["failed"] for line in lines if "failed" in line] == ["RuntimeError: no kernel image is available"]
    assert any(line.get("share_of_matmul_rate") for line in lines if line["what"] == "prefill")


class Server(BaseHTTPRequestHandler):
    """A server that answers as an OpenAI-compatible one does, with the number of tokens that was asked for."""

    bodies: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).bodies.append(body)
        self._answer({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})

    def _answer(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.bodies = []
    made = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


def test_the_same_pages_go_to_a_peer(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--model", "tiny", *TINY, "--parts", "peer", "--peer", server]) == 0
    lines = [line for line in read_lines(capsys.readouterr().out) if line["what"] == "pages"]
    assert [(line["job"], line["who"], line["pages"]) for line in lines] == [
        ("transcription", "peer served", 3),
        ("extraction", "peer served", 3),
    ]
    assert all(line["tokens_made"] == line["tokens_asked"] for line in lines)
    assert len(Server.bodies) == 2 * (3 + 2), "three pages and two to warm up, twice"
    part = Server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert part.startswith("data:image/png;base64,")
    assert {body["model"] for body in Server.bodies} == {"served"}
    assert len({body["messages"][0]["content"][0]["image_url"]["url"] for body in Server.bodies}) == 5


def test_a_peer_that_is_no_address_is_refused() -> None:
    with pytest.raises(OSError, match="begins with http://"):
        gpu_pages._call("file:///etc/passwd", "/v1/models")


@pytest.mark.long
def test_it_runs_from_the_bare_tree(tmp_path: Path) -> None:
    """In a process that can import nothing but torch, transformers, tokenizers, safetensors, Pillow and numpy."""
    forbidden = [
        "celery",
        "sqlalchemy",
        "flask",
        "redis",
        "psycopg",
        "pydantic",
        "llguidance",
        "httpx",
        "structlog",
        "rich",
    ]
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {forbidden}:\n    sys.modules[name] = None\n")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "bench.gpu", "--model", "tiny", *TINY]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert any(line["what"] == "pages" for line in read_lines(done.stdout))
