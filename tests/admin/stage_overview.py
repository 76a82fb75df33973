"""An installation that has been at work for a week: series, gauges, devices and a batch under way."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from batchinfer.domain.histograms import count_durations
from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.store import hosts, rollup
from batchinfer.store.gauges import LOOKED
from batchinfer.store.series_tables import device_gauges, hours, minutes, queue_gauges

MODELS = ("reader", "docreader-large-with-a-long-name")


def fill_series(context: Any, *, days: int = 7) -> None:
    """Two hours by the minute and the days before by the hour, with a queue that swells and two devices."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    hour = now.replace(minute=0)
    with context.db.transaction() as tx:
        for back in range(1, 130):
            at = now - timedelta(minutes=back)
            tx.execute(minutes.insert(), [{"minute": at, **_counts(model, back, 1)} for model in MODELS])
            _put_gauges(tx, at, 60, back)
        for back in range(3, days * 24):
            at = hour - timedelta(hours=back)
            tx.execute(hours.insert(), [{"hour": at, **_counts(model, back, 60)} for model in MODELS])
            _put_gauges(tx, at, 3600, back)
        rollup.make_hours(tx)
        devices = [hosts.Device("cuda:0", "cuda", 81_559, "Accelerator"), hosts.Device("cpu", "cpu", 64_000)]
        hosts.open_host(tx, "one", uuid4(), devices)


def _counts(model: str, back: int, scale: int) -> dict[str, Any]:
    wave = 1 + math.sin(back / 9 + len(model))
    done = int(scale * (18 + 14 * wave))
    return {
        "tenant_id": DEFAULT_TENANT, "model": model, "submitted": done, "succeeded": done,
        "failed": int(back % 11 == 0) * scale, "images": done, "prompt_tokens": done * 900,
        "completion_tokens": done * 260, "row_us": done * 900_000, "device_us": done * 110_000,
        "waits": count_durations([2 + 30 * wave, 4 + 60 * wave, 90 * wave]),
        "runs": count_durations([0.4, 0.7 + wave, 3 + wave]),
    }  # fmt: skip


def _put_gauges(tx: Any, at: datetime, span_s: int, back: int) -> None:
    wave = 1 + math.sin(back / 14)
    rows = [{"tenant_id": LOOKED, "model": "", "waiting": 0, "running": 0, "oldest_s": None}]
    rows += [
        {
            "tenant_id": DEFAULT_TENANT,
            "model": model,
            "waiting": 900 * wave * place,
            "running": 24,
            "oldest_s": 80 * wave,
        }
        for place, model in enumerate(MODELS, 1)
    ]
    tx.execute(queue_gauges.insert(), [{"span_s": span_s, "at": at, **row} for row in rows])
    loads = [("cuda:0", 81_559, 39_400 + 600 * wave, 0.45 + 0.25 * wave), ("cuda:1", 81_559, 21_000, 0.3 * wave)]
    tx.execute(
        device_gauges.insert(),
        [
            {"span_s": span_s, "at": at, "host": "one", "device": device, "total_mib": total, "used_mib": used,
             "busy": min(1, busy), "taken_mib": used + 2_400, "use": min(1, busy + 0.1)}
            for device, total, used, busy in loads
        ],
    )  # fmt: skip


def add_batch(context: Any) -> UUID:
    """A batch of which most is done."""
    from batchinfer.store.tables import batches

    batch_id = new_id()
    with context.db.transaction() as tx:
        tx.execute(
            batches.insert(),
            {"id": batch_id, "tenant_id": DEFAULT_TENANT, "class": "batch", "status": "in_progress", "model": "reader",
             "endpoint": "/v1/chat/completions", "completion_window": "24h", "total": 5000, "completed": 3120,
             "failed": 84, "expires_at": datetime.now(UTC) + timedelta(hours=20), "input_file_id": new_id()},
        )  # fmt: skip
    return batch_id
