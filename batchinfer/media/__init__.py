"""Users' bytes: kept by SHA-256, told apart by their first bytes, opened only inside a limited process."""

from __future__ import annotations
