"""One function is one user's verb and one transaction. Nobody here knows Flask or SQL."""

from __future__ import annotations
