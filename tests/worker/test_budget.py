"""Plans held against real worker processes: what a load takes, two models on one device, budgets that bind."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.jobs import TERMINAL, JobState
from batchinfer.domain.launches import LaunchSpec
from batchinfer.errors import Unavailable
from batchinfer.media.weight_headers import read_model_facts
from batchinfer.services import fleet, memory, models
from workers import budget
from workers.loading import Plan
from workers.watchdog import EXIT_MODEL

if TYPE_CHECKING:
    from batchinfer.domain.memory import MemoryPlan

ROOT = Path(__file__).resolve().parents[2]
DOCREADER = ROOT / "workers/models/docreader"
#: How far the arithmetic may be off, as a share of resident memory.
OFF = 0.15


def plan_of(work: Any, model: str, **options: Any) -> MemoryPlan:
    found = memory.plan_worker(work.ctx, models.find_model(work.ctx, model), LaunchSpec("cpu", **options))
    assert found is not None
    return found


def start(launcher: Any, model: str, *options: str) -> Any:
    return launcher.start(
        "workers.model", "worker", "-n", f"{model}@here", "-P", "threads", "-c", "1", "--without-gossip",
        "--without-mingle", "--model", model, "--device", "cpu", "--engine", "auto", "--threads", "1", *options,
    )  # fmt: skip


def wait_slowly(work: Any, ids: list[Any], timeout_s: float = 600.0) -> list[Any]:
    """The jobs once all have ended. A look a second: a model loads on the same cores, which may keep the database."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        time.sleep(1.0)
        with suppress(Unavailable):
            found = [work.get(job_id) for job_id in ids]
            if all(job.state in TERMINAL for job in found):
                return found
    pytest.fail(f"{len(ids)} jobs do not end")


def read_resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def replica_of(work: Any, model: str) -> Any:
    return next((one for one in fleet.list_replicas(work.ctx, work.caller) if one.model == model), None)


def register(work: Any, name: str, folder: Path = DOCREADER) -> None:
    models.register_model(work.ctx, name, str(folder), "r1", read_model_facts(folder))


def hold_against_a_process(work: Any, launcher: Any, until: Any, model: str, **options: Any) -> None:
    """A real worker loads the model and answers; what it holds is what was planned."""
    planned = plan_of(work, model, slots=4, **options)
    extra = [f'--engine-options={{"dtype": "{planned.dtype}"}}']
    process = start(launcher, model, "--slots", "4", "--memory-mib", str(planned.total_mib), *extra)
    (job,) = wait_slowly(work, [work.submit("Hello", model=model, max_tokens=4)])
    assert job.state is JobState.SUCCEEDED, process.tail_log()
    until(lambda: replica_of(work, model).state == "ready", "the replica is ready")
    measured, resident = replica_of(work, model).memory_mib, read_resident_mib(process.pid)
    sys.stdout.write(f"{model} {planned.dtype}: planned {planned.loaded_mib}, {measured} when ready, now {resident}\n")
    assert measured == pytest.approx(planned.loaded_mib, rel=OFF)
    assert resident == pytest.approx(planned.loaded_mib, rel=OFF)
    assert resident <= planned.total_mib


def test_the_bundled_model_takes_what_was_planned(work, launcher, until) -> None:
    register(work, "docreader")
    hold_against_a_process(work, launcher, until, "docreader")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_larger_model_takes_what_was_planned(work, launcher, until, tmp_path_factory, dtype) -> None:
    """About 0.4 billion parameters, random, made here."""
    from bench.models import build_model

    register(work, "large", build_model("large", tmp_path_factory.getbasetemp()))
    hold_against_a_process(work, launcher, until, "large", dtype=dtype)


@pytest.mark.long
def test_two_models_on_one_device_answer_at_once(work, launcher, until) -> None:
    names = ("docreader", "second")
    for name in names:
        register(work, name)
    plans = {name: plan_of(work, name, slots=2, memory_mib=800) for name in names}
    started = {name: start(launcher, name, "--slots", "2", "--memory-mib", "800") for name in names}
    warm = [work.submit("Hello", model=name, max_tokens=2) for name in names]
    assert {job.state for job in wait_slowly(work, warm)} == {JobState.SUCCEEDED}
    ids = {name: [work.submit(f"Hello {n}", model=name, max_tokens=400) for n in range(6)] for name in names}
    found = {name: wait_slowly(work, ids[name]) for name in names}
    for name in names:
        assert {job.state for job in found[name]} == {JobState.SUCCEEDED}
        assert read_resident_mib(started[name].pid) <= plans[name].total_mib <= 800
    # Each had begun before the other had ended.
    spans = {name: (min(j.started_at for j in jobs), max(j.finished_at for j in jobs)) for name, jobs in found.items()}
    assert max(begin for begin, _ in spans.values()) < min(end for _, end in spans.values())


