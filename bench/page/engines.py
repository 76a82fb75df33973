"""What the benches of engines found: ours beside `generate`, beside peers, beside the disk, beside a direct client."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.goals import DIRECT, DISK
from bench.page.entries import NOT_RECORDED, Compared, Goal, Section, Taken, read_goals, spread
from bench.report import number

Found = Mapping[str, Any]
_OURS = "continuous, 64 slots"
_CPU = "GPUs; models of real size at full length; processors other than those below."


def read_engine(found: Found) -> Section:
    """engine-SIZE.json."""
    size = _size(found)
    tables, compared = [], []
    for name, workload in found["workloads"].items():
        ratios, best = workload["ratios"], workload["best_static"]
        rows = [
            [who, spread(rate), str(rate["runs"]), _times(ratios.get(who))] for who, rate in workload["rates"].items()
        ]
        title = f"{name}: {workload['requests']} requests, {workload['about']}"
        tables.append((title, ["", "tokens/s", "runs", f"times {best or 'the best static'}"], rows))
        if best and _OURS in ratios:
            ours, theirs = (spread(workload["rates"][who], " tokens/s") for who in (_OURS, best))
            compared.append(Compared(f"{found['size']} model: {workload['about']}", ours, best, theirs, ratios[_OURS]))
    return Section(
        title=f"Our engine beside `generate`, {size}",
        command=f"make bench-engine SIZE={found['size']}",
        about=f"Random weights, float32, one thread; in turns; tokens per second of processor time. {_code(found)}",
        limit=_tell_engine_limit(found),
        unmeasured=_CPU,
        taken=_sittings(found),
        compared=compared,
        goals=read_goals(found.get("goals", [])),
        tables=tables,
        page=f"engine-{found['size']}.md",
    )


def read_peers(found: Found) -> Section:
    """peers-SIZE.json."""
    size = _size(found)
    compared = [
        Compared(
            f"{found['size']} model: {one['about']}",
            spread(one["rates"]["ours"], " tokens/s"),
            peer["version"],
            spread(one["rates"]["peer"], " tokens/s"),
            one["ratio"],
        )
        for peer in found["peers"].values()
        for one in peer["workloads"].values()
    ]
    flags = " ".join(f"{peer['version']}: {peer['flags']}." for peer in found["peers"].values())
    hidden = " ".join(f"{peer['version']}: {peer['limits']}" for peer in found["peers"].values())
    return Section(
        title=f"Peers beside our engine, {size}",
        command=f"make bench-peers SIZE={found['size']}",
        about=f"The same model folder, pictures and prompts, one thread each, in turns. {flags} {_code(found)}",
        limit="The peer of the same minutes: a rate of the processor itself was not taken.",
        unmeasured=f"{_CPU} {hidden}",
        taken=_sittings(found),
        compared=compared,
        goals=read_goals(found.get("goals", [])),
        page=f"peers-{found['size']}.md",
    )


def read_loading(found: Found) -> Section:
    """loading.json."""
    judged = found["judged"]
    rates, disk = judged["rates"], judged["disk"]
    rows = [[name, spread(rate), str(rate["runs"])] for name, rate in rates.items()]
    compared, goals = [], []
    for dtype in found["dtypes"]:
        ours = spread(rates[f"ours, {dtype}"], " MiB/s")
        plain = f"from_pretrained, {dtype}"
        times = judged["times_plain"][dtype]
        compared.append(Compared(f"cold start, {dtype}", ours, plain, spread(rates[plain], " MiB/s"), times))
        share = judged["shares"][dtype]
        compared.append(Compared(f"cold start, {dtype}", ours, disk, spread(rates[disk], " MiB/s"), share, rival=False))
        goals.append(
            Goal(f"{dtype}: share of the disk's rate", f"at least {DISK}", number(share), judged["met"][dtype])
        )
    return Section(
        title="A cold start",
        command="make bench-loading",
        about=f"A folder of {found['bytes'] / 2**30:.2f} GiB of bfloat16 in {found['shards']} shards, until every "
        "page of every weight was met.",
        limit=f"The disk, as *{disk}* finds it. In float32 the conversion on the processor is the limit.",
        unmeasured="Copies to a GPU; network file systems; folders larger than memory.",
        taken=[Taken("all", found.get("machine", {}))],
        compared=compared,
        goals=goals,
        tables=[("Rates", ["", "MiB/s", "runs"], rows)],
        page="loading.md",
    )


def read_remote(found: Found) -> Section:
    """remote.json."""
    compared = [
        Compared(
            f"{server}'s server: {row['workload']}",
            f"{number(statistics.median(row['adapter']))} requests/s",
            "a direct client",
            f"{number(statistics.median(row['direct']))} requests/s",
            row["ratio"],
            rival=False,
        )
        for server, one in found.items()
        for row in one["rows"]
    ]
    rows = [
        [
            server,
            row["workload"],
            " to ".join(f"{value:.3f}" for value in (min(row["pairs"]), max(row["pairs"]))),
            str(len(row["pairs"])),
            " / ".join(number(value) for value in row["cpu_ms"]),
            f"{row['same_texts']:,} of {row['texts']:,}",
        ]
        for server, one in found.items()
        for row in one["rows"]
    ]
    head = ["server", "workload", "adapter / direct, range", "runs", "client's CPU, ms: direct / adapter", "same text"]
    low = {server: min(row["ratio"] for row in one["rows"]) for server, one in found.items()}
    return Section(
        title="The remote engine beside a direct client",
        command="make bench-remote",
        about=" ".join(f"{server}: {one['setting']}" for server, one in found.items()),
        limit="The server's own rate, which the direct client reaches.",
        unmeasured="A server on a GPU; a network between the hosts; several hundred requests at once; SGLang, TGI.",
        taken=[Taken(server, one.get("machine", {})) for server, one in found.items()],
        compared=compared,
        goals=[
            Goal(f"{server}: of the direct rate", f"at least {DIRECT}", f"{share:.3f}", share >= DIRECT)
            for server, share in low.items()
        ],
        tables=[("By turns", head, rows)],
        page="remote.md",
    )


def read_gpu(lines: Sequence[Found]) -> Section:
    """gpu-MODEL.jsonl, the lines of `bench.gpu`: each as it was written, less what is no figure or word."""
    first = next((line for line in lines if line["what"] == "run"), {})
    gpu = first.get("gpu", {})
    where = f"{gpu['name']}, {gpu['memory_gib']} GiB" if gpu else f"on {first.get('device', NOT_RECORDED)}, no GPU"
    rows = [
        [line["what"], ", ".join(f"{name} {_word(value)}" for name, value in line.items() if _is_told(name, value))]
        for line in lines
        if line["what"] not in {"run", "self-test"}
    ]
    return Section(
        title=f"Our engine on a GPU, {first.get('model', 'a model')}",
        command=f"python -m bench.gpu --model {first.get('model', 'MODEL')}",
        about=f"{where}; random weights. Shares are of what the device can do at most, measured in the same run.",
        limit="Reading weights and live keys and values once a step; a matrix product of the device.",
        unmeasured="Other devices; trained weights; several devices.",
        taken=[Taken("all", first.get("machine", {}))],
        tables=[("As it was written", ["", ""], [row for row in rows if row[1]])],
    )


def _is_told(name: str, value: object) -> bool:
    return name != "what" and isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _word(value: object) -> str:
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _size(found: Found) -> str:
    return f"{found['size']} model of {number(found['model']['parameters'] / 1e6)} million parameters"


def _code(found: Found) -> str:
    return f"Engine code {found.get('code', NOT_RECORDED)}."


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _sittings(found: Found) -> list[Taken]:
    """A sitting has a date and a load of its own; the machine is that of the first."""
    sittings = found.get("sittings") or [{"part": "all"}]
    return [Taken(one["part"], {**found.get("machine", {}), **one}) for one in sittings]


def _tell_engine_limit(found: Found) -> str:
    shares = [f"{who}: {entry['share']:.3f}" for who, entry in found.get("occupancy", {}).items()]
    told = "Uniform answers leave a static batch nothing to waste: there `generate` is the limit. Of ragged ones it is "
    return (
        told
        + "the share of rows in use"
        + (f" ({'; '.join(shares)})." if shares else ", which this run did not measure.")
    )
