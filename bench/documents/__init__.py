"""What a night of documents costs, end to end: see __main__."""

from __future__ import annotations
