"""`docreader`, the small model that ships with the project, and the code which made and measures it."""

from __future__ import annotations
