"""A request made ready for a model: its tokens and what the family's processor made of its pictures."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from workers.engine.pixel_bytes import GRID, PADDING, PIXELS, ByteForm, count_patches
from workers.engine.protocol import Request
from workers.engine.requests import find_image_places

#: Tokens of a block; a prefix that is reused is made of whole blocks.
BLOCK_TOKENS = 32


@dataclass
class Prepared:
    """One request before its prefill. Tensors have batch dimension 1 and lie where the model is or in host memory.

    `sequence` holds what is as long as the prompt (`input_ids`, `attention_mask`, token types), `vision` the rest.
    """

    request: Request
    sequence: dict[str, Tensor]
    vision: dict[str, Tensor]
    prompt_ids: list[int]
    image_token_ids: frozenset[int]
    pixels: int = 0
    #: How the bytes under `pixel_values` become what the model takes, where they are bytes.
    form: ByteForm | None = None
    arrived_at: float = field(default_factory=time.monotonic)
    prepared_at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, those of pictures among them."""
        return len(self.prompt_ids)

    @cached_property
    def image_tokens(self) -> int:
        """Tokens of the prompt that stand for pictures."""
        return sum(token in self.image_token_ids for token in self.prompt_ids)

    @property
    def patches(self) -> int:
        """Rows of pixels that the model gets of its pictures."""
        return count_patches(self.vision, self.form)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(value.nbytes for value in (*self.sequence.values(), *self.vision.values()))

    @property
    def total_tokens(self) -> int:
        """The most tokens that the request can come to hold."""
        return self.prompt_tokens + self.request.max_tokens

    @cached_property
    def vision_key(self) -> str:
        """What its pictures are, by content and in the order shown; equal keys have equal encodings."""
        shapes = ",".join(f"{name}{tuple(value.shape)}" for name, value in sorted(self.vision.items()))
        images = self.request.images
        return "|".join(images[place].sha256 for place in find_image_places(self.request)) + "#" + shapes

    def drop_pixels(self) -> None:
        """Its pictures are encoded, and nobody needs their pixels any more; what they are stays known."""
        if self.vision_key:
            self.vision.pop(PIXELS, None)
            self.vision.pop(PADDING, None)

    @cached_property
    def block_keys(self) -> list[bytes]:
        """A hash chain over blocks of tokens, one key for each boundary at which a prefix may end, shortest first.

        A picture's placeholders count as its content and grid. A boundary inside a picture, or before a later one but
        after an earlier one (the encoding would have to be cut), has the key b"". At least one token is left over.
        """
        content = self.vision_key + repr(self.vision.get(GRID, "")) if self.vision else ""
        virtual = [content if token in self.image_token_ids else token for token in self.prompt_ids]
        places = [place for place, token in enumerate(self.prompt_ids) if token in self.image_token_ids]
        first, last = (places[0], places[-1]) if places else (len(virtual), -1)
        digest, keys = hashlib.blake2b(digest_size=16), []
        for end in range(BLOCK_TOKENS, len(virtual), BLOCK_TOKENS):
            digest.update(repr(virtual[end - BLOCK_TOKENS : end]).encode())
            keys.append(digest.copy().digest() if end <= first or end > last else b"")
        return keys

    def prefix_keys(self, *, before_pictures: bool) -> list[bytes]:
        """The block keys that a reused prefix may have; without `before_pictures` no picture may follow it."""
        if before_pictures or not self.vision:
            return self.block_keys
        last = max(place for place, token in enumerate(self.prompt_ids) if token in self.image_token_ids)
        ends = range(BLOCK_TOKENS, len(self.prompt_ids), BLOCK_TOKENS)
        return [key if end > last else b"" for key, end in zip(self.block_keys, ends, strict=True)]

    def group_key(self, prefix: bytes | None = None, *, slides: bool = False) -> tuple[object, ...]:
        """Requests may share a forward where these agree: the same inputs, of the same shape but for the first axis.

        Those that reuse the same `prefix` have their padding behind it. A model that `slides` would count it as part of
        its window, so there the prompts must be equally long.
        """
        shapes = tuple((name, value.dtype, tuple(value.shape[1:])) for name, value in sorted(self.vision.items()))
        length = self.prompt_tokens if slides and prefix else 0
        return (shapes, tuple(sorted(self.sequence)), prefix, length)
