"""Tiny random checkpoints, as whole folders, of families that the exactness suite does not name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

PAD, BEGIN, END = range(3)
IMAGE = "<image>"
SPECIAL = ["<pad>", "<begin>", "<end>", IMAGE, "<start>", "<stop>", "<video>", "<break>", "<fake>", "<atom>"]
SPECIAL += ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>", "<IMG_ATOM>", "<end_of_utterance>"]
IDS = {name: place for place, name in enumerate(SPECIAL)}
VOCABULARY, CONTEXT = 300, 512
TEMPLATE = """\
{%- for message in messages -%}
{{- '<begin>' + message.role + '\\n' -}}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- 'PLACE' -}}{%- else -%}{{- part.text | trim -}}{%- endif -%}
{%- endfor -%}
{{- '<end>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<begin>assistant\\n' -}}{%- endif -%}
"""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a folder is made of. `processor` gives the family's own, or None where the folder needs no file of it."""

    model: Callable[[], Any]
    pictures: Callable[[], Any]
    processor: Callable[[Any, Any], Any] | None = None
    place: str = IMAGE


def write_checkpoint(name: str, folder: Path) -> Path:
    """Write the folder of a family in CHECKPOINTS."""
    made = CHECKPOINTS[name]
    torch.manual_seed(1)
    model = made.model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.2)
    model.generation_config = tf.GenerationConfig(eos_token_id=END, pad_token_id=PAD)
    model.float().save_pretrained(folder)
    pictures, tokenizer = made.pictures(), _new_tokenizer()
    pictures.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if made.processor:
        made.processor(pictures, tokenizer).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("PLACE", made.place))
    return folder


def _new_tokenizer() -> Any:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = IDS | {char: len(SPECIAL) + place for place, char in enumerate(alphabet)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    named = {"image_token": IMAGE, "video_token": "<video>", "image_break_token": "<break>"}
    named |= {"image_end_token": "<stop>", "image_start_token": "<start>", "boi_token": "<start>"}
    named |= {"eoi_token": "<stop>", "image_boundary_token": "<fake>"}
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<begin>",
        eos_token="<end>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=named,
    )


def _text(**more: Any) -> dict[str, Any]:
    base = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    base |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
    return base | {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END} | more


_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_TOWER |= {"image_size": 32, "patch_size": 8}
_SQUARE = {"size": {"height": 32, "width": 32}}


def _ovis2() -> Any:
    marks = [IDS[name] for name in ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")]
    tower = tf.Ovis2VisionConfig(**_TOWER, vocab_size=64, hidden_stride=2)
    config = tf.Ovis2Config(
        text_config=tf.Qwen2Config(**_text()),
        vision_config=tower,
        image_token_id=IDS["<IMG_ATOM>"],
        visual_indicator_token_ids=marks,
        vocab_size=VOCABULARY,
        hidden_size=64,
    )
    return tf.Ovis2ForConditionalGeneration(config)


def _deepseek_vl() -> Any:
    config = tf.DeepseekVLConfig(
        text_config=tf.LlamaConfig(**_text()),
        vision_config=tf.SiglipVisionConfig(**_TOWER, vision_use_head=False),
        image_token_id=IDS[IMAGE],
    )
    return tf.DeepseekVLForConditionalGeneration(config)


def _lighton_ocr() -> Any:
    tower = tf.PixtralVisionConfig(**_TOWER | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})
    text = tf.Qwen3Config(**_text(head_dim=16))
    config = tf.LightOnOcrConfig(text_config=text, vision_config=tower, image_token_id=IDS[IMAGE])
    return tf.LightOnOcrForConditionalGeneration(config)


def _idefics2() -> Any:
    perceiver = {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 16}
    perceiver |= {"num_key_value_heads": 1, "hidden_size": 64}
    config = tf.Idefics2Config(
        text_config=tf.MistralConfig(**_text(sliding_window=None)),
        vision_config=_TOWER,
        perceiver_config=perceiver,
        image_token_id=IDS[IMAGE],
    )
    return tf.Idefics2ForConditionalGeneration(config)


def _vip_llava() -> Any:
    config = tf.VipLlavaConfig(
        text_config=tf.LlamaConfig(**_text()),
        vision_config=tf.CLIPVisionConfig(**_TOWER),
        image_token_index=IDS[IMAGE],
        vision_feature_layers=[-1, -2],
    )
    return tf.VipLlavaForConditionalGeneration(config)


def _video_llama_3() -> Any:
    tower = {name: value for name, value in _TOWER.items() if name != "image_size"}
    config = tf.VideoLlama3Config(
        text_config=tf.Qwen2Config(**_text()),
        vision_config=tower,
        image_token_id=IDS[IMAGE],
        video_token_id=IDS["<video>"],
    )
    return tf.VideoLlama3ForConditionalGeneration(config)


def _glm46v() -> Any:
    tower = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
    tower |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "image_size": 32}
    axes = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
    spots = {"image_token_id": IDS[IMAGE], "video_token_id": IDS["<video>"]}
    spots |= {"image_start_token_id": IDS["<start>"], "image_end_token_id": IDS["<stop>"]}
    config = tf.Glm46VConfig(
        text_config=_text(head_dim=16, rope_parameters=axes),
        vision_config=tower,
        **spots,
        video_start_token_id=IDS["<break>"],
        video_end_token_id=IDS["<fake>"],
    )
    return tf.Glm46VForConditionalGeneration(config)


