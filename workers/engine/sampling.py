"""The next token of every row at once, each row by its own settings.

The order is that of transformers' `generate`: repetition penalty, temperature, top-k, top-p, min-p. A sampled row draws
with Gumbel noise from a generator of its own, seeded by the request: the same seed gives the same text whatever shares
the batch (in fp32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.protocol import Sampling


@dataclass
class RowSampler:
    """What one row needs: its settings, its generator, and the tokens it has seen (for the repetition penalty)."""

    sampling: Sampling
    generator: torch.Generator | None
    seen: Tensor | None

    @classmethod
    def for_request(
        cls, sampling: Sampling, prompt_ids: Sequence[int], *, vocabulary: int, device: torch.device
    ) -> RowSampler:
        """A sampler for a fresh request; `vocabulary` is the width of its logits."""
        generator = None
        if sampling.temperature > 0:
            generator = torch.Generator(device=device)
            if sampling.seed is None:
                generator.seed()
            else:
                generator.manual_seed(sampling.seed)
        seen = None
        if sampling.repetition_penalty != 1.0:
            seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            seen[torch.tensor(list(prompt_ids), device=device)] = True
        return cls(sampling, generator, seen)

    @property
    def is_plain(self) -> bool:
        """Greedy and nothing else: the whole batch's argmax serves it."""
        return self.generator is None and self.seen is None and not self.sampling.logprobs


@torch.inference_mode()
def next_tokens(
    logits: Tensor, samplers: Sequence[RowSampler], masks: Sequence[Tensor | None]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Choose a token a row from `logits` `[rows, vocabulary]`; `masks` are True where a grammar allows a token.

    Returns tokens `[rows]`, with -1 where a row's logits are not numbers or all are excluded, and the log-probability
    of the chosen token for rows that asked for it. All of it stays on the device; `read_back` reads it at once.
    """
    for index, mask in enumerate(masks):
        if mask is not None:
            logits[index].masked_fill_(~mask, float("-inf"))
    # The largest of a row is not finite where one is not a number, or infinite, or none is left.
    best, tokens = logits.max(dim=-1)
    broken = ~torch.isfinite(best)
    chosen: dict[int, Tensor] = {}
    for index, sampler in enumerate(samplers):
        if not sampler.is_plain:
            tokens[index], logprob = _sample_row(logits[index].float(), sampler)
            if sampler.sampling.logprobs:
                chosen[index] = logprob
    return torch.where(broken, -1, tokens), chosen


def read_back(tokens: Tensor, logprobs: Mapping[int, Tensor]) -> tuple[list[int], dict[int, float]]:
    """What `next_tokens` gave, as numbers, in one read of the device.

    Every read waits for all that was launched before it, so a step has no more than this one. float64 holds tokens and
    float32 log-probabilities exactly.
    """
    if not logprobs:
        read: list[int] = tokens.tolist()
        return read, {}
    numbers = torch.cat([tokens.double(), torch.stack(list(logprobs.values())).double()]).tolist()
    count = len(tokens)
    return [int(number) for number in numbers[:count]], dict(zip(logprobs, numbers[count:], strict=True))


def _sample_row(logits: Tensor, sampler: RowSampler) -> tuple[Tensor, Tensor]:
    settings = sampler.sampling
    if sampler.seen is not None:
        penalised = torch.where(logits < 0, logits * settings.repetition_penalty, logits / settings.repetition_penalty)
        logits = torch.where(sampler.seen, penalised, logits)
    scores = logits
    if sampler.generator is not None:
        scores = _filter(logits / settings.temperature, settings)
        noise = torch.empty_like(scores).exponential_(generator=sampler.generator).log_().neg_()
        token = (scores + noise).argmax()
    else:
        token = logits.argmax()
    # An index that is a tensor of no dimension would be read by the host.
    place = token.reshape(1)
    if sampler.seen is not None:
        sampler.seen.index_fill_(0, place, True)
    logprob = torch.log_softmax(logits, dim=-1).index_select(0, place)[0] if settings.logprobs else logits[0]
    return token, logprob


def _filter(scores: Tensor, settings: Sampling) -> Tensor:
    """Drop what top-k, top-p and min-p exclude, in that order, as transformers' warpers do."""
    if settings.top_k > 0:
        smallest = torch.topk(scores, min(settings.top_k, scores.shape[-1])).values[-1]
        scores = scores.masked_fill(scores < smallest, float("-inf"))
    if settings.top_p < 1.0:
        ordered, order = torch.sort(scores, descending=False)
        tail = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - settings.top_p
        tail[-1] = False
        scores = scores.masked_fill(torch.zeros_like(tail).scatter(0, order, tail), float("-inf"))
    if settings.min_p > 0:
        probabilities = scores.softmax(dim=-1)
        scores = scores.masked_fill(probabilities < settings.min_p * probabilities.max(), float("-inf"))
    return scores
