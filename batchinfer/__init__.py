"""The control plane of batchinfer: HTTP in, Postgres as the truth, Redis as the doorbell. Starts without torch."""

from __future__ import annotations

__version__ = "0.6.0"
