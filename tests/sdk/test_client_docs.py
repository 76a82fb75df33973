"""The examples of docs/client.md and docs/migrating-from-openai-batch.md are run as they stand."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchinfer.cli import main
from tests.docs.run_examples import list_runnable

DOCS = Path(__file__).resolve().parents[2] / "docs"


def find_examples(page: str, language: str) -> list[str]:
    """The blocks of Python of a page, or its commands; without those that are not run."""
    return [text for kind, text in list_runnable(f"docs/{page}") if kind == language]


@pytest.fixture
def desk(service: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name, an address and a key in the environment."""
    (tmp_path / "scans").mkdir()
    pages = [Image.new("RGB", (64, 48), (number * 20, 9, 9)) for number in range(3)]
    for number, page in enumerate(pages):
        page.save(tmp_path / "scans" / f"{number}.png")
    pages[0].save(tmp_path / "page.png")
    pages[0].save(tmp_path / "letter.pdf", save_all=True, append_images=pages[1:])
    body = {"model": model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    lines = [json.dumps({"custom_id": f"r{number}", **line}) + "\n" for number in range(3)]
    (tmp_path / "lines.jsonl").write_text("".join(lines))
    monkeypatch.setenv("BATCHINFER_URL", service.url)
    monkeypatch.setenv("BATCHINFER_API_KEY", service.key)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_blocks(page: str, **names: Any) -> dict[str, Any]:
    blocks = find_examples(page, "python")
    assert len(blocks) >= 1
    for block in blocks:
        exec(compile(block, page, "exec"), names)  # noqa: S102 - the page's own examples
    return names


def test_the_examples_of_the_client(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks("client.md")
    names["client"].close()
    assert (names["job"].status, names["document"].status) == ("succeeded", "completed")
    assert len((desk / "scans.jsonl").read_text().splitlines()) == 3
    assert len((desk / "answers.jsonl").read_text().splitlines()) == 3
    said = capsys.readouterr()
    assert "completed 3 of 3" in said.out
    assert "invalid_value temperature" in said.out
    assert "3/3 files" in said.err


def test_openais_package_with_nothing_but_another_environment(
    desk: Path, service: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{service.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", service.key)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names = run_blocks("migrating-from-openai-batch.md")
    names["client"].close()
    assert (names["batch"].status, names["batch"].metadata) == ("completed", {"night": "1"})
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line]
    assert [answer["custom_id"] for answer in answers] == ["r0", "r1", "r2"]


def test_the_tests_that_the_page_names_exist() -> None:
    page = (DOCS / "migrating-from-openai-batch.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", page)
    assert len(named) > 10
    for path, name in named:
        assert not name or re.search(rf"^def {name}\(", (DOCS.parent / path).read_text(), re.MULTILINE), (path, name)
        assert (DOCS.parent / path).is_file()


def test_the_commands_of_the_page(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [shlex.split(line, comments=True) for line in find_examples("client.md", "sh")]
    assert len(commands) >= 5
    for name, *words in commands:
        assert name == "batchinfer"
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0, (words, capsys.readouterr())
    assert len((desk / "scans-read.jsonl").read_text().splitlines()) == 3
    assert len(list(desk.glob("batch_*_output.jsonl"))) == 1
