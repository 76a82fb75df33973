"""Nouns and rules, pure: no input, no output, no clock."""

from __future__ import annotations
