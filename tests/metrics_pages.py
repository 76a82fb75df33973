"""Reads pages of metrics as Prometheus does."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from batchinfer.observe.metric_list import METRICS

Samples = dict[tuple[str, ...], float]


def read_page(page: str) -> Samples:
    """Samples by name and label values in the order of the list; of a histogram's bucket the bound is the last."""
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            base = next(name for name in (sample.name, sample.name.rpartition("_")[0]) if name in METRICS)
            labels = [sample.labels[name] for name in METRICS[base].labels]
            key = (sample.name, *labels, *([sample.labels["le"]] if "le" in sample.labels else []))
            assert key not in found, f"{key} is told twice"
            found[key] = sample.value
    return found
