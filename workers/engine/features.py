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
    #: What was made of a picture is kept for the next prompt about it.
    pixel_cache: bool = True
    #: Pixels are bytes until they are on the device.
    uint8_pixels: bool = True
    #: A long prompt is cut into pieces, with decode steps between them.
    chunked_prefill: bool = True
    #: On a CPU: single patches by a matrix product, large weights laid out beforehand (quick_modules.py), attention of
    #: a decode step by matrix products (matmul_attention.py). Where they do not apply they do nothing.
    patch_matmul: bool = True
    packed_weights: bool = True
    matmul_attention: bool = True
    #: Attention that reads live keys and values only (varlen.py), and recorded decode steps (graphs.py).
    varlen_kernel: bool = False
    cuda_graphs: bool = False


#: No GPU has run these yet: the self-test tries them only where it is asked to.
UNPROVEN = ("varlen_kernel", "cuda_graphs")
#: What changes how a CPU does the same sums: tried one by one, on top of nothing else.
CPU_ONLY = ("patch_matmul", "packed_weights", "matmul_attention")
ALL_OFF = Features(
    grouped_prefill=False,
    encoder_cache=False,
    batched_encoder=False,
    prefix_reuse=False,
    prefix_before_pictures=False,
    pixel_cache=False,
    uint8_pixels=False,
    chunked_prefill=False,
    patch_matmul=False,
    packed_weights=False,
    matmul_attention=False,
)


@dataclass(frozen=True)
class Budgets:
    """How much goes into one prefill, how long it may be put off, and what caches may hold."""

    #: Of one prefill: rows times the longest prompt in tokens, and pixels.
    prefill_tokens: int = 8192
    prefill_pixels: int = 64_000_000
    #: The most tokens of one prefill while rows are in flight, and of a piece of a longer prompt.
    chunk_tokens: int = 2048
    #: Free slots that are worth a prefill of their own, as a share of all; fewer wait some steps for company: so many
    #: where nearly all slots are in use, in proportion where fewer are.
    gather_share: float = 0.16
    gather_steps: int = 8
    encoder_cache_bytes: int = 256 * 2**20
    prefix_cache_bytes: int = 256 * 2**20
    pixel_cache_bytes: int = 256 * 2**20
    #: What prepared requests that wait for a slot may hold; an interactive one may take as much again.
    ready_bytes: int = 512 * 2**20
