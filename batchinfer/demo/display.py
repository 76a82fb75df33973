"""What is shown while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.client.progress import Bar

if TYPE_CHECKING:
    from batchinfer.demo.watch import Progress


class Screen(Bar):
    """Progress and remarks of one run."""

    def update(self, progress: Progress) -> None:
        """Show how it stands."""
        self.show(progress.done, progress.total, describe_progress(progress))


def describe_progress(progress: Progress) -> str:
    """For example `31/54 pages  9.3 pages/s  11.8 rows a step  3 s left`."""
    parts = [f"{progress.done}/{progress.total} pages"]
    if progress.pages_per_s:
        parts.append(f"{progress.pages_per_s:.1f} pages/s")
    if progress.rows_per_step is not None:
        parts.append(f"{progress.rows_per_step:.1f} rows a step")
    if progress.left_s is not None and progress.done < progress.total:
        parts.append(f"{progress.left_s:.0f} s left")
    return "  ".join(parts)
