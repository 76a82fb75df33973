"""The bundled model is an ordinary folder: opened by the code that opens any, and read as transformers reads it."""

from __future__ import annotations

from pathlib import Path

import workers
from batchinfer.samples import draw_page
from workers.engine.loader import open_engine
from workers.engine.protocol import Image, Request
from workers.models.reading import Reader

FOLDER = Path(workers.__file__).parent / "models" / "docreader"
QUESTION = "Transcribe the page."


def test_docreader_answers_as_transformers_alone_would(tmp_path: Path) -> None:
    pages = [draw_page(seed).image for seed in (4711, 4712, 4713)]
    requests = []
    for number, page in enumerate(pages):
        path = tmp_path / f"{number}.png"
        page.save(path)
        content = [{"type": "image", "index": 0}, {"type": "text", "text": QUESTION}]
        requests.append(
            Request(str(number), ({"role": "user", "content": content},), (Image("0" * 64, path),), max_tokens=200)
        )
    engine = open_engine("static", FOLDER, slots=4, threads=1)
    answers = [handle.result(120) for handle in [engine.submit(request) for request in requests]]
    engine.close()
    assert [done.text for done in answers] == Reader(FOLDER).answers(pages, [QUESTION] * len(pages))
    assert {done.usage.image_tokens for done in answers} == {64}
