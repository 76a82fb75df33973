"""The self-test at load: which optimisations give on this model what `generate` gives, token for token.

    python -m workers.engine.verify DIR [--json] [--device cpu] [--dtype auto] [--quantisation none]
                                    [--try FEATURE,...]

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

from workers.engine.features import ALL_OFF, UNPROVEN
from workers.engine.phases import Phases
from workers.engine.protocol import ModelError
from workers.engine.quantising import KINDS, list_versions

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
    #: How the weights were quantised: `generate` of the same quantised weights is what answers were compared with.
    quantisation: str = "none"

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


def verify_model(
    loaded: Any, items: Sequence[Any] | None = None, *, attempt: Sequence[str] = (), phases: Phases | None = None
) -> Verdict:
    """Run the self-test on a loaded model; `items` stand in for its own requests. Raises ModelError.

    `attempt` names features that are otherwise left off (features.UNPROVEN) and are now to be tested like the others;
    ValueError for any other name. `phases` is told what the first answer took, `warm_up`, and the rest, `verify`.
    A model that `generate` itself cannot run is a ModelError. Everything else ends in a verdict.
    """
    from workers.engine.specimens import draw_requests, prepare_specimens

    check_attempt(attempt)
    began = time.monotonic()
    with draw_requests() as requests:
        phases = phases or Phases()
        items = list(items or prepare_specimens(loaded, requests))
        references = _refer(loaded, items, phases)
        with phases.timed("verify"):
            return _judge(loaded, items, references, attempt, began)


def _refer(loaded: Any, items: list[Any], phases: Phases) -> list[Any]:
    """What `generate` answers. The first time, weights are met and kernels chosen: that is the warm-up."""
    from workers.engine.self_test import name_error
    from workers.engine.trial import run_reference

    try:
        with phases.timed("warm_up"):
            first = [run_reference(loaded, item) for item in items[:1]]
        with phases.timed("verify"):
            return first + [run_reference(loaded, item) for item in items[1:]]
    except Exception as error:
        _log.warning("generate failed on the self-test's requests", exc_info=True)
        raise ModelError(
            "generate_failed", f"The model cannot answer the self-test's requests ({name_error(error)}); copy it again."
        ) from error


def _judge(loaded: Any, items: list[Any], references: list[Any], attempt: Sequence[str], began: float) -> Verdict:
    from workers.engine.self_test import SelfTest, UnfitError

    check = SelfTest(loaded, items, references, attempt)
    try:
        check.check_slots()
        features = check.find_features()
        engine = "transformers"
    except UnfitError as unfit:
        check.reasons["engine"] = str(unfit)
        features, engine = ALL_OFF, "static"
    return Verdict(
        engine=engine,
        exact=check.exact,
        of=len(items),
        features=dataclasses.asdict(features),
        reasons=check.reasons,
        versions={**_versions(), **list_versions(loaded.quantisation)},
        device=str(loaded.model.device),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        seconds=round(time.monotonic() - began, 3),
        token_bytes=check.token_bytes,
        quantisation=loaded.quantisation,
    )


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
    parser.add_argument("--quantisation", default="none", choices=KINDS)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--try",
        dest="attempt",
        type=read_attempt,
        default=(),
        metavar="FEATURE,...",
        help=f"also test what is off because no GPU has run it yet: {', '.join(UNPROVEN)}",
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        from workers.engine.loader import load_model

        loaded = load_model(
            given.folder,
            device=given.device,
            dtype=given.dtype,
            quantisation=given.quantisation,
            threads=given.threads,
        )
        verdict = verify_model(loaded, attempt=given.attempt)
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


def read_attempt(text: str) -> tuple[str, ...]:
    """Names of features that are off by default, with commas between, for a command line. Raises ArgumentTypeError."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    try:
        check_attempt(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return names


def check_attempt(names: Sequence[str]) -> None:
    """Raises ValueError for what is no feature that is off by default."""
    if unknown := sorted(set(names) - set(UNPROVEN)):
        raise ValueError(f"{', '.join(unknown)}: only {', '.join(UNPROVEN)} can be tried.")


def describe(name: str, verdict: Verdict) -> str:
    """The verdict for people, in lines."""
    kind = {"transformers": "continuous batching", "static": "static batches"}[verdict.engine]
    lines = [f"{name}: {kind} ({verdict.engine}), {verdict.exact} of {verdict.of} answers as `generate` gives them"]
    if verdict.quantisation != "none":
        lines.append(f"  weights quantised: {verdict.quantisation}")
    lines += [f"  {feature}: {'on' if on else 'off'}" for feature, on in verdict.features.items()]
    lines += [f"  why {feature} is off: {reason}" for feature, reason in verdict.reasons.items()]
    lines.append(", ".join(f"{part} {version}" for part, version in verdict.versions.items()))
    return "\n".join(lines) + f"; {verdict.seconds:.1f} s\n"


if __name__ == "__main__":
    sys.exit(main())
