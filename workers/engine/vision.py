"""Pictures become embeddings once: encoded in groups, kept by content.

A model that takes `mm_encoder_outputs` gets what its own `get_image_features` gave, split by request. Whether splitting
a group's output gives what single calls give is checked by the self-test; where it does not, requests go singly.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.engine.pixel_bytes import join_vision
from workers.engine.prepared import Prepared

#: What of an encoder's output a prefill needs; the rest (hidden states) would only hold memory.
_FIELDS = ("pooler_output", "deepstack_features")
Features = dict[str, Any]


class VisionEncoder:
    """Encodes the pictures of requests, with a cache bounded in bytes, least recently used out first."""

    def __init__(self, model: Any, *, cache_bytes: int, batched: bool = True) -> None:
        self._model = model
        self._cache: OrderedDict[str, Features] = OrderedDict()
        self._limit, self._held = cache_bytes, 0
        self.batched = batched
        self.encoded = self.hits = 0
        #: The most requests that were encoded together.
        self.together = 0
        base = getattr(model, "base_model", model)
        self._encode = getattr(base, "get_image_features", None) or getattr(model, "get_image_features", None)
        self._accepts = set(inspect.signature(self._encode).parameters) if self._encode else set()

    @property
    def supported(self) -> bool:
        """Whether the model takes encodings made beforehand."""
        parameters = inspect.signature(self._model.forward).parameters
        return self._encode is not None and "mm_encoder_outputs" in parameters

    def features(self, group: Sequence[Prepared]) -> list[Features]:
        """The encodings of each request of a group, in order; those not cached are encoded together."""
        found: dict[str, Features] = {}
        missing: dict[str, Prepared] = {}
        for item in group:
            key = item.vision_key
            if key in self._cache:
                self._cache.move_to_end(key)
                found[key] = self._cache[key]
                self.hits += 1
            else:
                missing.setdefault(key, item)
        for batch in self._batches(list(missing.values())):
            for item, features in zip(batch, self._encode_batch(batch), strict=True):
                found[item.vision_key] = features
                self._keep(item.vision_key, features)
        return [found[item.vision_key] for item in group]

    def combine(self, features: Sequence[Features], output_type: type[Any] | None = None) -> Any:
        """Encodings of several requests as the one output object that the model's forward takes."""
        joined = {name: _join([one[name] for one in features]) for name in features[0] if name != "type"}
        return (output_type or features[0]["type"])(**joined)

    def forget(self) -> bool:
        """Drop the cache, to free memory. True where there was something."""
        held, self._held = self._held, 0
        self._cache.clear()
        return held > 0

    def _batches(self, items: list[Prepared]) -> list[list[Prepared]]:
        if not self.batched:
            return [[item] for item in items]
        groups: dict[tuple[object, ...], list[Prepared]] = {}
        for item in items:
            groups.setdefault(item.group_key(), []).append(item)
        return list(groups.values())

    def _encode_batch(self, batch: list[Prepared]) -> list[Features]:
        self.encoded += len(batch)
        self.together = max(self.together, len(batch))
        if self._encode is None:
            raise TypeError("the model has no get_image_features")
        given = join_vision(batch, self._model.device, self._model.dtype)
        inputs = {n: v for n, v in given.items() if n in self._accepts or "kwargs" in self._accepts}
        output = self._encode(**inputs, return_dict=True)
        if len(batch) == 1:
            return [{"type": type(output), **{n: output[n] for n in _FIELDS if output.get(n) is not None}}]
        return _split(output, batch)

    def _keep(self, key: str, features: Features) -> None:
        size = sum(tensor.nbytes for tensor in _tensors(features))
        if size > self._limit:
            return
        self._cache[key] = features
        self._held += size
        while self._held > self._limit:
            _, dropped = self._cache.popitem(last=False)
            self._held -= sum(tensor.nbytes for tensor in _tensors(dropped))


def _split(output: Any, batch: Sequence[Prepared]) -> list[Features]:
    """Cut a group's output into the requests' shares. Raises ValueError where no rule fits its shape."""
    pieces: list[Features] = [{"type": type(output)} for _ in batch]
    for name in _FIELDS:
        value = output.get(name)
        if value is None:
            continue
        if name == "deepstack_features":
            layers = [_share(layer, batch) for layer in value]
            for index, piece in enumerate(pieces):
                piece[name] = [layer[index] for layer in layers]
        else:
            for piece, share in zip(pieces, _share(value, batch), strict=True):
                piece[name] = share
    return pieces


def _share(value: Any, batch: Sequence[Prepared]) -> list[Any]:
    """One field by request: a list by pictures; a tensor by pictures, tiles or tokens, whichever its length is."""
    length = len(value)
    rules = (
        [len(item.request.images) for item in batch],
        [item.patches for item in batch],
        [item.image_tokens for item in batch],
    )
    for counts in rules:
        if sum(counts) == length:
            starts = [sum(counts[:index]) for index in range(len(counts))]
            parts = [value[start : start + count] for start, count in zip(starts, counts, strict=True)]
            # A view would hold the whole group's memory for as long as one share of it is kept.
            return [_copy(part) for part in parts]
    raise ValueError("the encoder's output cannot be split by request")


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else [_copy(one) for one in value]


def _join(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    if isinstance(values[0], list | tuple):
        if values[0] and isinstance(values[0][0], list | tuple):
            return [_join([value[layer] for value in values]) for layer in range(len(values[0]))]
        return [one for value in values for one in value]
    raise TypeError("unknown kind of encoder output")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for one in value.values() for tensor in _tensors(one)]
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _tensors(one)]
    return []
