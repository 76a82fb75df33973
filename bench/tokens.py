"""The tokenizer of the benches' models: byte-level BPE over a few sentences, filled up to any size.

What a random model writes should be text that can be compared: bytes that are no printable character are in the
vocabulary, as in every byte-level one, but the models of `bench.models` never write them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

END_OF_TEXT, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
VISION_PAD, IMAGE, VIDEO = "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL = (END_OF_TEXT, TURN, END, VISION_START, VISION_END, VISION_PAD, IMAGE, VIDEO)
#: Of the vocabulary, at most this many are learnt from the sentences; the rest are made-up words.
_LEARNT = 768
#: How the byte-level alphabet writes a blank.
_BLANK = "Ġ"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url') -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'text' -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_tokenizer(size: int, sentences: list[str]) -> Any:
    """A tokenizer of exactly `size` tokens, the special ones last. The same arguments give the same tokenizer."""
    learnt = _train(sentences, min(_LEARNT, size - len(SPECIAL)))
    vocabulary = {token: number for number, token in enumerate(sorted(learnt["vocab"], key=learnt["vocab"].get))}
    words = (word for word in _words() if word not in vocabulary)
    for word in itertools.islice(words, size - len(SPECIAL) - len(vocabulary)):
        vocabulary[word] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in learnt["merges"]],
        unk_token=None,
        bos_token=None,
        eos_token=END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=list(SPECIAL),
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def find_unwritten(tokenizer: Any) -> list[int]:
    """Ids that a model must not write: the special ones, and bytes that are no printable ASCII character."""
    found = [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL]
    for token, number in tokenizer.get_vocab().items():
        text = token.removeprefix(_BLANK)
        if len(token) == 1 and not (text and text.isascii() and text.isprintable()):
            found.append(number)
    return sorted(set(found))


def _train(sentences: list[str], size: int) -> dict[str, Any]:
    import json

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return dict(json.loads(tokenizer.to_str())["model"])


def _words() -> Iterator[str]:
    """Made-up words of two to four syllables, with a blank before them."""
    syllables = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]
    for count in (2, 3, 4):
        for parts in itertools.product(syllables, repeat=count):
            yield _BLANK + "".join(parts)