def test_a_budget_below_one_slot_ends_the_start_with_what_it_needs(work, launcher, until) -> None:
    register(work, "docreader")
    process = start(launcher, "docreader", "--memory-mib", "100")
    assert process.wait() == EXIT_MODEL
    replica = replica_of(work, "docreader")
    assert replica.state == "failed"
    assert replica.error["code"] == "memory_budget_too_small"
    assert "one slot of 1,024 tokens takes" in replica.error["message"]


def make_plan(**changes: Any) -> Plan:
    return Plan(**{"model": "m", "device": "cpu", "engine": "auto", "slots": 8, "threads": 1, "engine_options": {},
                   **changes})  # fmt: skip


def test_a_budget_chooses_slots_lengths_and_caches(work) -> None:
    register(work, "m")
    model = models.find_model(work.ctx, "m")
    bound = budget.bind(work.ctx, make_plan(memory_mib=600), model, "cpu")
    planned = plan_of(work, "m", memory_mib=600)
    options = bound.engine_options
    assert bound.slots == planned.slots
    assert options["slot_bytes"] == planned.kv_mib * 2**20
    assert options["context_tokens"] == 1024
    assert options["budgets"].encoder_cache_bytes == planned.allowance.encoder_cache_mib * 2**20 < 256 * 2**20
    assert options["budgets"].chunk_tokens <= options["budgets"].prefill_tokens
    assert options["copy_bytes"] == 0
    # What was said by hand stays.
    by_hand = budget.bind(work.ctx, make_plan(memory_mib=600, engine_options={"slot_bytes": 5}), model, "cpu")
    assert by_hand.engine_options["slot_bytes"] == 5


def test_nothing_is_chosen_without_a_budget_or_for_other_engines(work) -> None:
    register(work, "m")
    model = models.find_model(work.ctx, "m")
    for plan in (make_plan(), make_plan(memory_mib=5, engine="fake")):
        assert budget.bind(work.ctx, plan, model, "cpu") is plan
    models.register_model(work.ctx, "unknown", "/nowhere", "r1", {})
    plan = make_plan(memory_mib=600)
    assert budget.bind(work.ctx, plan, models.find_model(work.ctx, "unknown"), "cpu") is plan


def test_a_process_over_its_budget_is_refused_memory_and_lives() -> None:
    script = textwrap.dedent("""
        from workers import budget
        from workers.loading import Plan
        plan = Plan("m", "cpu", "auto", 8, 1, {}, memory_mib=budget.measure_mib("cpu") + 100)
        budget.hold(plan, "cpu")
        small = bytearray(200 * 2**20)
        try:
            large = bytearray(1200 * 2**20)
        except MemoryError:
            print("refused", len(small))
    """)
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.stdout == f"refused {200 * 2**20}\n", ran.stderr


class Cuda:
    """Stands for torch.cuda of a GPU of 80,000 MiB."""

    def __init__(self) -> None:
        self.share = 0.0

    def get_device_properties(self, _device: str) -> Any:
        return type("Properties", (), {"total_memory": 80_000 * 2**20})

    def set_per_process_memory_fraction(self, share: float, _device: str) -> None:
        self.share = share


def test_a_gpus_share_is_the_budget_less_what_cuda_takes(work, monkeypatch) -> None:
    import torch

    from workers.engine.protocol import ModelError

    cuda = Cuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    register(work, "m")
    model = models.find_model(work.ctx, "m")
    budget.bind(work.ctx, make_plan(memory_mib=40_600), model, "cuda:0")
    assert cuda.share == pytest.approx(0.5)
    budget.bind(work.ctx, make_plan(memory_mib=900_000), model, "cuda:0")
    assert cuda.share == 1.0
    with pytest.raises(ModelError, match="A budget of 500 MiB is too small") as refused:
        budget.bind(work.ctx, make_plan(memory_mib=500), model, "cuda:0")
    assert refused.value.code == "memory_budget_too_small"
