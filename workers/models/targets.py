"""What the helper heads must say; they exist in training only.

Next-token loss alone hardly starts to read. So each visual token must name the characters whose centres lie
in its slots, and each answer token must say in which slot the next character of the answer lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from batchinfer.samples import PAGE_SIZE
from workers.models.architecture import CELL

if TYPE_CHECKING:
    from workers.models.practice import Example

#: A cell of 32 x 32 pixels has 8 x 2 slots of 4 x 16 pixels: less than the narrowest letter, half a line.
SLOT_WIDTH, SLOT_HEIGHT = 4, 16
SLOT_COLUMNS, SLOT_ROWS = CELL // SLOT_WIDTH, CELL // SLOT_HEIGHT
SLOTS = SLOT_COLUMNS * SLOT_ROWS
CELLS = PAGE_SIZE // CELL
#: Class 0 is an empty slot, class n the character `chr(31 + n)`.
SLOT_CLASSES = 96
#: The pointer names a column of 8 pixels and a row of 16.
POINTER_WIDTH, POINTER_HEIGHT = 8, 16
POINTER_COLUMNS, POINTER_ROWS = PAGE_SIZE // POINTER_WIDTH, PAGE_SIZE // POINTER_HEIGHT
IGNORE = -100


def slot_classes(example: Example) -> torch.Tensor:
    """Which character each slot holds, shape (cells, slots), cells row by row."""
    classes = torch.zeros(CELLS * CELLS, SLOTS, dtype=torch.long)
    for glyph in example.glyphs:
        x, y = int(glyph.x), int(glyph.y)
        if glyph.char == " " or not (0 <= x < PAGE_SIZE and 0 <= y < PAGE_SIZE):
            continue
        cell = y // CELL * CELLS + x // CELL
        slot = y % CELL // SLOT_HEIGHT * SLOT_COLUMNS + x % CELL // SLOT_WIDTH
        classes[cell, slot] = ord(glyph.char) - 31
    return classes


def pointers(example: Example) -> torch.Tensor:
    """Column and row of each answered character, shape (answer + end, 2); `IGNORE` where none is printed."""
    places = torch.full((len(example.answer) + 1, 2), IGNORE, dtype=torch.long)
    for index, place in enumerate(example.printed):
        if place is None:
            continue
        glyph = example.glyphs[place]
        x = min(max(int(glyph.x), 0), PAGE_SIZE - 1)
        y = min(max(int(glyph.y), 0), PAGE_SIZE - 1)
        places[index, 0], places[index, 1] = x // POINTER_WIDTH, y // POINTER_HEIGHT
    return places
