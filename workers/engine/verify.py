"""The self-test at load: which optimisations give on this model what `generate` gives, token for token.

    python -m workers.engine.verify DIR [--json] [--device cpu] [--dtype auto]

The last line of output is one JSON object. Scores must be the reference's but for rounding, and in float32 tokens must
be identical; in half precision the first difference may lie where two scores are nearly equal.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.engine.features import ALL_OFF, Features
from workers.engine.protocol import ModelError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the self-test found. `exact` of `of` requests gave the reference's tokens with the features that are on.

    `reasons` says why a feature is off, or under "engine" why slots cannot serve the model at all.
    """

    engine: str
    exact: int
    of: int
    features: dict[str, bool]
    reasons: dict[str, str]
    versions: dict[str, str]
    device: str
    dtype: str
    seconds: float
    #: Bytes of keys and values per token; 0 where slots cannot serve the model.
    token_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


class _Unfit(Exception):
    """Slots cannot serve this model, and why."""


def verify_model(loaded: Any, items: Sequence[Any] | None = None) -> Verdict:
    """Run the self-test on a loaded model; `items` stand in for its own requests. Raises ModelError.

    A model that `generate` itself cannot run is a ModelError. Everything else ends in a verdict.
    """
    from workers.engine.specimens import prepare_specimens
    from workers.engine.trial import run_reference

    began = time.monotonic()
    items = list(items or prepare_specimens(loaded))
    try:
        references = [run_reference(loaded, item) for item in items]
    except Exception as error:
        _log.warning("generate failed on the self-test's requests", exc_info=True)
        raise ModelError(
            "generate_failed", f"The model cannot answer the self-test's requests ({_kind(error)}); copy it again."
        ) from error
    check = _Check(loaded, items, references)
    try:
        check.check_slots()
        features = check.find_features()
        engine = "transformers"
    except _Unfit as unfit:
        check.reasons["engine"] = str(unfit)
        features, engine = ALL_OFF, "static"
    return Verdict(
        engine=engine,
        exact=check.exact,
        of=len(items),
        features=dataclasses.asdict(features),
        reasons=check.reasons,
        versions=_versions(),
        device=str(loaded.model.device),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        seconds=round(time.monotonic() - began, 3),
        token_bytes=check.token_bytes,
    )


