"""Every metric that is told, and nowhere else a name: pages, alarms, dashboards and docs/metrics.md are held to it.

Labels are few and bounded: models, classes, devices, hosts. Never a tenant, a key, a prompt or an id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]
Place = Literal["web", "worker", "both"]


@dataclass(frozen=True)
class Metric:
    """`place`: whose page has it. The unit is the end of the name; a counter ends in `_total`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    place: Place
    meaning: str


def _make(place: Place, kind: Kind, name: str, labels: str, meaning: str) -> Metric:
    return Metric(f"batchinfer_{name}", kind, tuple(labels.split()), place, meaning)


_WEB = (
    _make("web", "gauge", "database_up", "", "1 where Postgres answered what this page asks within its time."),
    _make("web", "gauge", "redis_up", "", "1 where Redis or Valkey answered."),
    _make("web", "gauge", "queue_depth", "model class state",
          "Jobs that are `preparing`, `queued`, `running` or `paused`; 10,000 says so many or more."),
    _make("web", "gauge", "queue_oldest_seconds", "model class",
          "Age of the oldest job that waits to be prepared or run; paused ones left out."),
    _make("web", "gauge", "backlog_jobs", "", "Jobs that have not ended, of all models; exact."),
    _make("web", "gauge", "work_depth", "kind state",
          "Rows of other work: render, read, list, close, seal, export, deliver, fetch, act; as above."),
    _make("web", "counter", "jobs_submitted_total", "model", "Jobs that came today (UTC)."),
    _make("web", "counter", "jobs_ended_total", "model outcome",
          "Jobs that ended today: succeeded, failed, cancelled, expired, quarantined."),
    _make("web", "counter", "jobs_retried_total", "model", "Tries that failed today and were followed by another."),
    _make("web", "counter", "jobs_lost_total", "model", "Tries that ended today with their worker."),
    _make("web", "counter", "answers_reused_total", "model", "Jobs that were given a kept answer today."),
    _make("web", "counter", "tokens_total", "model direction", "Tokens of jobs that ended today: prompt, completion."),
    _make("web", "counter", "images_total", "model", "Pictures of jobs that ended today."),
    _make("web", "counter", "row_seconds_total", "model", "Prefill and decoding of all jobs that ended today."),
    _make("web", "counter", "device_seconds_total", "model", "Time of devices for the jobs that ended today."),
    _make("web", "histogram", "job_wait_seconds", "model", "How long jobs that ended today had waited for a worker."),
    _make("web", "histogram", "job_run_seconds", "model", "How long their last try ran."),
    _make("web", "gauge", "leases", "role model", "Workers that hold a lease."),
    _make("web", "gauge", "slots", "model", "Rows that these workers can run at once."),
    _make("web", "gauge", "workers_lost", "role", "Workers that were lost in the last 15 minutes."),
    _make("web", "gauge", "replicas", "model state", "Replicas that have not ended."),
    _make("web", "gauge", "hosts", "state", "Machines with a keeper: alive, draining, silent (for up to a day)."),
    _make("web", "gauge", "device_size_bytes", "host device", "Memory that a device has."),
    _make("web", "gauge", "device_held_bytes", "host device", "Of it what replicas hold."),
    _make("web", "gauge", "device_busy_ratio", "host device",
          "Part of the last whole minute in which it computed, by the jobs that ended in it."),
    _make("web", "gauge", "device_idle_ratio", "host device", "The rest of that minute."),
    _make("web", "gauge", "batches", "status", "Batches and runs that have not ended."),
    _make("web", "gauge", "batches_at_risk", "", "Of those in progress: will miss their deadline at their pace."),
    _make("web", "gauge", "batch_deadline_seconds", "", "Time to the nearest deadline of one in progress."),
    _make("web", "gauge", "webhook_pending", "", "Deliveries that wait, but for disabled endpoints; up to 10,000."),
    _make("web", "gauge", "webhook_oldest_seconds", "", "Age of the oldest of these."),
    _make("web", "gauge", "webhook_endpoints", "state", "Endpoints: enabled, held (paused after failures), disabled."),
    _make("web", "gauge", "oldest_snapshot_seconds", "", "Age of the oldest snapshot, past which nothing is cleaned."),
    _make("web", "gauge", "tick_age_seconds", "", "Since upkeep was last done."),
)  # fmt: skip
_BOTH = (
    _make("both", "gauge", "build_info", "version", "Always 1."),
    _make("both", "counter", "announcements_total", "result",
          "Announcements of this process: sent, spared (the queue was long), failed (Redis did not answer)."),
    _make("both", "gauge", "host_memory_size_bytes", "host", "Memory of the machine."),
    _make("both", "gauge", "host_memory_available_bytes", "host", "Of it what may be taken without swapping."),
    _make("both", "gauge", "host_swap_size_bytes", "host", "Swap of the machine."),
    _make("both", "gauge", "host_swap_used_bytes", "host", "Of it what is in use."),
    _make("both", "counter", "host_swap_in_bytes_total", "host", "Read back from swap since the machine started."),
    _make("both", "counter", "host_swap_out_bytes_total", "host", "Written to swap since the machine started."),
    _make("both", "gauge", "host_memory_pressure_ratio", "host",
          "Part of the last ten seconds in which somebody waited for memory (PSI)."),
    _make("both", "gauge", "home_disk_size_bytes", "host", "Size of the file system of the home folder."),
    _make("both", "gauge", "home_disk_free_bytes", "host", "Of it what is free."),
    _make("both", "gauge", "home_disk_free_inodes_ratio", "host", "Part of its inodes that is free."),
)  # fmt: skip
_WORKER = (
    _make("worker", "gauge", "worker_info", "role worker host model revision engine device", "Always 1."),
    _make("worker", "gauge", "worker_state", "state", "1 at what it does: starting, serving, draining."),
    _make("worker", "gauge", "worker_silent_seconds", "", "Since its lease was last renewed."),
    _make("worker", "gauge", "worker_held_rows", "", "Rows that it holds."),
    _make("worker", "counter", "worker_leases_lost_total", "", "Leases of it that were taken for dead."),
    _make("worker", "counter", "worker_rows_total", "result",
          "What became of rows: completed, failed, retried, released, fenced, dropped."),
    _make("worker", "counter", "worker_retries_total", "model class cause",
          "Tries that are followed by another, by the job's class and the kind of error."),
    _make("worker", "counter", "worker_messages_total", "result", "Messages from Redis: taken, refused."),
    _make("worker", "gauge", "worker_resident_bytes", "", "Memory of the process."),
    _make("worker", "gauge", "worker_swapped_bytes", "", "Of the process, swapped out."),
    _make("worker", "gauge", "engine_slots", "model", "Rows that the engine can run at once."),
    _make("worker", "gauge", "engine_rows", "model state", "Requests in the engine: running, waiting."),
    _make("worker", "counter", "engine_steps_total", "model", "Steps of the engine."),
    _make("worker", "counter", "engine_row_steps_total", "model", "Rows summed over steps: by steps, rows per step."),
    _make("worker", "counter", "engine_ended_total", "model", "Requests that ended."),
    _make("worker", "counter", "engine_evicted_total", "model", "Of these: their slot went to an interactive one."),
    _make("worker", "counter", "engine_completion_tokens_total", "model", "Tokens made."),
    _make("worker", "histogram", "stage_seconds", "model stage",
          "Seconds of each request by stage: waiting, preparing, prefill, decoding, storing."),
    _make("worker", "gauge", "model_resident_ratio", "model",
          "Part of the model's weight files that is in the page cache; looked at once a minute."),
    _make("worker", "gauge", "device_memory_size_bytes", "host device", "Memory of the device as its driver says."),
    _make("worker", "gauge", "device_memory_used_bytes", "host device", "Of it what is used by whomever."),
    _make("worker", "gauge", "worker_memory_allocated_bytes", "device", "What tensors of this process take."),
    _make("worker", "gauge", "worker_memory_reserved_bytes", "device", "What its allocator keeps."),
    _make("worker", "gauge", "worker_memory_fragmented_bytes", "device", "Of that: free in pieces beside tensors."),
    _make("worker", "gauge", "workshop_processes", "", "Pieces that a CPU worker works on at once."),
    _make("worker", "gauge", "workshop_pieces", "", "Pieces that it has."),
    _make("worker", "histogram", "workshop_seconds", "kind",
          "Seconds of each piece by kind: prepare, render, deliver and so on."),
    _make("worker", "counter", "ticks_total", "result", "Ticks of beat: done, failed."),
)  # fmt: skip
METRICS = {metric.name: metric for metric in (*_WEB, *_BOTH, *_WORKER)}
