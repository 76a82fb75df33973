"""Make a folder that any code can load from a checkpoint: `python -m workers.models.package FROM OUT`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2VLImageProcessorPil, Qwen3VLForConditionalGeneration

from batchinfer.samples import PAGE_SIZE
from workers.models import alphabet
from workers.models.architecture import CELL, MERGE, PATCH
from workers.models.checkpoint import STATE
from workers.models.tokenizer import build_tokenizer

#: Where the folder keeps how it was trained.
TRAINING = "training.json"
#: The prompt of training: begin, the pictures (wherever the message has them), the text, a newline. System
#: messages are left out, since the model has never seen one.
CHAT_TEMPLATE = """\
{{- '<|begin|>' -}}
{%- for message in messages if message.role != 'system' -%}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content if part.type in ('image', 'image_url') -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- endfor -%}
{%- for part in message.content if part.type == 'text' -%}
{{- part.text -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' if message.role == 'assistant' else '\\n' -}}
{%- endfor -%}
"""


def image_processor() -> Any:
    """Scales a page to the trained area, in whole cells; a page of the trained size is left as it is."""
    area = PAGE_SIZE * PAGE_SIZE
    return Qwen2VLImageProcessorPil(
        # The shorter limit lies one cell below the trained area, so rounding cannot fall between the two.
        size={"shortest_edge": (PAGE_SIZE - CELL) * (PAGE_SIZE - CELL), "longest_edge": area},
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def package(checkpoint: Path, out: Path) -> None:
    """Write everything but the card and the evaluation."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        bos_token_id=alphabet.BEGIN, eos_token_id=alphabet.END, pad_token_id=alphabet.PAD, do_sample=False
    )
    # bfloat16 would round weights to three digits; half precision keeps four and holds every weight.
    model.to(torch.float16).save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    image_processor().save_pretrained(out)
    for weights in out.glob("*.safetensors"):
        weights.chmod(0o644)
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    state = json.loads((checkpoint / STATE).read_text())
    (out / TRAINING).write_text(json.dumps(state, indent=2) + "\n")


def main() -> None:
    """Parse the command line and package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    package(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
