"""The examples of docs/client.md and docs/migrating-from-openai-batch.md are run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"


def find_blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page that are marked with exactly this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


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
    blocks = find_blocks(page, "python")
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
