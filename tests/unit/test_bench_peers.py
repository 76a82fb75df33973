"""How peers are repaired, described and asked; none is installed here."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench import machine, peer_report, servers
from bench.chat import ChatClient, to_messages
from bench.goals import judge_peers
from bench.models import SHAPES
from bench.peers import ENTRIES, main
from bench.recipes import RECIPES, VLLM, PeerError, Recipe, repair
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
    with pytest.raises(PeerError, match=r"python -m bench\.peers install vllm"):
        RECIPES["vllm"].python()


def test_what_no_package_index_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(PeerError, match=r"lack torch==2\.13\.0\+cpu for this Python"):
        VLLM.set_up()
    with pytest.raises(PeerError, match="not installed"):
        VLLM.python()


def test_an_environment_is_made_once_for_each_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    VLLM.folder.mkdir(parents=True)
    (VLLM.folder / "made-from.json").write_text(VLLM.describe())
    VLLM.set_up()
    assert "is ready" in capsys.readouterr().out
    assert VLLM.describe() != replace(VLLM, remove=()).describe()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_everything_in_an_environment_is_pinned_and_torch_is_a_cpu_build(recipe: Recipe) -> None:
    pins = dict(line.split("==") for line in recipe.pins.read_text().splitlines())
    assert pins["torch"].endswith("+cpu")
    for line in recipe.install:
        for argument in line:
            name, _, version = argument.partition("==")
            assert version in ("", pins[name])


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
        with pytest.raises((PeerError, BrokenPipeError)):
            peer.answer(requests)


def test_a_peer_stands_still_while_we_run() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, text=True, start_new_session=True) as process:
        state = Path(f"/proc/{process.pid}/stat")
        with servers.Peer(ChatClient("", "bench", 1, {}), process).paused():
            _wait_until(lambda: state.read_text().split()[2] == "T")
        _wait_until(lambda: state.read_text().split()[2] != "T")
        process.kill()


def _wait_until(true: Callable[[], bool], limit_s: float = 60.0) -> None:
    until = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def _found(ratio: float, **answers: Any) -> dict[str, Any]:
    figures = {"peer": {"median": 100.0, "low": 90.0, "high": 110.0, "runs": 5}}
    figures["ours"] = {"median": 100.0 * ratio, "low": 100.0 * ratio, "high": 100.0 * ratio, "runs": 5}
    about = {"about": "every answer 32 tokens", "requests": 8, "rates": figures, "ratio": ratio}
    return {**about, "answers": {"of": 40, "equal": 40, "differences": {}, **answers}}


def _results(size: str, **workloads: Any) -> dict[str, Any]:
    peer = {"version": "v 1", "flags": "1 thread", "limits": "nothing about GPUs.", "ours": "continuous, 64 slots"}
    return {
        "size": size,
        "machine": {**machine.describe_machine(1, 0), "cpu": "Some Processor"},
        "model": {"parameters": 2_500_000, "dtype": "float32"},
        "code": "0123456789ab",
        "sittings": [],
        "peers": {"vllm": {**peer, "workloads": workloads}},
    }


def test_the_page_says_won_or_lost(tmp_path: Path) -> None:
    tie = {"r1": {"place": 3, "gap": 1e-6, "tie": True}}
    results = _results("tiny", uniform=_found(0.8), ragged=_found(1.5, equal=39, differences=tie))
    data, page = peer_report.write(results, tmp_path)
    assert (data.name, page.name) == ("peers-tiny.json", "peers-tiny.md")
    assert json.loads(data.read_text()) == results
    for line in (
        "| uniform, 8 requests | 100 (90.0-110) | 80.0 | 0.80 | lost | 5 | 40 of 40 |  |",
        "| 1.50 | won | 5 | 39 of 40 | 1 of 1 differences looked into are ties of two scores |",
        "What this does not show: nothing about GPUs.",
    ):
        assert line in page.read_text()


def test_only_the_larger_model_has_a_goal_against_vllm() -> None:
    differing = {"r1": {"place": 3, "gap": 0.1, "tie": False}}
    found = {goal["name"]: goal for goal in judge_peers(_results("large", uniform=_found(0.9, differences=differing)))}
    assert found["uniform, times vLLM on the CPU"]["met"] is False
    assert found["texts that differ other than at a tie"]["met"] is False
    (same,) = judge_peers(_results("tiny", uniform=_found(0.9)))
    assert same["met"] is True


def test_a_peer_that_is_lacking_ends_the_command_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "vllm", "--requests", "1", "--models", str(tmp_path / "models")]) == 2
    assert "python -m bench.peers install vllm" in capsys.readouterr().err
