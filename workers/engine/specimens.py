"""The self-test's own requests: pictures drawn here, ragged texts, two that begin alike, one without a picture."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image as Pictures
from PIL import ImageDraw

from workers.engine.loader import LoadedModel
from workers.engine.prepared import Prepared
from workers.engine.processing import UnpreparableError
from workers.engine.protocol import Image, ModelError, Refused, Request

_log = logging.getLogger(__name__)

#: Width and height in pixels; the first two agree, so that they may share a forward in every family.
_SIZES = ((96, 96), (96, 96), (160, 112))
#: Long enough that two prompts share whole blocks whatever the tokenizer makes of them.
_SHARED = "Read what is written here and say it again, line by line, without leaving a word out, and add nothing. "
_SHARED_FIRST = "What follows was scanned this morning, and nobody has read it yet; say in a few words what it is: "
#: Text before the pictures, pictures, text behind them, and tokens to make.
_ASKED: tuple[tuple[str, tuple[int, ...], str, int], ...] = (
    ("", (0,), _SHARED + "Name the colours.", 4),
    (_SHARED_FIRST, (2,), "", 6),
    ("", (0,), _SHARED + "How many boxes are there, and which of them is the largest?", 5),
    ("", (1,), _SHARED, 7),
    ("", (), "Count to seven.", 5),
    (_SHARED_FIRST, (1, 0), "Compare them.", 3),
)


@contextlib.contextmanager
def draw_requests() -> Iterator[list[Request]]:
    """The requests; their pictures' files are there within the block."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = [_draw(Path(folder), number) for number in range(len(_SIZES))]
        requests = []
        for number, (before, shown, behind, tokens) in enumerate(_ASKED):
            parts: list[dict[str, Any]] = [{"type": "image", "index": index} for index in range(len(shown))]
            parts = [{"type": "text", "text": before}, *parts, {"type": "text", "text": behind}]
            parts = [part for part in parts if part.get("text") != ""]
            images = tuple(pictures[index] for index in shown)
            messages = ({"role": "user", "content": parts},)
            requests.append(Request(f"specimen-{number}", messages, images, max_tokens=tokens))
        yield requests


def prepare_specimens(loaded: LoadedModel, requests: Sequence[Request]) -> list[Prepared]:
    """Ready requests. What the model does not take, such as two pictures, is left out.

    Raises ModelError where not even one picture with a text can be prepared.
    """
    found = []
    for request in requests:
        try:
            found.append(loaded.processing.prepare(request, loaded.processing.render(request), 0.0))
        except (Refused, UnpreparableError):
            _log.info("the model does not take %s", request.id, exc_info=True)
    if not any(item.vision for item in found):
        raise ModelError(
            "processor_unusable", "The model's processor cannot prepare a picture with a text; copy its files again."
        )
    return found


def _draw(folder: Path, number: int) -> Image:
    width, height = _SIZES[number]
    picture = Pictures.new("RGB", (width, height), (250, 248, 240 - 40 * number))
    pen = ImageDraw.Draw(picture)
    for step in range(4):
        left, top = 6 + step * width // 5, 8 + (step * (number + 2) * 11) % (height // 2)
        colour = (40 * step, 190 - 45 * step, 60 * number)
        pen.rectangle((left, top, left + width // 6, top + height // 4), fill=colour)
    pen.text((8, height - 16), f"{number}: seven", fill=(20, 20, 20))
    path = folder / f"{number}.png"
    picture.save(path)
    return Image(hashlib.sha256(path.read_bytes()).hexdigest(), path)
