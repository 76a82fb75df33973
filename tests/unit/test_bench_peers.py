"""How peers are repaired, described and asked; none is installed here."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from bench import servers
from bench.chat import ChatClient, to_messages
from bench.models import SHAPES
from bench.peers import ENTRIES, main
from bench.recipes import RECIPES, Recipe, repair
from bench.workloads import Studio, shared, uniform


def test_the_repair_goes_before_the_package_once(tmp_path: Path) -> None:
    package = tmp_path / "lib" / "python3.11" / "site-packages" / "torchvision" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("own = 1\n")
    repair(tmp_path)
    once = package.read_text()
    assert once.endswith("own = 1\n")
    repair(tmp_path)
    assert package.read_text() == once
    compile(once, "torchvision", "exec")


def test_a_peer_that_is_not_installed_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m bench\.peers install vllm"):
        RECIPES["vllm"].python()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_peer_has_one_thread_and_no_network(recipe: Recipe) -> None:
    variables = recipe.variables()
    assert variables["OMP_NUM_THREADS"] == variables["HF_HUB_OFFLINE"] == "1"
    assert any(recipe.package in argument for line in recipe.install for argument in line)


def test_every_entry_says_what_it_does_not_show() -> None:
    for entry in ENTRIES.values():
        assert "GPU" in entry.limits
        assert "float32" in entry.flags


def test_messages_carry_the_picture_itself(tmp_path: Path) -> None:
    (request,) = uniform(Studio(tmp_path, (64,)), 1).requests
    picture, text = to_messages(request)[0]["content"]
    head, data = picture["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == request.images[0].path.read_bytes()
    assert text == request.messages[0]["content"][1]


def test_a_body_asks_for_the_prescribed_length(tmp_path: Path) -> None:
    (request,) = shared(Studio(tmp_path, (64,)), 1).requests
    body = ChatClient("", "bench", 4, {"ignore_eos": True}).body(request)
    assert (body["max_tokens"], body["temperature"], body["ignore_eos"]) == (request.max_tokens, 0, True)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


class _Echo(BaseHTTPRequestHandler):
    """Answers a chat with the number of tokens that it asks for."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = json.dumps({"choices": [{"message": {"content": f"{self.path} {body['max_tokens']}"}}]}).encode()
        self.send_response(200 if body["model"] == "bench" else 404)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_answers_come_back_by_request(echo: str, tmp_path: Path) -> None:
    requests = uniform(Studio(tmp_path, (64,)), 5).requests
    found = ChatClient(echo, "bench", 2, {}).answer(requests)
    assert found.answers == {request.id: "/v1/chat/completions 32" for request in requests}
    assert found.seconds > 0
    with pytest.raises(httpx.HTTPStatusError):
        ChatClient(echo, "another", 2, {}).answer(requests)


def test_xinference_is_told_not_to_enlarge_pictures(tmp_path: Path) -> None:
    launch = servers.launch_for_xinference("tiny")
    assert (launch["min_pixels"], launch["max_pixels"]) == (64 * 64, SHAPES["tiny"].largest)
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 512, "eos_token_id": 7}}')
    (tmp_path / "chat_template.jinja").write_text("template")
    described = servers.describe_for_xinference(tmp_path)
    assert described["context_length"] == 512
    assert described["stop_token_ids"] == [7]
    assert json.loads(json.dumps(described)) == described
    assert described["model_specs"][0]["model_uri"] == f"file://{tmp_path}"


def test_a_piped_peer_is_asked_line_by_line_and_its_end_is_noticed(tmp_path: Path) -> None:
    driver = (
        "import json, sys\n"
        "print(json.dumps({'ready': True}), flush=True)\n"
        "asked = json.loads(sys.stdin.readline())['requests']\n"
        "print(json.dumps({'seconds': 0.5, 'texts': [str(r['max_tokens']) for r in asked]}), flush=True)\n"
    )
    requests = uniform(Studio(tmp_path, (64,)), 2).requests
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", driver], stdin=pipe, stdout=pipe, text=True) as process:
        peer = servers.PipedPeer(process)
        texts = peer.answer(requests)
        assert texts.seconds == 0.5
        assert texts.answers == {request.id: "32" for request in requests}
        process.wait(30)
        with pytest.raises((RuntimeError, BrokenPipeError)):
            peer.answer(requests)


def test_rows_are_only_added_to_tables_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "vllm", "--out", str(tmp_path)]) == 2
    assert "python -m bench.engine --size tiny" in capsys.readouterr().err
