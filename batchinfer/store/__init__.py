"""The only room that speaks SQL. Frozen values come out, never rows or ORM objects."""

from __future__ import annotations
