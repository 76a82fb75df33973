"""What a run brought: its report, its sample and what people say of it, golden prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.client.nouns import Noun

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from batchinfer.client.transport import Transport


class SamplePage(Noun):
    """A page of a run's sample. `verdict` is right, wrong or None."""

    id: str
    number: int
    name: str | None = None
    page: int | None = None
    outcome: str = "ok"
    answer: str | None = None
    picture: str | None = None
    verdict: str | None = None
    note: str | None = None
    golden: bool = False


class Accuracy(Noun):
    """How right a run was, as far as its sample is judged; `low` and `high` bound it with 95 % confidence."""

    right: int
    judged: int
    sampled: int
    population: int
    share: float | None = None
    low: float | None = None
    high: float | None = None


class Golden(Noun):
    """A page whose right answer is known."""

    id: str
    job_id: str
    run_id: str | None = None
    model: str
    answer: str
    created_at: int


class Reviews:
    """`client.reviews`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def report(self, run_id: str) -> dict[str, Any]:
        """The report of a run, as it was written at its end or as it stands. Raises NotFound."""
        return self._transport.ask("GET", f"/v1/runs/{run_id}/report", params={"format": "json"})

    def download_report(self, run_id: str, to: str | os.PathLike[str]) -> int:
        """Write the report as a page of HTML to `to`; answers its bytes. Raises NotFound."""
        return self._transport.download(f"/v1/runs/{run_id}/report?format=html", Path(to))

    def seal(self, run_id: str) -> dict[str, Any]:
        """Write what could not be written to the sinks; a run that failed by that ends anew. Raises NotFound."""
        return self._transport.ask("POST", f"/v1/runs/{run_id}/seal")

    def draw(self, run_id: str, size: int) -> Accuracy | None:
        """Let the sample of a run that has ended have at least `size` pages. Raises NotFound, Conflict."""
        return _read_accuracy(self._transport.ask("POST", f"/v1/runs/{run_id}/sample", json={"size": size}))

    def list(self, run_id: str, *, verdict: str | None = None, limit: int | None = None) -> Iterator[SamplePage]:
        """Pages of a run's sample in the order of its drawing; `verdict` is right, wrong or none. Raises NotFound."""
        found = self._transport.list(f"/v1/runs/{run_id}/sample", {"verdict": verdict}, limit)
        return map(SamplePage.model_validate, found)

    def accuracy(self, run_id: str) -> Accuracy | None:
        """What the verdicts so far say; None where the run has no sample. Raises NotFound."""
        return _read_accuracy(self._transport.ask("GET", f"/v1/runs/{run_id}/sample", params={"limit": 1}))

    def judge(self, run_id: str, job_id: str, verdict: str | None, note: str | None = None) -> SamplePage:
        """Say that a page's answer is right or wrong, or (None) take that back. Raises NotFound."""
        body = {"verdict": verdict, "note": note}
        return SamplePage.model_validate(
            self._transport.ask("POST", f"/v1/runs/{run_id}/sample/{job_id}", json=body)
        )  # fmt: skip

    def keep_golden(self, run_id: str, job_id: str, answer: str | None = None) -> Golden:
        """Keep a page as a golden prompt, with its own answer or the right one. Raises NotFound, Conflict."""
        body = {} if answer is None else {"answer": answer}
        return Golden.model_validate(
            self._transport.ask("POST", f"/v1/runs/{run_id}/sample/{job_id}/golden", json=body)
        )  # fmt: skip


class Goldens:
    """`client.goldens`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> Iterator[Golden]:
        """Golden prompts, newest first."""
        return map(Golden.model_validate, self._transport.list("/v1/goldens", {}, limit))

    def export(self, to: str | os.PathLike[str]) -> int:
        """Write all of them to `to`, a line of JSON each with its picture; answers the bytes."""
        return self._transport.download("/v1/goldens/export", Path(to))

    def delete(self, golden_id: str) -> None:
        """Forget a golden prompt. Raises NotFound."""
        self._transport.ask("DELETE", f"/v1/goldens/{golden_id}", again=False)


def _read_accuracy(answer: dict[str, Any]) -> Accuracy | None:
    found = answer.get("accuracy")
    return None if found is None else Accuracy.model_validate(found)
