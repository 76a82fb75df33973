"""Batches of practice, drawn by a process of their own while the model trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.data import IterableDataset, get_worker_info

from batchinfer.samples import PAGE_SIZE
from workers.models import alphabet
from workers.models.practice import Example, dense_pages, examples
from workers.models.targets import CELLS, IGNORE, pointers, slot_classes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.sharedctypes import Synchronized

#: Among the pages that are asked about, this share holds unrelated strings.
_LINES_SHARE = 0.12


@dataclass(frozen=True)
class Batch:
    """Equal-sized pages with padded questions and answers."""

    #: Grey levels, shape (batch, height, width), uint8.
    pages: torch.Tensor
    #: Shape (batch, length), padded on the right; of length 0 if the pages are only looked at.
    ids: torch.Tensor
    #: The token each position must predict, shape (batch, length), `IGNORE` outside the answer.
    labels: torch.Tensor
    #: Shape (batch, cells, slots).
    slots: torch.Tensor
    #: Where the predicted token is printed, shape (batch, length, 2).
    pointers: torch.Tensor


def collate(drawn: list[Example]) -> Batch:
    """One batch of the given examples."""
    prompts = [alphabet.prompt(example.question, CELLS * CELLS) for example in drawn]
    answers = [[*alphabet.encode(example.answer), alphabet.END] for example in drawn]
    # The last answer token is predicted, never read, so the input is one shorter than the whole.
    length = max(len(a) + len(b) - 1 for a, b in zip(prompts, answers, strict=True))
    ids = torch.full((len(drawn), length), alphabet.PAD)
    labels = torch.full((len(drawn), length), IGNORE)
    where = torch.full((len(drawn), length, 2), IGNORE)
    for row, (question, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens = torch.tensor(question + answer[:-1])
        ids[row, : len(tokens)] = tokens
        first = len(question) - 1
        labels[row, first : first + len(answer)] = torch.tensor(answer)
        where[row, first : first + len(answer)] = pointers(drawn[row])
    pages = torch.stack([_grey(example) for example in drawn])
    return Batch(pages, ids, labels, torch.stack([slot_classes(example) for example in drawn]), where)


def only_seen(drawn: list[Example]) -> Batch:
    """A batch about which nothing is asked: it trains the vision half, for half the price."""
    nothing = torch.empty((len(drawn), 0), dtype=torch.long)
    pages = torch.stack([_grey(example) for example in drawn])
    slots = torch.stack([slot_classes(example) for example in drawn])
    return Batch(pages, nothing, nothing, slots, nothing)


def _grey(example: Example) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(example.image.tobytes()), dtype=torch.uint8)
    return flat.view(PAGE_SIZE, PAGE_SIZE)


class Practice(IterableDataset[Batch]):
    """Endless batches; the share of batches that are only looked at may be changed while it runs."""

    def __init__(self, seed: int, batch_size: int, looking_share: Synchronized[float]) -> None:
        self.seed, self.batch_size, self.looking_share = seed, batch_size, looking_share

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number = worker.id if worker else 0
        torch.set_num_threads(1)
        dense = dense_pages(self.seed, number)
        asked = examples(self.seed, number, lines_share=_LINES_SHARE)
        owed = 0.0
        while True:
            owed += self.looking_share.value
            if owed >= 1:
                owed -= 1
                yield only_seen([next(dense) for _ in range(self.batch_size)])
            else:
                yield collate([next(asked) for _ in range(self.batch_size)])
