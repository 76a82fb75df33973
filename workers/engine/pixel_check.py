"""The self-test of pixels: what comes from the cache, and what is scaled on the device, is what the family's processor
gives, bit for bit. No forward of the model is needed for that."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch

from workers.engine.byte_forms import NoByteFormError
from workers.engine.features import Features
from workers.engine.loader import LoadedModel
from workers.engine.pixel_bytes import ByteForm, join_vision
from workers.engine.pixel_cache import PixelCache
from workers.engine.prepared import Prepared
from workers.engine.protocol import Request

_log = logging.getLogger(__name__)

_CACHE_BYTES = 2**30
_UNTRIED = "The self-test's requests on this model do not exercise it."


def tune_pixels(loaded: LoadedModel, features: Features, cache: PixelCache | None) -> LoadedModel:
    """The model with pixels cached and kept as bytes, where the features say so and the family lets us."""
    form = None
    if features.uint8_pixels:
        try:
            form = loaded.processing.find_form(loaded.model.device)
        except NoByteFormError as error:
            _log.info("pixels of %s are not bytes: %s", loaded.name, error)
    if form is None and cache is None:
        return loaded
    return dataclasses.replace(loaded, processing=loaded.processing.tune(cache=cache, form=form))


class PixelCheck:
    """Checks both features on requests whose `items` the family's processor prepared alone."""

    def __init__(self, loaded: LoadedModel, items: Sequence[Prepared]) -> None:
        self._loaded, self._items = loaded, items
        self.reasons: dict[str, str] = {}
        #: The same requests, prepared with what passed.
        self.items = list(items)

    def find_features(self) -> dict[str, bool]:
        """Whether each may be on; afterwards `items` are what an engine would run."""
        form: ByteForm | None = None
        try:
            form = self._loaded.processing.find_form(self._loaded.model.device)
            found = {"uint8_pixels": self._matches("uint8_pixels", form, None)}
        except NoByteFormError as error:
            found = {"uint8_pixels": False}
            self.reasons["uint8_pixels"] = str(error)
        passed = form if found["uint8_pixels"] else None
        return found | {"pixel_cache": self._matches("pixel_cache", passed, PixelCache(_CACHE_BYTES))}

    def _matches(self, name: str, form: ByteForm | None, cache: PixelCache | None) -> bool:
        """Prepare all again, with a cache twice, and compare."""
        processing = self._loaded.processing.tune(cache=cache, form=form)
        try:
            for _ in range(2 if cache else 1):
                again = [_prepare(processing, item.request) for item in self._items]
                wrong = sum(not self._is_same(one, other) for one, other in zip(self._items, again, strict=True))
                if wrong:
                    self.reasons[name] = f"It gave other pixels for {wrong} of {len(again)} requests."
                    return False
        except Exception as error:
            _log.warning("%s failed in the self-test", name, exc_info=True)
            self.reasons[name] = f"It fails on this model ({type(error).__name__})."
            return False
        tried = cache.hits if cache else any(item.form for item in again)
        if not tried:
            self.reasons[name] = _UNTRIED
            return False
        self.items = again
        return True

    @torch.inference_mode()
    def _is_same(self, wanted: Prepared, found: Prepared) -> bool:
        """Whether a model gets the same."""
        model = self._loaded.model
        pairs = [(wanted.sequence, found.sequence)]
        if wanted.vision:
            pairs.append(
                (
                    join_vision([wanted], model.device, torch.float32),
                    join_vision([found], model.device, torch.float32),
                )
            )
        return all(
            one.keys() == other.keys()
            and all(one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one)
            for one, other in pairs
        )


def _prepare(processing: Any, request: Request) -> Prepared:
    prepared: Prepared = processing.prepare(request, processing.render(request), 0.0)
    return prepared