class _Check:
    """Runs the trials one after the other and notes what did not match."""

    def __init__(self, loaded: Any, items: list[Any], references: list[Any]) -> None:
        self._loaded, self._items, self._references = loaded, items, references
        self.reasons: dict[str, str] = {}
        self.exact = self.token_bytes = 0
        self._is_exact = str(loaded.model.dtype) == "torch.float32"

    def check_slots(self) -> None:
        """The slot path with nothing else. Raises _Unfit."""
        config = self._loaded.model.config
        if getattr(config, "is_encoder_decoder", False):
            raise _Unfit("The model is an encoder-decoder, whose answers do not continue its prompts.")
        if not hasattr(self._loaded.model, "_prepare_position_ids_for_generation"):
            raise _Unfit("This version of transformers does not tell positions beforehand.")
        try:
            trial = self._new_trial(ALL_OFF)
        except ValueError as error:
            raise _Unfit(f"Layers of these kinds keep a state that slots cannot hold: {error}.") from error
        try:
            self.exact = self._count(trial.run(self._items))
        except Exception as error:
            _log.warning("the slot path failed", exc_info=True)
            raise _Unfit(f"The slot path fails on this model ({_kind(error)}).") from error
        self.token_bytes = trial.token_bytes
        if self.exact < len(self._items):
            raise _Unfit(f"Slots gave {self.exact} of {len(self._items)} answers as `generate` gives them.")

    def find_features(self) -> Features:
        """Each feature alone, then all that matched together."""
        found = {
            "grouped_prefill": self._matches("grouped_prefill", grouped_prefill=True),
            "encoder_cache": self._matches("encoder_cache", encoder_cache=True),
        }
        found["batched_encoder"] = all(found.values()) and self._matches(
            "batched_encoder", encoder_cache=True, batched_encoder=True, grouped_prefill=True
        )
        found["prefix_reuse"] = self._can_tell_prefix() and self._matches("prefix_reuse", prefix_reuse=True)
        found["prefix_before_pictures"] = found["prefix_reuse"] and self._matches(
            "prefix_before_pictures", prefix_reuse=True, prefix_before_pictures=True
        )
        needs = {"batched_encoder": "grouped prefill and the encoder cache", "prefix_before_pictures": "prefix reuse"}
        for name, needed in needs.items():
            if not found[name]:
                self.reasons.setdefault(name, f"It needs {needed}.")
        return self._combine(Features(**found))

    def _can_tell_prefix(self) -> bool:
        """Whether a wrong mask would show. Families whose prompts may attend both ways say which tokens are what."""
        if self._is_exact or not any("token_type_ids" in item.sequence for item in self._items):
            return True
        self.reasons["prefix_reuse"] = (
            "This family's prompts may attend both ways, and in half precision rounding would hide a wrong mask."
        )
        return False

    def _combine(self, features: Features) -> Features:
        """The features together, or fewer of them where that does not match."""
        without = dataclasses.replace(features, prefix_reuse=False, prefix_before_pictures=False)
        for choice in (features, without):
            if (together := self._run("together", choice)) == len(self._items):
                self.exact = together
                return choice
            self.reasons["together"] = "Each alone matches, all together do not; prefix reuse or all are off."
        return ALL_OFF

    def _matches(self, name: str, **on: bool) -> bool:
        return self._run(name, dataclasses.replace(ALL_OFF, **on)) == len(self._items)

    def _run(self, name: str, features: Features) -> int:
        """How many answers match, the lesser of two runs where the second finds caches filled."""
        trial = self._new_trial(features)
        if features.encoder_cache and not trial.vision.supported:
            self.reasons[name] = "The model's forward takes no encodings made beforehand (mm_encoder_outputs)."
            return -1
        try:
            counts = [self._count(trial.run(self._items))]
            if features.encoder_cache or features.prefix_reuse:
                counts.append(self._count(trial.run(self._items)))
        except Exception as error:
            _log.warning("%s failed in the self-test", name, exc_info=True)
            self.reasons[name] = f"It fails on this model ({_kind(error)})."
            return -1
        if name != "together" and (missed := _find_untested(name, trial)):
            self.reasons[name] = missed
            return -1
        if min(counts) < len(self._items):
            self.reasons[name] = f"It gave {min(counts)} of {len(self._items)} answers as `generate` gives them."
        return min(counts)

    def _new_trial(self, features: Features) -> Any:
        from workers.engine.trial import Trial

        return Trial(self._loaded, features)

    def _count(self, made: list[Any]) -> int:
        from workers.engine.trial import agrees

        pairs = zip(self._references, made, strict=True)
        return sum(agrees(reference, found, exact=self._is_exact) for reference, found in pairs)


def _find_untested(name: str, trial: Any) -> str | None:
    """Why a trial said nothing about its feature, if so: what was not tested stays off."""
    tested = {
        "grouped_prefill": trial.widest > 1,
        "encoder_cache": trial.vision.hits > 0,
        "batched_encoder": trial.vision.together > 1,
        "prefix_reuse": trial.prefixes.hits > 0,
        "prefix_before_pictures": trial.met_picture,
    }
    return None if tested[name] else "The self-test's requests on this model do not exercise it."


def _kind(error: Exception) -> str:
    return type(error).__name__


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 where some engine serves the model, else 1."""
    parser = argparse.ArgumentParser(prog="python -m workers.engine.verify", description="Self-test of a model folder.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        from workers.engine.loader import load_model

        loaded = load_model(given.folder, device=given.device, dtype=given.dtype, threads=given.threads)
        verdict = verify_model(loaded)
    except ModelError as error:
        if not given.json:
            sys.stdout.write(f"{given.folder.name}: {error.message}\n")
        empty = {"engine": None, "exact": 0, "of": 0, "features": {}, "reasons": {error.code: error.message}}
        sys.stdout.write(json.dumps(empty) + "\n")
        return 1
    if not given.json:
        sys.stdout.write(describe(loaded.name, verdict))
    sys.stdout.write(json.dumps(verdict.as_json()) + "\n")
    return 0


def describe(name: str, verdict: Verdict) -> str:
    """The verdict for people, in lines."""
    kind = {"transformers": "continuous batching", "static": "static batches"}[verdict.engine]
    lines = [f"{name}: {kind} ({verdict.engine}), {verdict.exact} of {verdict.of} answers as `generate` gives them"]
    lines += [f"  {feature}: {'on' if on else 'off'}" for feature, on in verdict.features.items()]
    lines += [f"  why {feature} is off: {reason}" for feature, reason in verdict.reasons.items()]
    lines.append(", ".join(f"{part} {version}" for part, version in verdict.versions.items()))
    return "\n".join(lines) + f"; {verdict.seconds:.1f} s\n"


if __name__ == "__main__":
    sys.exit(main())