def _aria() -> Any:
    text = tf.AriaTextConfig(**_text(moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1, head_dim=16))
    config = tf.AriaConfig(
        text_config=text,
        vision_config=tf.Idefics3VisionConfig(**_TOWER | {"image_size": 490, "patch_size": 49}),
        image_token_index=IDS[IMAGE],
        projector_patch_to_query_dict={100: 4, 400: 8},
    )
    return tf.AriaForConditionalGeneration(config)


def _mllama() -> Any:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1}
    tower |= {"attention_heads": 2, "image_size": 32, "patch_size": 8, "vision_output_dim": 64, "max_num_tiles": 2}
    tower |= {"intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]}
    axes = {"rope_type": "default", "rope_theta": 1e4}
    text = tf.MllamaTextConfig(**_text(num_hidden_layers=3, cross_attention_layers=[1], rope_parameters=axes))
    config = tf.MllamaConfig(
        text_config=text, vision_config=tf.MllamaVisionConfig(**tower), image_token_index=IDS[IMAGE]
    )
    return tf.MllamaForConditionalGeneration(config)


def _qwen3_5() -> Any:
    axes = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25}
    text = _text(head_dim=16, layer_types=["linear_attention", "full_attention"], rope_parameters=axes)
    text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    text |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    tower = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
    tower |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_position_embeddings": 64}
    spots = {"image_token_id": IDS[IMAGE], "video_token_id": IDS["<video>"]}
    spots |= {"vision_start_token_id": IDS["<start>"], "vision_end_token_id": IDS["<stop>"]}
    config = tf.Qwen3_5Config(text_config=text, vision_config=tower, **spots)
    return tf.Qwen3_5ForConditionalGeneration(config)


def _lfm3_vl() -> Any:
    tower = {"hidden_size": 32, "intermediate_size": 64, "patch_size": 8, "num_hidden_layers": 3}
    tower |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    text = tf.Lfm3Config(**_text(layer_types=["conv", "full_attention"], head_dim=16))
    spots = {"image_token_id": IDS[IMAGE], "video_token_id": IDS["<video>"]}
    spots |= {"vision_start_token_id": IDS["<start>"], "vision_end_token_id": IDS["<stop>"]}
    config = tf.Lfm3VlConfig(text_config=text, vision_config=tower, projector_hidden_size=64, **spots)
    return tf.Lfm3VlForConditionalGeneration(config)


def _grid_pictures() -> Any:
    size = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    return tf.Qwen2VLImageProcessorPil(size=size, patch_size=8, merge_size=2, temporal_patch_size=2)


_CLIP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
CHECKPOINTS: dict[str, Checkpoint] = {
    "aria": Checkpoint(
        _aria,
        lambda: tf.AriaImageProcessorPil(max_image_size=490),
        lambda pictures, tokenizer: tf.AriaProcessor(pictures, tokenizer, size_conversion={490: 4, 980: 8}),
    ),
    "deepseek_vl": Checkpoint(
        _deepseek_vl,
        lambda: tf.DeepseekVLImageProcessorPil(**_SQUARE, min_size=8),
        lambda pictures, tokenizer: tf.DeepseekVLProcessor(pictures, tokenizer, num_image_tokens=16),
    ),
    "glm46v": Checkpoint(
        _glm46v,
        lambda: tf.Glm46VImageProcessorPil(
            size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}, patch_size=8, merge_size=2, temporal_patch_size=2
        ),
        place=f"<start>{IMAGE}<stop>",
    ),
    "idefics2": Checkpoint(
        _idefics2,
        lambda: tf.Idefics2ImageProcessorPil(size={"shortest_edge": 16, "longest_edge": 32}, do_image_splitting=False),
        lambda pictures, tokenizer: tf.Idefics2Processor(pictures, tokenizer, image_seq_len=4),
    ),
    "lfm3_vl": Checkpoint(_lfm3_vl, _grid_pictures, place=f"<start>{IMAGE}<stop>"),
    "lighton_ocr": Checkpoint(
        _lighton_ocr,
        lambda: tf.PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size=16),
        lambda pictures, tokenizer: tf.LightOnOcrProcessor(pictures, tokenizer, patch_size=8, spatial_merge_size=2),
    ),
    "mllama": Checkpoint(_mllama, lambda: tf.MllamaImageProcessorPil(**_SQUARE, max_image_tiles=2)),
    "ovis2": Checkpoint(
        _ovis2,
        lambda: tf.Ovis2ImageProcessorPil(**_SQUARE, max_patches=4),
        lambda pictures, tokenizer: tf.Ovis2Processor(pictures, tokenizer, image_seq_length=4),
    ),
    "qwen3_5": Checkpoint(_qwen3_5, _grid_pictures, place=f"<start>{IMAGE}<stop>"),
    "video_llama_3": Checkpoint(
        _video_llama_3,
        lambda: tf.VideoLlama3ImageProcessorPil(
            size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}, patch_size=8, merge_size=1
        ),
    ),
    "vipllava": Checkpoint(
        _vip_llava,
        lambda: tf.CLIPImageProcessorPil(**_CLIP),
        lambda pictures, tokenizer: tf.LlavaProcessor(
            pictures,
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            image_token=IMAGE,
        ),
    ),
}
