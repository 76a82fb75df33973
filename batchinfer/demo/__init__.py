"""`make demo`: the main job from end to end, over HTTP only, with a ledger at the end."""

from __future__ import annotations
