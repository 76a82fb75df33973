"""What the self-test does, trial after trial: each feature alone or on top of what it needs, then all that matched."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from workers.engine import matmul_attention
from workers.engine.features import ALL_OFF, CPU_ONLY, UNPROVEN, Features
from workers.engine.loader import LoadedModel
from workers.engine.pixel_check import PixelCheck
from workers.engine.prepared import Prepared
from workers.engine.quick_modules import check_available
from workers.engine.trial import Answer, Trial, agrees
from workers.engine.varlen import UnavailableError
from workers.engine.vision import VisionEncoder

_log = logging.getLogger(__name__)


class UnfitError(Exception):
    """Slots cannot serve this model, and why."""


class SelfTest:
    """Runs the trials one after the other and notes what did not match."""

    def __init__(
        self, loaded: LoadedModel, items: list[Prepared], references: list[Answer], attempt: Sequence[str]
    ) -> None:
        self._loaded, self._items, self._references, self._attempt = loaded, items, references, attempt
        self.reasons: dict[str, str] = {}
        self.exact = self.token_bytes = 0
        self._tuned_items = items
        self._met_prefix = False
        #: Has encoded the requests' pictures, and was found right.
        self._vision: VisionEncoder | None = None
        self._is_exact = str(loaded.model.dtype) == "torch.float32"

    def check_slots(self) -> None:
        """The slot path with nothing else. Raises UnfitError."""
        config = self._loaded.model.config
        if getattr(config, "is_encoder_decoder", False):
            raise UnfitError("The model is an encoder-decoder, whose answers do not continue its prompts.")
        if getattr(config.get_text_config(), "cross_attention_layers", None):
            raise UnfitError("Its layers look at pictures by cross-attention, whose keys and values slots do not hold.")
        if not hasattr(self._loaded.model, "_prepare_position_ids_for_generation"):
            raise UnfitError("This version of transformers does not tell positions beforehand.")
        try:
            trial = self._new_trial(ALL_OFF)
        except ValueError as error:
            raise UnfitError(f"Layers of these kinds keep a state that slots cannot hold: {error}.") from error
        try:
            self.exact = self._count(trial.run(self._items))
        except Exception as error:
            _log.warning("the slot path failed", exc_info=True)
            raise UnfitError(f"The slot path fails on this model ({name_error(error)}).") from error
        self.token_bytes = trial.token_bytes
        if self.exact < len(self._items):
            raise UnfitError(f"Slots gave {self.exact} of {len(self._items)} answers as `generate` gives them.")

    def find_features(self) -> Features:
        """Each feature alone or with what it needs, then all that matched together."""
        found = {"grouped_prefill": self._matches("grouped_prefill", grouped_prefill=True)}
        found |= self._find_encoder_features(grouped=found["grouped_prefill"])
        found |= self._find_prefix_features(encoder=found["encoder_cache"])
        found["chunked_prefill"] = (
            found["encoder_cache"]
            and self._can_tell_masks("chunked_prefill")
            and self._matches("chunked_prefill", encoder_cache=True, chunked_prefill=True)
        )
        needs = {
            "batched_encoder": "grouped prefill and the encoder cache",
            "prefix_before_pictures": "prefix reuse",
            "chunked_prefill": "the encoder cache",
        }
        for name, needed in needs.items():
            if not found[name]:
                self.reasons.setdefault(name, f"It needs {needed}.")
        found |= {name: self._try_on_cpu(name) for name in CPU_ONLY}
        found |= {name: self._try_unproven(name) for name in UNPROVEN}
        return self._combine(Features(**found, **self._check_pixels()))

    def _check_pixels(self) -> dict[str, bool]:
        """What of the pictures' way may be on. All together runs with what passed."""
        check = PixelCheck(self._loaded, self._items)
        found = check.find_features()
        self.reasons |= check.reasons
        self._tuned_items = check.items
        return found

    def _find_encoder_features(self, *, grouped: bool) -> dict[str, bool]:
        """Both in one run where that matches: some of its pictures are encoded alone."""
        both = {"encoder_cache": True, "batched_encoder": True}
        if grouped and self._matches("batched_encoder", **both, grouped_prefill=True):
            return both
        return {"encoder_cache": self._matches("encoder_cache", encoder_cache=True), "batched_encoder": False}

    def _find_prefix_features(self, *, encoder: bool) -> dict[str, bool]:
        """Both in one run where that matches: what it does where no picture follows is prefix reuse alone.

        Where the encoder cache matched, pictures come from it.
        """
        both = {"prefix_reuse": True, "prefix_before_pictures": True}
        if not self._can_tell_masks("prefix_reuse"):
            return dict.fromkeys(both, False)
        if self._matches("prefix_before_pictures", **both, encoder_cache=encoder):
            return both
        found = self._met_prefix or self._matches("prefix_reuse", prefix_reuse=True, encoder_cache=encoder)
        return {"prefix_reuse": found, "prefix_before_pictures": False}

    def _try_on_cpu(self, name: str) -> bool:
        alone = dataclasses.replace(ALL_OFF, **{name: True})
        try:
            if alone.matmul_attention:
                matmul_attention.check_model(self._loaded.model)
            check_available(self._loaded.model, alone)
        except UnavailableError as error:
            self.reasons[name] = str(error)
            return False
        return self._matches(name, **{name: True})

    def _try_unproven(self, name: str) -> bool:
        if name not in self._attempt:
            self.reasons[name] = "No GPU has run this yet; it is off by default."
            return False
        return self._matches(name, **{name: True})

    def _can_tell_masks(self, name: str) -> bool:
        """Whether a wrong mask would show. Families whose prompts may attend both ways say which tokens are what."""
        if self._is_exact or not any("token_type_ids" in item.sequence for item in self._items):
            return True
        self.reasons[name] = (
            "This family's prompts may attend both ways, and in half precision rounding would hide a wrong mask."
        )
        return False

    def _combine(self, features: Features) -> Features:
        """The features together, or fewer of them where that does not match."""
        proven = dataclasses.replace(features, **dict.fromkeys(UNPROVEN, False))
        without = dataclasses.replace(proven, prefix_reuse=False, prefix_before_pictures=False, chunked_prefill=False)
        floats = dataclasses.replace(without, pixel_cache=False, uint8_pixels=False)
        plain = dataclasses.replace(floats, **dict.fromkeys(CPU_ONLY, False))
        for choice in dict.fromkeys((features, proven, without, floats, plain)):
            if (together := self._run("together", choice)) == len(self._items):
                self.exact = together
                return choice
            self.reasons["together"] = "Each alone matches, all together do not; some or all of them are off."
        return ALL_OFF

    def _matches(self, name: str, **on: bool) -> bool:
        return self._run(name, dataclasses.replace(ALL_OFF, **on)) == len(self._items)

    def _run(self, name: str, features: Features) -> int:
        """How many answers match, the lesser of two runs where only the second finds caches filled."""
        try:
            trial = self._new_trial(features, None if name == "together" else self._vision)
        except UnavailableError as error:
            self.reasons[name] = str(error)
            return -1
        if features.encoder_cache and not trial.vision.supported:
            self.reasons[name] = "The model's forward takes no encodings made beforehand (mm_encoder_outputs)."
            return -1
        items = self._tuned_items if features.uint8_pixels or features.pixel_cache else self._items
        try:
            counts = [self._count(trial.run(items))]
            if features.prefix_reuse or (features.encoder_cache and not trial.vision.hits):
                counts.append(self._count(trial.run(items)))
        except Exception as error:
            _log.warning("%s failed in the self-test", name, exc_info=True)
            self.reasons[name] = f"It fails on this model ({name_error(error)})."
            return -1
        if name != "together" and (missed := _find_untested(name, trial)):
            # A prefix was reused, though never before a picture: then that much is known to match.
            self._met_prefix = trial.prefixes.hits > 0 and min(counts) == len(self._items)
            self.reasons[name] = missed
            return -1
        if name in ("encoder_cache", "batched_encoder") and min(counts) == len(self._items):
            self._vision = trial.vision
        if min(counts) < len(self._items):
            self.reasons[name] = f"It gave {min(counts)} of {len(self._items)} answers as `generate` gives them."
        return min(counts)

    def _new_trial(self, features: Features, vision: VisionEncoder | None = None) -> Trial:
        return Trial(self._loaded, features, vision)

    def _count(self, made: list[Answer]) -> int:
        pairs = zip(self._references, made, strict=True)
        return sum(agrees(reference, found, exact=self._is_exact) for reference, found in pairs)


def _find_untested(name: str, trial: Trial) -> str | None:
    """Why a trial said nothing about its feature, if so: what was not tested stays off."""
    graphs = trial.decoder.graphs
    tested = {
        "grouped_prefill": trial.widest > 1,
        "encoder_cache": trial.vision.hits > 0,
        "batched_encoder": trial.vision.together > 1 and trial.vision.hits > 0,
        "prefix_reuse": trial.prefixes.hits > 0,
        "prefix_before_pictures": trial.met_picture,
        "chunked_prefill": trial.pieces > 1,
        # Whether these apply was asked before.
        **dict.fromkeys(CPU_ONLY, True),
        "varlen_kernel": trial.decoder.kernel is not None and trial.decoder.kernel.calls > 0,
        "cuda_graphs": graphs is not None and graphs.replays > 0,
    }
    if name == "cuda_graphs" and graphs is not None and graphs.failed:
        return f"Its decode steps cannot be recorded ({next(iter(graphs.failed.values()))})."
    return None if tested[name] else "The self-test's requests on this model do not exercise it."


def name_error(error: Exception) -> str:
    """What of an error a verdict may say: its class, no paths."""
    return type(error).__name__
