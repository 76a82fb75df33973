"""Engines: each takes requests, batches them over one model and ends each exactly once.

Importable with torch, transformers, tokenizers, safetensors and Pillow alone; this file and the seam need none of them.
"""

from __future__ import annotations
