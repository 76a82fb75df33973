"""What the continuous engine may do to be fast, and how much it may hold: plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """Which optimisations are on. The self-test switches off what does not match `generate`."""

    grouped_prefill: bool = True
    encoder_cache: bool = True
    batched_encoder: bool = True
    prefix_reuse: bool = True
    #: Also where a picture follows; some families' masks go wrong there.
    prefix_before_pictures: bool = True


ALL_OFF = Features(
    grouped_prefill=False,
    encoder_cache=False,
    batched_encoder=False,
    prefix_reuse=False,
    prefix_before_pictures=False,
)


@dataclass(frozen=True)
class Budgets:
    """How much goes into one prefill, how long it may be put off, and what caches may hold."""

    #: Of one prefill: rows times the longest prompt in tokens, and pixels.
    prefill_tokens: int = 8192
    prefill_pixels: int = 64_000_000
    #: Free slots that are worth a prefill of their own, as a share of all; fewer wait some steps for company.
    gather_share: float = 0.16
    gather_steps: int = 8
    encoder_cache_bytes: int = 256 * 2**20
    prefix_cache_bytes: int = 256 * 2**20
