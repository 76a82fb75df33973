"""`python -m batchinfer.cli`."""

from __future__ import annotations

from batchinfer.cli import main

main()
