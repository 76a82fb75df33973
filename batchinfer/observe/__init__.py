"""Seeing what happens: logs, and the clock."""

from __future__ import annotations
