"""Words for sample pages: all of them made up, the held-out ones never drawn for training.

Training vendors are put together from syllables (and, one time in four, from single letters), so that a
model has to read them. A word that happens to equal a held-out word is drawn again.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

KINDS = ("invoice", "receipt", "order", "quote")
CURRENCIES = ("USD", "EUR", "GBP", "CHF", "JPY", "CNY")
COMPANY_FORMS = ("Ltd", "Inc", "GmbH", "LLC", "Co", "SA", "AG", "BV")

#: Vendor words of the demo, the tests and every evaluation. Training never draws one of them.
HELD_OUT_VENDOR_WORDS = (
    "Abelonde", "Aldrova", "Bexhollow", "Brindelta", "Calmont", "Cindervale", "Dornwick", "Dunmarra",
    "Eastervoss", "Elmquist", "Fallowmere", "Fendrake", "Garrowby", "Glenhurst", "Halbrook", "Harvesk",
    "Inverlyn", "Jasperfel", "Kestrova", "Kirrin", "Larkmoor", "Lunavolt", "Marrowfen", "Mistgate",
    "Nettleby", "Northwick", "Oakenfell", "Orbisand", "Pellworth", "Quillmark", "Quorvex", "Ravenglas",
    "Rushmede", "Sablewood", "Silvatek", "Thornbury", "Tamarisk", "Umberfold", "Velmora", "Wexcombe",
    "Whitlock", "Xandrell", "Yarrowdene", "Zephyrine",
)  # fmt: skip
HELD_OUT_ITEMS = ("Toner", "Lamp", "Cable", "Chair", "Folder", "Monitor", "Label", "Glue", "Tape", "Hinge")
HELD_OUT_PREFIXES = ("INV", "PO", "RX", "Q", "BK", "TN")

_ONSETS = (
    "", "b", "bl", "br", "c", "ch", "cl", "cr", "d", "dr", "f", "fl", "fr", "g", "gl", "gr", "h", "j", "k",
    "kn", "l", "m", "n", "p", "ph", "pl", "pr", "qu", "r", "s", "sc", "sh", "sk", "sl", "sm", "sn", "sp",
    "st", "sw", "t", "th", "tr", "tw", "v", "w", "wh", "x", "y", "z",
)  # fmt: skip
_VOWELS = (
    "a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ea", "oo", "ai", "y", "ee", "ie", "io", "ou", "ow",
    "ei",
)  # fmt: skip
_CODAS = (
    "", "", "", "b", "ck", "d", "f", "ft", "g", "k", "l", "ld", "lk", "ll", "lm", "lt", "m", "mb", "mm", "n",
    "nd", "ng", "nn", "nt", "p", "r", "rb", "rd", "rk", "rl", "rm", "rn", "rr", "rt", "rv", "s", "sh", "sk",
    "ss", "st", "t", "th", "tt", "v", "x",
)  # fmt: skip
_HELD_OUT_LOWER = frozenset(word.lower() for word in (*HELD_OUT_VENDOR_WORDS, *HELD_OUT_ITEMS))


def _syllable(rng: random.Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)


def training_word(rng: random.Random, *, longest: int = 10) -> str:
    """A capitalised pseudo-word of 3 to `longest` letters which is in no held-out list."""
    while True:
        length = rng.randint(3, longest)
        if rng.random() < 0.25:
            word = "".join(rng.choice(string.ascii_lowercase) for _ in range(length))
        else:
            word = ""
            while len(word) < length:
                word += _syllable(rng)
            word = word[:length]
        if word not in _HELD_OUT_LOWER:
            return word.capitalize()


def vendor_name(rng: random.Random, split: str) -> str:
    """A word and a company form, or, one time in four, two words: at most 19 characters."""
    while True:
        second = _vendor_word(rng, split) if rng.random() < 0.25 else rng.choice(COMPANY_FORMS)
        name = f"{_vendor_word(rng, split)} {second}"
        if len(name) <= 19:
            return name


def _vendor_word(rng: random.Random, split: str) -> str:
    return rng.choice(HELD_OUT_VENDOR_WORDS) if split == "held_out" else training_word(rng)


def item_name(rng: random.Random, split: str) -> str:
    """What one line of the page was bought for."""
    return rng.choice(HELD_OUT_ITEMS) if split == "held_out" else training_word(rng, longest=8)


def document_number(rng: random.Random, split: str) -> str:
    """A prefix, a dash and three to five digits, such as `INV-40213`."""
    if split == "held_out":
        prefix = rng.choice(HELD_OUT_PREFIXES)
    else:
        prefix = "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(1, 3)))
    return f"{prefix}-{digits(rng, rng.randint(3, 5))}"


def digits(rng: random.Random, count: int) -> str:
    """`count` digits of which the first is not zero."""
    return str(rng.randint(1, 9)) + "".join(rng.choice(string.digits) for _ in range(count - 1))


def amount(rng: random.Random, *, longest: int = 4) -> str:
    """An amount with two decimals and one to `longest` digits before the point."""
    return f"{digits(rng, rng.randint(1, longest))}.{rng.choice(string.digits)}{rng.choice(string.digits)}"


def date(rng: random.Random) -> str:
    """An ISO date; the day stops at 28 so that every month has it."""
    return f"{rng.randint(2010, 2039)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
