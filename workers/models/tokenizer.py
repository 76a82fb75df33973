"""The tokenizer file of `docreader`: byte-level BPE with no merges, so one token a character.

A plain character vocabulary would do for the model; the byte-level form is the one that grammar-guided
decoding can read.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from workers.models import alphabet

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
IMAGE, VISION_START, VISION_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
SPARE, VIDEO = "<|spare|>", "<|video_pad|>"
_SPECIAL = {
    PAD: alphabet.PAD,
    BEGIN: alphabet.BEGIN,
    END: alphabet.END,
    IMAGE: alphabet.IMAGE,
    VISION_START: alphabet.VISION_START,
    VISION_END: alphabet.VISION_END,
    SPARE: alphabet.VIDEO - 1,
    VIDEO: alphabet.VIDEO,
}
#: How the byte-level alphabet writes the two characters that are not printed as themselves.
_BYTE_LEVEL = {" ": "Ġ", "\n": "Ċ"}


def build_tokenizer() -> Any:
    """The tokenizer as transformers loads it."""
    vocabulary = {
        _BYTE_LEVEL.get(char, char): alphabet.FIRST_CHARACTER + place for place, char in enumerate(alphabet.CHARACTERS)
    }
    tokenizer = Tokenizer(BPE(vocab=vocabulary | _SPECIAL, merges=[]))
    tokenizer.normalizer = _to_known_characters()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "image_token": IMAGE,
            "video_token": VIDEO,
            "vision_start_token": VISION_START,
            "vision_end_token": VISION_END,
        },
    )


def _to_known_characters() -> normalizers.Normalizer:
    """Letters lose their accents, tabs become spaces, and what is still unknown becomes a question mark."""
    return normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Replace(Regex(r"\r\n?"), "\n"),
            normalizers.Replace("\t", " "),
            normalizers.Replace(Regex(r"[^\n -~]"), "?"),
        ]
    )
