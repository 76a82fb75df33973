"""Ask `docreader` about pages in static batches, loaded and prepared as any model folder is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen3VLProcessor,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

#: The longest transcript has about 130 characters.
LONGEST_ANSWER = 200


class _NoVideo:
    """Stands in for the processor of videos, which would want torchvision."""

    model_input_names: tuple[str, ...] = ()


class Reader:
    """A loaded folder."""

    def __init__(self, folder: Path, *, batch_size: int = 16) -> None:
        self.batch_size = batch_size
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = load_processor(folder)

    def answers(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """One answer for each picture and its question, greedily decoded."""
        found: list[str] = []
        for first in range(0, len(images), self.batch_size):
            last = first + self.batch_size
            found += self._batch(images[first:last], questions[first:last])
        return found

    def prepare(self, images: Sequence[Image.Image], questions: Sequence[str]) -> Any:
        """Model inputs of one batch, padded on the left."""
        texts = [self.processor.apply_chat_template(_message(question)) for question in questions]
        pictures = [[image.convert("RGB")] for image in images]
        return self.processor(text=texts, images=pictures, padding=True, return_tensors="pt")

    def _batch(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        inputs = self.prepare(images, questions)
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        answered = output[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self.processor.tokenizer.batch_decode(answered, skip_special_tokens=True)
        return texts


def load_processor(folder: Path) -> Any:
    """The family's own processor, built without its video part."""
    # The check would insist on a true video processor, and with it on torchvision.
    without_check = {"check_argument_for_proper_class": lambda _self, _name, _value: None}
    family = type(Qwen3VLProcessor.__name__, (Qwen3VLProcessor,), without_check)
    return family(
        image_processor=AutoImageProcessor.from_pretrained(folder, backend="pil"),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        video_processor=_NoVideo(),
        chat_template=(folder / "chat_template.jinja").read_text(),
    )


def _message(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
