"""Random tiny models as ordinary folders (architecture, byte-level tokenizer, chat template), and requests."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from workers.engine.loader import LoadedModel, load_model
from workers.engine.protocol import Image, Request

PAD, BEGIN, END, IMAGE, START, STOP, VIDEO = range(7)
SPECIAL = [
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
]
CONTEXT = 512
TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- IMAGE_PLACE -}}{%- else -%}{{- part.text | trim -}}{%- endif -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@pytest.fixture(scope="session")
def qwen3_vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"))


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="session")
def qwen3_vl(qwen3_vl_folder: Path) -> LoadedModel:
    """Loaded once a run; engines of several tests share it one after the other."""
    return load_model(qwen3_vl_folder, threads=1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Image]:
    """Four noisy pictures of three sizes."""
    folder, noise, made = tmp_path_factory.mktemp("pictures"), random.Random(7), []
    for number, (width, height) in enumerate([(32, 32), (48, 32), (64, 48), (32, 32)]):
        path = folder / f"{number}.png"
        PIL.Image.frombytes("RGB", (width, height), noise.randbytes(width * height * 3)).save(path)
        made.append(Image(hashlib.sha256(path.read_bytes()).hexdigest(), path))
    return made


NewRequest = Callable[..., Request]
_ids = itertools.count()


@pytest.fixture
def new_request(pictures: list[Image]) -> NewRequest:
    """`new_request(text, images=1, **fields)`: pictures first, then the text; an id of its own."""

    def build(text: str = "What is this?", *, images: int = 0, first_image: int = 0, **fields: Any) -> Request:
        content: list[dict[str, Any]] = [{"type": "image", "index": index} for index in range(images)]
        content.append({"type": "text", "text": text})
        shown = tuple(pictures[(first_image + index) % len(pictures)] for index in range(images))
        fields = {"id": f"request-{next(_ids)}", "max_tokens": 12} | fields
        return Request(messages=({"role": "user", "content": content},), images=shown, **fields)

    return build


def write_qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL of about 0.2 million parameters."""
    config = tf.Qwen3VLConfig(
        text_config=_text(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=STOP,
        tie_word_embeddings=True,
    )
    pictures = tf.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}, patch_size=8, merge_size=2, temporal_patch_size=2
    )
    place = "'<|vision_start|><|image_pad|><|vision_end|>'"
    return _write(folder, tf.Qwen3VLForConditionalGeneration(config), pictures, TEMPLATE.replace("IMAGE_PLACE", place))


def write_llava(folder: Path) -> Path:
    """A LLaVA of about 0.2 million parameters: another kind of vision tower, and pictures cut to one size."""
    vision = tf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    config = tf.LlavaConfig(text_config=tf.LlamaConfig(**_text()), vision_config=vision, image_token_index=IMAGE)
    size = {"height": 32, "width": 32}
    pictures = tf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    model = tf.LlavaForConditionalGeneration(config)
    _write(folder, model, pictures, TEMPLATE.replace("IMAGE_PLACE", "'<|image_pad|>'"))
    processor = tf.LlavaProcessor(
        image_processor=pictures,
        tokenizer=tf.AutoTokenizer.from_pretrained(folder),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=TEMPLATE.replace("IMAGE_PLACE", "'<|image_pad|>'"),
    )
    processor.save_pretrained(folder)
    return folder


def _text(**more: Any) -> dict[str, Any]:
    base = {
        "vocab_size": 7 + 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": PAD,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
    }
    return base | more


def _write(folder: Path, model: Any, pictures: Any, template: str) -> Path:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                # Wide enough that answers differ and run long.
                parameter.normal_(0.0, 0.25)
    model.generation_config = tf.GenerationConfig(
        eos_token_id=END, pad_token_id=PAD, do_sample=True, temperature=0.7, top_k=20, repetition_penalty=1.05
    )
    model.float().save_pretrained(folder)
    pictures.save_pretrained(folder)
    _new_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def _new_tokenizer() -> Any:
    """One token a byte, so that every text can be written and read."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: place for place, name in enumerate(SPECIAL)}
    vocabulary |= {char: len(SPECIAL) + place for place, char in enumerate(alphabet)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )
