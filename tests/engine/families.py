"""Tiny random checkpoints of many families, with made-up pictures, and a processing that needs no processor.

A request's text is token ids as numbers; a picture is a name, from which its pixels are drawn.
"""

from __future__ import annotations

import copy
import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor

from workers.engine.loader import LoadedModel
from workers.engine.pixel_bytes import ByteForm, Scale
from workers.engine.pixel_cache import PixelCache
from workers.engine.prepared import Prepared
from workers.engine.processing import Rendered, UnpreparableError
from workers.engine.protocol import Image, Request
from workers.engine.requests import find_image_places

VOCABULARY, IMAGE, VIDEO, START, STOP, CONTEXT = 300, 7, 8, 9, 10, 512


@dataclasses.dataclass(frozen=True)
class Picture:
    """The tokens that stand for a picture, and its tensors."""

    tokens: list[int]
    tensors: dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Family:
    """`draw(model, name)` makes a picture; `types(ids)` what the family wants beside ids and mask."""

    build: Callable[[], Any]
    draw: Callable[[Any, str], Picture]
    types: Callable[[Tensor], dict[str, Tensor]] = lambda _: {}
    #: Pictures lie on axis 1, behind an axis for requests.
    nested: bool = False
    #: Pictures must come first, and only one.
    image_first: bool = False


