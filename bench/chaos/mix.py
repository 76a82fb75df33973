"""One part of the mix: a service of its own, load, faults drawn from a seed, and the ledger at the end.

The plan (which faults, in which order, with which draws) follows from the seed alone; at which moment of the work each
one strikes does not, as on any machine.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import redis

from batchinfer.errors import BatchinferError
from bench.chaos import ledger
from bench.chaos.calls import document_body, picture_body, text_body
from bench.chaos.clock import Clock
from bench.chaos.cluster import Cluster, NotInTime
from bench.chaos.disk import mounted
from bench.chaos.faults import FAULTS, Stage, draw_plan, list_possible
from bench.chaos.load import Load
from bench.chaos.network import Island
from bench.chaos.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SLOTS = 32
ENGINE = '{"allow_faults": true, "steps_per_s": 200}'
DISK = "1g"
#: Of 1,000 submissions: pictures, documents, errors that pass, errors that stay, jobs that end their process.
PICTURES, DOCUMENTS, PASSING, FAILING = 30, 4, 10, 5
#: The codes of errors that prompts ask for. One that passes is met once in each worker, so three workers in turn end
#: the job.
STAYS, PASSES = "asked_for", "out_of_memory"
#: Jobs of a part that end their process.
POISONS = 2
SETTLE_S = 300.0


@dataclass
class Part:
    """What one part found."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    submissions: int = 0
    jobs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    #: Rows that a worker wrote too late, refused; commits without an answer found to have landed, as rows.
    fenced: int = 0
    landed: int = 0
    commits_cut: int = 0
    lost: int = 0
    replays: int = 0
    refused: int = 0
    restarts: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    #: Faults that this machine cannot have, with the reason.
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether the ledger is."""
        return not self.problems


def run_part(folder: Path, seed: int, jobs: int, faults: int, say: Callable[[str], None]) -> Part:
    """Run one part. Main thread: it starts processes."""
    possible, skipped = list_possible()
    part = Part(seed, skipped=skipped)
    started = time.monotonic()
    with ExitStack() as ending:
        stage = _build(folder, seed, possible, ending)
        load = Load(
            stage.cluster.url, stage.cluster.api_key, jobs, make=make_mix(seed, jobs), threads=8, seed=seed
        ).start()
        ending.callback(load.stop)
        try:
            _strike(stage, load, draw_plan(seed, faults, possible), part, say)
            _calm(stage)
            ledger.settle(stage.cluster, [load], SETTLE_S)
        except NotInTime as error:
            part.problems.append(str(error).partition("\n")[0])
            say(str(error))
        _read(stage, load, part)
    part.seconds = time.monotonic() - started
    return part


def make_mix(seed: int, jobs: int) -> Callable[[int, str], dict[str, Any]]:
    """What is submitted: mostly texts; some pictures, documents, errors and poison."""
    poisons = set(random.Random(f"poison {seed}").sample(range(jobs), min(POISONS, jobs)))

    def make(number: int, key: str) -> dict[str, Any]:
        rng = random.Random(f"{seed} {number}")
        if number in poisons:
            return text_body(f"[[crash]] {key}", key)
        dice = rng.randrange(1000)
        for width, marker in ((PASSING, f"[[once:{PASSES}]]"), (FAILING, f"[[fail:{STAYS}]]")):
            if dice < width:
                return text_body(f"{marker} {key}", key)
            dice -= width
        text = f"[[steps:{rng.randint(1, 40)}]] {key}"
        if dice < PICTURES:
            return picture_body(text, key)
        return document_body(text, key) if dice < PICTURES + DOCUMENTS else text_body(text, key)

    return make


def _build(folder: Path, seed: int, possible: list[str], ending: ExitStack) -> Stage:
    disk = ending.enter_context(mounted(folder / "disk", DISK)) if "disk full" in possible else folder / "disk"
    servers = Servers(disk / "servers")
    ending.callback(servers.stop)
    servers.start()
    cluster = Cluster(folder / "cluster", servers)
    ending.callback(cluster.close)
    stage = Stage(cluster, random.Random(f"faults {seed}"))
    stage.ballast = disk / "ballast" if "disk full" in possible else None
    environment: dict[str, str] = {}
    if "clock jumps" in possible:
        stage.worker_clock = Clock(folder / "clock")
        environment = stage.worker_clock.environment
    cluster.start_web(environment=environment)
    cluster.start_beat()
    cluster.start_cpu("cpu-0")
    cluster.start_model("model-0", slots=SLOTS, options=ENGINE, environment=environment)
    cluster.start_model("model-1", slots=SLOTS, options=ENGINE)
    if "network cut" in possible:
        stage.island = ending.enter_context(Island())
        prefix, host = stage.island.prefix, stage.island.host
        cluster.start_model("far", slots=SLOTS, options=ENGINE, prefix=prefix, link_host=host)
    cluster.wait_ready()
    return stage


def _strike(stage: Stage, load: Load, plan: list[str], part: Part, say: Callable[[str], None]) -> None:
    """Spread the faults over the load: each waits until its share of the submissions is acknowledged."""
    for number, name in enumerate(plan):
        due = (number + 1) * load.total // (len(plan) + 1)
        stage.cluster.wait(lambda due=due: len(load.acks) >= due or load.done, "the load goes on", SETTLE_S)
        at = len(load.acks)
        try:
            what = FAULTS[name](stage)
        except (BatchinferError, psycopg.Error, redis.RedisError, OSError) as error:
            what = f"beside another fault: {type(error).__name__}"
            _calm(stage)
        part.faults[name] += 1
        say(f"  {number + 1:3} of {len(plan)}, {at:6} acknowledged: {name} {what}".rstrip())
        stage.cluster.rest(stage.rng.uniform(0.1, 1.0))


def _calm(stage: Stage) -> None:
    """Everything whole again: from here on the system has to recover by itself."""
    if stage.ballast is not None:
        stage.ballast.unlink(missing_ok=True)
    if stage.island is not None:
        stage.island.plug()
    stage.cluster.heal()


def _find_unasked(cluster: Cluster) -> list[str]:
    """Jobs that failed for another reason than that their prompt asked for it."""
    codes = cluster.sql("SELECT error ->> 'code', count(*) FROM jobs WHERE final_state = 'failed' GROUP BY 1")
    return [f"failed with {code}: {number} jobs" for code, number in codes if code not in {STAYS, PASSES}]


def _read(stage: Stage, load: Load, part: Part) -> None:
    cluster = stage.cluster
    verdict = ledger.check(cluster, [load])
    part.submissions, part.jobs, part.states = verdict.submissions, verdict.jobs, verdict.states
    part.problems += verdict.problems + _find_unasked(cluster)
    part.fenced = cluster.count_events("results fenced out: cancelled, expired or taken over", "fenced")
    part.landed = cluster.count_events("an unanswered commit had taken place", "rows")
    part.commits_cut = sum(sum(link.database.lost.values()) for link in cluster.links.values())
    part.lost = cluster.count("SELECT count(*) FROM attempts WHERE outcome = 'lost'")
    part.replays, part.refused = load.tally.replays, load.tally.statuses[503]
    part.restarts = sum(len(member.ends) for member in cluster.members.values())
