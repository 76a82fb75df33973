"""The data plane of batchinfer: processes that hold a model or prepare its input. The only place that imports torch."""

from __future__ import annotations