class StubProcessing:
    """Stands in for `Processing` where a random checkpoint has no tokenizer."""

    def __init__(self, family: Family, model: Any) -> None:
        self.family, self.model, self.tokenizer = family, model, None
        self._pictures: dict[str, Picture] = {}
        self._cache: PixelCache | None = None
        self._form: ByteForm | None = None

    def find_form(self, device: torch.device) -> ByteForm:
        """Pixels are made of bytes here; their channels lie where the family has them."""
        return _byte_form(self._picture("any").tensors["pixel_values"], device)

    def tune(self, *, cache: PixelCache | None = None, form: ByteForm | None = None) -> StubProcessing:
        tuned = copy.copy(self)
        tuned._cache, tuned._form = cache, form
        return tuned

    def render(self, _: Request) -> Rendered:
        return Rendered("", {})

    def decode(self, ids: Any) -> str:
        return "".join(f" {token}" for token in ids)

    def prepare(self, request: Request, _: Rendered, arrived_at: float, context_tokens: int | None = None) -> Prepared:
        ids: list[int] = []
        for part in request.messages[0]["content"]:
            if part["type"] == "image":
                ids += self._picture(request.images[part["index"]].sha256).tokens
            else:
                ids += [int(word) for word in part["text"].split()]
        room = min(CONTEXT, context_tokens or CONTEXT) - len(ids)
        if room < 1:
            raise UnpreparableError("context_length_exceeded", "too long")
        shown = [self._picture(request.images[index].sha256) for index in find_image_places(request)]
        rows = torch.tensor([ids])
        return Prepared(
            request=dataclasses.replace(request, max_tokens=min(room, request.max_tokens)),
            sequence={"input_ids": rows, "attention_mask": torch.ones_like(rows)} | self.family.types(rows),
            vision=self._recall(request, shown),
            form=self._form if shown else None,
            prompt_ids=ids,
            image_token_ids=frozenset({IMAGE}),
            pixels=sum(picture.tensors["pixel_values"].numel() // 3 for picture in shown),
            arrived_at=arrived_at,
            prepared_at=time.monotonic(),
        )

    def _picture(self, name: str) -> Picture:
        if name not in self._pictures:
            with torch.inference_mode():
                self._pictures[name] = self.family.draw(self.model, name)
        return self._pictures[name]

    def _recall(self, request: Request, shown: list[Picture]) -> dict[str, Tensor]:
        pictures = tuple(request.images[index].sha256 for index in find_image_places(request))
        found = self._cache.find(pictures, "any") if self._cache and pictures else None
        if found is None:
            found = self._stack(shown)
            if self._form is not None and shown:
                found["pixel_values"] = _to_bytes(found["pixel_values"], self._form)
            if self._cache and pictures:
                self._cache.keep(pictures, "any", found)
        return found

    def _stack(self, shown: list[Picture]) -> dict[str, Tensor]:
        if not shown:
            return {}
        names, axis = shown[0].tensors, 1 if self.family.nested else 0
        return {name: torch.cat([picture.tensors[name] for picture in shown], dim=axis) for name in names}


def load_family(name: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A checkpoint that no request ends by itself."""
    return dataclasses.replace(_load(name, dtype))


@lru_cache(maxsize=2)
def _load(name: str, dtype: torch.dtype) -> LoadedModel:
    torch.manual_seed(0)
    family = FAMILIES[name]
    model = family.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.15)
    model = model.to(dtype)
    processing: Any = StubProcessing(family, model)
    return LoadedModel(model, processing, name, "random", frozenset(), 0, CONTEXT)


def new_request(name: str, ids: list[int], images: tuple[str, ...] = (), *, before: int = 3, **fields: Any) -> Request:
    """Pictures lie behind the first `before` ids."""
    front, back = (" ".join(str(token) for token in part) for part in (ids[:before], ids[before:]))
    content = [{"type": "text", "text": front}, *({"type": "image", "index": at} for at in range(len(images)))]
    content.append({"type": "text", "text": back})
    shown = tuple(Image(image, Path("nowhere")) for image in images)
    return Request(name, ({"role": "user", "content": content},), shown, **fields)


def generate(loaded: LoadedModel, request: Request, **options: Any) -> Any:
    """What transformers' `generate` makes of a request alone: ids, or its output where options ask for more.

    Its pixels are the processor's own floats, never bytes.
    """
    item = loaded.processing.prepare(request, loaded.processing.render(request), 0.0)
    vision = {n: v.to(loaded.model.dtype) if v.is_floating_point() else v for n, v in item.vision.items()}
    with torch.inference_mode():
        output = loaded.model.generate(
            **item.sequence,
            **vision,
            max_new_tokens=item.request.max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **options,
        )
    return output if options else output[0, item.prompt_tokens :].tolist()


def _noise(name: str, *shape: int) -> Tensor:
    """Pixels as a processor gives them: bytes, scaled by channel."""
    dice = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randint(0, 256, shape, generator=dice, dtype=torch.uint8)
    form = _byte_form(noise, torch.device("cpu"))
    return form.scale.apply(noise, form.channels, form.axis)


def _byte_form(pixels: Tensor, device: torch.device) -> ByteForm:
    """Channels lie on an axis of their own, or one after the other in each flat patch."""
    mean, deviation = (torch.tensor(value, device=device) for value in ([1.9, 2.0, 2.1], [1.1, 1.0, 0.9]))
    scale = Scale(64.0, None, mean, deviation)
    if pixels.ndim > 2 and pixels.shape[-3] == 3:
        return ByteForm(scale)
    count = pixels.shape[-1]
    return ByteForm(scale, -1, tuple(3 * place // count for place in range(count)))


def _to_bytes(pixels: Tensor, form: ByteForm) -> Tensor:
    shape = (len(form.channels), *[1] * (-form.axis - 1))
    mean, deviation = (value[list(form.channels)].view(shape) for value in (form.scale.mean, form.scale.deviation))
    return ((pixels * deviation + mean) * 64).round().to(torch.uint8)


def _pick(name: str, choices: list[Any]) -> Any:
    return choices[zlib.crc32(name.encode()[::-1]) % len(choices)]


def _text(**more: Any) -> dict[str, Any]:
    base = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return base | more


def _axes(*section: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section)}


def _without_head_dim(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in _text(**more).items() if name != "head_dim"}


_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_SPOTS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": STOP}


def _grid(width: int) -> Callable[[Any, str], Picture]:
    """Pictures of four sizes as patches and a grid, as Qwen's processors give them."""

    def draw(model: Any, name: str) -> Picture:
        high, wide = _pick(name, [(2, 2), (2, 4), (4, 4), (4, 6)])
        tokens = [START, *[IMAGE] * (high * wide // 4), STOP]
        grid = torch.tensor([[1, high, wide]])
        return Picture(tokens, {"pixel_values": _noise(name, high * wide, width), "image_grid_thw": grid})

    return draw


def _square(count: int, *, marks: bool = False, **more: tuple[int, ...]) -> Callable[[Any, str], Picture]:
    """Pictures of one size; `more` are masks by shape."""

    def draw(model: Any, name: str) -> Picture:
        tokens = [START, *[IMAGE] * count, STOP] if marks else [IMAGE] * count
        shape = (1, 1, 3, 32, 32) if more else (1, 3, 32, 32)
        masks = {key: torch.ones(size, dtype=torch.long) for key, size in more.items()}
        return Picture(tokens, {"pixel_values": _noise(name, *shape)} | masks)

    return draw


def _tiles(model: Any, name: str) -> Picture:
    """Pictures of three sizes, cut into tiles, whose number of tokens the model itself knows."""
    high, wide = _pick(name, [(32, 32), (64, 32), (32, 64)])
    # The smallest has two tiles and a third that is padding.
    tensors = {"pixel_values": _noise(name, 1, 3, 3, 32, 32), "image_sizes": torch.tensor([[high, wide]])}
    features = model.model.get_image_features(
        **{n: v.to(model.dtype) if v.is_floating_point() else v for n, v in tensors.items()}, return_dict=True
    )
    return Picture([IMAGE] * len(features.pooler_output[0]), tensors)


def _sized(model: Any, name: str) -> Picture:
    """Pictures padded to one size, as Pixtral takes them."""
    high, wide = _pick(name, [(32, 32), (16, 32), (32, 16)])
    tensors = {"pixel_values": _noise(name, 1, 3, 32, 32), "image_sizes": torch.tensor([[high, wide]])}
    return Picture([IMAGE] * (high * wide // 64 // 4), tensors)


def _types(name: str, *, zero: bool = False) -> Callable[[Tensor], dict[str, Tensor]]:
    return lambda ids: {name: torch.zeros_like(ids) if zero else (ids == IMAGE).long()}


def _qwen_tower(**more: Any) -> dict[str, Any]:
    base = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
    return base | {"intermediate_size": 64} | more


def _qwen2_vl() -> Any:
    tower = _qwen_tower(embed_dim=32, hidden_size=64, mlp_ratio=2)
    tower.pop("intermediate_size")
    text = _without_head_dim(rope_parameters=_axes(2, 3, 3))
    return tf.Qwen2VLForConditionalGeneration(tf.Qwen2VLConfig(text_config=text, vision_config=tower, **_SPOTS))


def _qwen2_5_vl() -> Any:
    tower = _qwen_tower(hidden_size=32, out_hidden_size=64, window_size=32, fullatt_block_indexes=[1])
    text = _without_head_dim(rope_parameters=_axes(2, 3, 3))
    return tf.Qwen2_5_VLForConditionalGeneration(tf.Qwen2_5_VLConfig(text_config=text, vision_config=tower, **_SPOTS))


def _qwen3_tower() -> dict[str, Any]:
    more = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return _qwen_tower(hidden_size=32, out_hidden_size=64, **more)


def _qwen3_vl() -> Any:
    text = _text(rope_parameters=_axes(3, 3, 2))
    return tf.Qwen3VLForConditionalGeneration(
        tf.Qwen3VLConfig(text_config=text, vision_config=_qwen3_tower(), **_SPOTS)
    )


def _qwen3_vl_moe() -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    text = _text(rope_parameters=_axes(3, 3, 2), **experts)
    config = tf.Qwen3VLMoeConfig(text_config=text, vision_config=_qwen3_tower(), **_SPOTS)
    return tf.Qwen3VLMoeForConditionalGeneration(config)


def _glm4v() -> Any:
    spots = {"image_token_id": IMAGE, "video_token_id": VIDEO, "image_start_token_id": START}
    spots |= {"image_end_token_id": STOP, "video_start_token_id": 11, "video_end_token_id": 12}
    tower = _qwen_tower(hidden_size=32, out_hidden_size=64, image_size=32)
    text = _text(rope_parameters=_axes(2, 3, 3) | {"partial_rotary_factor": 1.0})
    return tf.Glm4vForConditionalGeneration(tf.Glm4vConfig(text_config=text, vision_config=tower, **spots))


def _paddleocr_vl() -> Any:
    tower = _TOWER | {"spatial_merge_size": 2}
    text = _text(rope_parameters=_axes(2, 3, 3))
    config = tf.PaddleOCRVLConfig(text_config=text, vision_config=tower, **_SPOTS)
    return tf.PaddleOCRVLForConditionalGeneration(config)


def _paddle_picture(model: Any, name: str) -> Picture:
    picture = _grid(3 * 8 * 8)(model, name)
    pixels = picture.tensors["pixel_values"].reshape(-1, 3, 8, 8)
    return Picture(picture.tokens, picture.tensors | {"pixel_values": pixels})


def _gemma3() -> Any:
    layers = ["sliding_attention", "full_attention"]
    text = _text(sliding_window=8, layer_types=layers, query_pre_attn_scalar=16, tie_word_embeddings=False)
    config = tf.Gemma3Config(
        text_config=text,
        vision_config=_TOWER,
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=STOP,
        tie_word_embeddings=False,
    )
    config.image_token_id = IMAGE
    return tf.Gemma3ForConditionalGeneration(config)


def _llava() -> Any:
    config = tf.LlavaConfig(
        text_config=tf.LlamaConfig(**_text()), vision_config=tf.CLIPVisionConfig(**_TOWER), image_token_index=IMAGE
    )
    return tf.LlavaForConditionalGeneration(config)


def _llava_next() -> Any:
    config = tf.LlavaNextConfig(
        text_config=tf.LlamaConfig(**_text()),
        vision_config=tf.CLIPVisionConfig(**_TOWER),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[32, 32], [64, 32], [32, 64]],
        image_seq_length=16,
    )
    return tf.LlavaNextForConditionalGeneration(config)


def _llava_onevision() -> Any:
    config = tf.LlavaOnevisionConfig(
        text_config=tf.Qwen2Config(**_without_head_dim()),
        vision_config=tf.SiglipVisionConfig(**_TOWER, vision_use_head=False),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[32, 32], [64, 32], [32, 64]],
    )
    return tf.LlavaOnevisionForConditionalGeneration(config)


def _internvl() -> Any:
    tower = tf.InternVLVisionConfig(**_TOWER | {"image_size": [32, 32], "patch_size": [8, 8]})
    text = tf.Qwen2Config(**_without_head_dim())
    config = tf.InternVLConfig(
        text_config=text, vision_config=tower, image_token_id=IMAGE, downsample_ratio=0.5, image_seq_length=4
    )
    return tf.InternVLForConditionalGeneration(config)


def _smolvlm() -> Any:
    text = tf.LlamaConfig(**_text())
    config = tf.SmolVLMConfig(text_config=text, vision_config=_TOWER, image_token_id=IMAGE, scale_factor=2)
    return tf.SmolVLMForConditionalGeneration(config)


def _idefics3() -> Any:
    text = tf.LlamaConfig(**_text())
    config = tf.Idefics3Config(text_config=text, vision_config=_TOWER, image_token_id=IMAGE, scale_factor=2)
    return tf.Idefics3ForConditionalGeneration(config)


def _paligemma() -> Any:
    tower = _TOWER | {"model_type": "siglip_vision_model", "projection_dim": 64, "vision_use_head": False}
    # With tied embeddings a random Gemma only says its last token again.
    text = tf.GemmaConfig(**_text(tie_word_embeddings=False))
    config = tf.PaliGemmaConfig(
        text_config=text,
        vision_config=tower,
        image_token_index=IMAGE,
        projection_dim=64,
        hidden_size=64,
        tie_word_embeddings=False,
    )
    config.image_token_id = IMAGE
    return tf.PaliGemmaForConditionalGeneration(config)


def _got_ocr2() -> Any:
    tower = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"image_size": 128, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64}
    text = tf.Qwen2Config(**_without_head_dim())
    config = tf.GotOcr2Config(text_config=text, vision_config=tower, image_token_index=IMAGE, image_seq_length=16)
    return tf.GotOcr2ForConditionalGeneration(config)


def _got_picture(model: Any, name: str) -> Picture:
    return Picture([START, *[IMAGE] * 16, STOP], {"pixel_values": _noise(name, 1, 3, 128, 128)})


def _mistral3() -> Any:
    text = tf.MistralConfig(**_text(sliding_window=None))
    tower = tf.PixtralVisionConfig(**_TOWER | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})
    config = tf.Mistral3Config(text_config=text, vision_config=tower, image_token_index=IMAGE, spatial_merge_size=2)
    return tf.Mistral3ForConditionalGeneration(config)


def _aya_vision() -> Any:
    layers = ["sliding_attention", "full_attention"]
    config = tf.AyaVisionConfig(
        text_config=tf.Cohere2Config(**_text(sliding_window=16, layer_types=layers)),
        vision_config=tf.SiglipVisionConfig(**_TOWER, vision_use_head=False),
        image_token_index=IMAGE,
        downsample_factor=2,
        alignment_intermediate_size=64,
    )
    return tf.AyaVisionForConditionalGeneration(config)


_MM_TYPES = _types("mm_token_type_ids")
FAMILIES: Mapping[str, Family] = {
    "qwen2_vl": Family(_qwen2_vl, _grid(3 * 2 * 8 * 8), _MM_TYPES),
    "qwen2_5_vl": Family(_qwen2_5_vl, _grid(3 * 2 * 8 * 8), _MM_TYPES),
    "qwen3_vl": Family(_qwen3_vl, _grid(3 * 2 * 8 * 8), _MM_TYPES),
    "qwen3_vl_moe": Family(_qwen3_vl_moe, _grid(3 * 2 * 8 * 8), _MM_TYPES),
    "glm4v": Family(_glm4v, _grid(3 * 2 * 8 * 8), _MM_TYPES),
    "paddleocr_vl": Family(_paddleocr_vl, _paddle_picture, _MM_TYPES),
    "gemma3": Family(_gemma3, _square(4, marks=True), _types("token_type_ids")),
    "llava": Family(_llava, _square(16)),
    "llava_next": Family(_llava_next, _tiles),
    "llava_onevision": Family(_llava_onevision, _tiles),
    "internvl": Family(_internvl, _square(4)),
    "smolvlm": Family(_smolvlm, _square(4, pixel_attention_mask=(1, 1, 32, 32)), nested=True),
    "idefics3": Family(_idefics3, _square(4, pixel_attention_mask=(1, 1, 32, 32)), nested=True),
    "paligemma": Family(_paligemma, _square(16), _types("token_type_ids", zero=True), image_first=True),
    "got_ocr2": Family(_got_ocr2, _got_picture),
    "mistral3": Family(_mistral3, _sized),
    "aya_vision": Family(_aya_vision, _square(4)),
}
