"""Token ids of `docreader`: one token a character."""

from __future__ import annotations

PAD, BEGIN, END, IMAGE, VISION_START, VISION_END = range(6)
#: Printable ASCII from space to tilde, then the newline.
CHARACTERS = "".join(chr(code) for code in range(32, 127)) + "\n"
FIRST_CHARACTER = 6
#: Named by the configuration, never learnt: the model was not trained on video.
VIDEO = 103
VOCABULARY = 104

_IDS = {char: FIRST_CHARACTER + place for place, char in enumerate(CHARACTERS)}


def encode(text: str) -> list[int]:
    """Ids of a text of known characters."""
    return [_IDS[char] for char in text]


def decode(ids: list[int]) -> str:
    """Text of the ids up to the end token; special tokens give nothing."""
    if END in ids:
        ids = ids[: ids.index(END)]
    last = FIRST_CHARACTER + len(CHARACTERS)
    return "".join(CHARACTERS[token - FIRST_CHARACTER] for token in ids if FIRST_CHARACTER <= token < last)


def prompt(question: str, visual_tokens: int) -> list[int]:
    """`begin, vision start, image x N, vision end, question, newline`: what the model was trained on."""
    return [BEGIN, VISION_START, *[IMAGE] * visual_tokens, VISION_END, *encode(question), *encode("\n")]
