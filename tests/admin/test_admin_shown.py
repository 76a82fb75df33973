"""How values look: hostile text, durations, trees of answers, the command that repeats a job."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchinfer.admin import shown
from batchinfer.admin.answers import MOST_NODES, Node, read_tree
from batchinfer.admin.charts import round_up
from batchinfer.admin.repeat import write_curl
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import Job, JobClass, JobState


def make_job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": new_id(), "tenant_id": new_id(), "state": JobState.SUCCEEDED, "model": "reader",
        "job_class": JobClass.NORMAL, "created_at": datetime(2026, 1, 1, tzinfo=UTC), "started_at": None,
        "finished_at": None, "attempts": 1, "crashes": 0, "expires_at": None,
        "prompt": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}], "images": []},
    }  # fmt: skip
    return Job(**(values | changes))


def test_markup_is_escaped_and_tricks_are_shown() -> None:
    assert shown.visible("<b>&\"'") == "&lt;b&gt;&amp;&#34;&#39;"
    assert shown.visible("a\u202eb") == 'a<span class="ctl">U+202E</span>b'
    assert shown.visible("\u2066\x00\ufeff").count("ctl") == 3
    assert shown.visible("line\nand\ttab, नि\u200dन") == "line\nand\ttab, नि\u200dन"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (-3, "0.00 s"), (0.417, "0.42 s"), (9.999, "10.0 s"), (59.97, "1 m 00 s"), (245, "4 m 05 s"),
     (7800, "2 h 10 m"), (273_600, "3 d 4 h")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert shown.duration(seconds) == text


def test_counts_stop_at_the_cap() -> None:
    assert shown.capped(10_000) == "10,000"
    assert shown.capped(10_001) == "10,000+"


def test_an_answer_that_is_json_is_a_tree() -> None:
    tree = read_tree(' {"total": 12.50, "lines": [{"a": null}, true], "vendor": "Ümlaut"} ')
    assert tree is not None
    assert [name for name, _ in tree.children] == ["total", "lines", "vendor"]
    assert dict(tree.children)["total"] == Node("number", "12.5", "total")
    assert dict(tree.children)["lines"].children[1][1] == Node("bool", "true", "lines.1")


@pytest.mark.parametrize("text", ["", "plain", '"text"', "12", "{broken", "[" * 200_000, "[" * 50_000 + "]" * 50_000])
def test_other_answers_stay_text(text: str) -> None:
    assert read_tree(text) is None


def test_a_tree_is_never_larger_than_its_budget() -> None:
    tree = read_tree(json.dumps([[number] * 9 for number in range(2_000)]))
    assert tree is not None

    def count(node: Node) -> int:
        return 1 + sum(count(child) for _, child in node.children)

    assert count(tree) < 1.2 * MOST_NODES
    assert tree.children[-1][1].kind == "more"
    deep = read_tree("[" * 40 + "]" * 40)
    assert deep is not None
    assert count(deep) < 20


HOSTILE = "$(touch gone) `touch gone` \\$HOME \\\\ \"quotes\" 'single'\nEND\n<\u202e>"


@pytest.mark.parametrize("pictures", [0, 2])
def test_the_command_sends_the_same_prompt_whatever_is_in_it(tmp_path: Path, pictures: int) -> None:
    images = [{"sha256": "0" * 64, "normal": {"sha256": "0" * 64, "media_type": kind, "width": 1, "height": 1}}
              for kind in ("image/png", "image/jpeg")[:pictures]]  # fmt: skip
    places = [{"type": "image", "index": index} for index in range(pictures)]
    prompt = {
        "messages": [{"role": "user", "content": [*places, {"type": "text", "text": HOSTILE}]}],
        "images": images, "sampling": {"temperature": 0.5, "top_p": 1.0, "seed": None}, "max_tokens": 99, "stop": [],
        "response_format": None,
    }  # fmt: skip
    command = write_curl(make_job(prompt=prompt), "http://localhost:1/")
    assert command is not None
    for name in ("picture-0.png", "picture-1.jpg"):
        (tmp_path / name).write_bytes(b"bytes")
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\ncat\n")
    curl.chmod(0o755)
    run = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    assert run.returncode == 0, run.stderr
    body = json.loads(run.stdout)
    content = body["messages"][0]["content"]
    assert content[-1]["text"] == HOSTILE
    assert [part["image_url"]["url"] for part in content[:-1]] == [
        "data:image/png;base64,Ynl0ZXM=", "data:image/jpeg;base64,Ynl0ZXM=",
    ][:pictures]  # fmt: skip
    assert (body["max_tokens"], body["temperature"], body["model"]) == (99, 0.5, "reader")
    assert "top_p" not in body
    assert not (tmp_path / "gone").exists()


def test_a_prompt_too_long_for_a_command_has_none() -> None:
    content = [{"type": "text", "text": "x" * 40_000}]
    assert write_curl(make_job(prompt={"messages": [{"role": "user", "content": content}]}), "http://a") is None


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (3, 5), (6, 10), (11, 20), (999, 1000), (1001, 2000)])
def test_scales_end_at_round_numbers(value: int, top: int) -> None:
    assert round_up(value) == top
