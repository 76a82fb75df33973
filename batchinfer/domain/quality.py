"""What a page's prompt carries so that its answer can be judged, and which of its pictures are to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.domain.pipelines import Pipeline


def make_quality(pipeline: Pipeline, *, blank: bool = False) -> dict[str, Any]:
    """What a page's prompt carries under `quality`. `blank` says that nothing was seen on the page: an empty answer is
    then a right one."""
    return {
        "checks": [check.value for check in pipeline.checks],
        "ladder": [
            {name: value for name, value in vars(rung).items() if value is not None} for rung in pipeline.ladder
        ],
        "rung": 0,
        "fallback": pipeline.fallback.value,
        "blank": blank,
        "render": {
            name: value for name in ("dpi", "max_side", "lossless") if (value := getattr(pipeline.render, name))
        },
    }


def find_documents(prompt: Mapping[str, Any]) -> list[str]:
    """The documents (32 hexadecimal digits each) whose pages a CPU worker has to make or to read for a prompt."""
    return sorted({image["document"] for image in prompt["images"] if needs_drawing(image)})


def needs_drawing(image: Mapping[str, Any]) -> bool:
    """Whether a picture is a page that is to be made of its document."""
    return isinstance(image.get("document"), str) and isinstance(image.get("page"), int) and not image.get("normal")
