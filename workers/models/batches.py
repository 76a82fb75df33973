"""Batches of practice, drawn by a process of their own while the model trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized

import torch
from torch.utils.data import IterableDataset, get_worker_info

from batchinfer.samples import PAGE_SIZE
from workers.models import alphabet
from workers.models.practice import Example, examples
from workers.models.targets import CELLS, IGNORE, pointers, slot_classes


@dataclass(frozen=True)
class Batch:
    """Equal-sized pages with padded questions and answers."""

    #: Grey levels, shape (batch, height, width), uint8.
    pages: torch.Tensor
    #: Shape (batch, length), padded on the right.
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


def _grey(example: Example) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(example.image.tobytes()), dtype=torch.uint8)
    return flat.view(PAGE_SIZE, PAGE_SIZE)


class Practice(IterableDataset[Batch]):
    """Endless batches; `lines_share` may be changed while it runs."""

    def __init__(self, seed: int, batch_size: int, lines_share: Synchronized[float]) -> None:
        self.seed, self.batch_size, self.lines_share = seed, batch_size, lines_share

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number = worker.id if worker else 0
        torch.set_num_threads(1)
        lines = examples(self.seed, 2 * number, lines_share=1.0)
        pages = examples(self.seed, 2 * number + 1, lines_share=0.0)
        while True:
            wanted = round(self.batch_size * self.lines_share.value)
            drawn = [next(lines) for _ in range(wanted)]
            drawn += [next(pages) for _ in range(self.batch_size - wanted)]
            yield collate(drawn)
