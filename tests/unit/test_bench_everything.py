"""What `make bench` would run and why it skips the rest; nothing is measured here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import everything
from bench.everything import EVERY, Bench, choose, find_reasons, write_command
from bench.page import stored
from bench.page.entries import Section, Taken
from bench.page.render import render_page
from bench.whole import Whole, read_whole

ROOT = Path(__file__).resolve().parents[2]


def lacks() -> str:
    return "needs a thing: buy one"


ABLE = Bench("able", ("bench.able",), "a minute", (), ("--few",))
UNABLE = Bench("unable", ("bench.unable",), "a minute", (lambda: None, lacks), ("--few",))
LONG = Bench("long", ("bench.long",), "hours", (), None)


def test_every_bench_is_a_module_and_has_a_name_of_its_own() -> None:
    assert len({bench.name for bench in EVERY}) == len(EVERY)
    for bench in EVERY:
        place = ROOT / bench.arguments[0].replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), bench.name


def test_every_result_that_the_page_reads_has_a_bench_that_makes_it() -> None:
    made = {bench.name for bench in EVERY}
    for name, *_ in stored.KNOWN:
        assert name.removesuffix(".json").replace("-tiny", "") in made, name


def test_every_bench_of_the_makefile_is_among_them() -> None:
    text = (ROOT / "Makefile").read_text()
    ran = set(re.findall(r"-m (bench\.\w+)", text)) - {"bench.page"}
    assert ran <= {bench.arguments[0] for bench in EVERY}


def test_parts_choose_and_an_unknown_one_is_refused() -> None:
    assert [bench.name for bench in choose("queue,api")] == ["queue", "api"]
    assert choose("") == list(EVERY)
    with pytest.raises(ValueError, match="no bench named nothing; there are engine"):
        choose("queue,nothing")


def test_what_is_lacking_is_said_with_what_to_do() -> None:
    assert find_reasons(ABLE, small=False) == []
    assert find_reasons(UNABLE, small=False) == ["needs a thing: buy one"]
    assert find_reasons(LONG, small=True) == ["has no small form"]


def test_a_peer_is_never_installed_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "ROOT", tmp_path)
    (told,) = [everything.peer("vllm")()]
    assert told is not None
    assert "python -m bench.peers install vllm" in told
    (tmp_path / ".venv-peers" / "vllm").mkdir(parents=True)
    assert everything.peer("vllm")() is None


def test_small_runs_write_nowhere_near_the_results(tmp_path: Path) -> None:
    assert write_command(ABLE, tmp_path, small=True) == ["-m", "bench.able", "--few", "--out", str(tmp_path)]
    assert write_command(ABLE, tmp_path, small=False) == ["-m", "bench.able", "--out", str(tmp_path)]
    assert all(find_reasons(bench, small=True) for bench in EVERY if not bench.out)


def test_one_that_breaks_keeps_no_other_from_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran, wrote = [], []

    def run(argv: list[str], **_: object) -> object:
        ran.append(argv[2])
        return type("Ended", (), {"returncode": 1 if argv[2] == "bench.able" else 0})()

    monkeypatch.setattr("bench.whole.find_commit", lambda: "0123456789ab")
    monkeypatch.setattr(command.subprocess, "run", run)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "write_page", wrote.append)
    monkeypatch.setattr(command, "choose", lambda _: [ABLE, UNABLE, LONG])
    assert command.main([]) == 1
    assert ran == ["bench.able", "bench.long"]
    assert wrote == [[], ["--readme"]]
    said = capsys.readouterr().out
    assert "skipped: needs a thing: buy one" in said
    assert "able ended with -1" in said, "it left no results"
    whole = read_whole(tmp_path)
    assert whole is not None
    assert [(one["name"], one["code"]) for one in whole.benches] == [("able", -1), ("long", 0)]
    assert whole.skipped == {"unable": "needs a thing: buy one"}
    assert whole.began <= whole.ended


def test_some_parts_are_no_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "write_page", lambda _: 0)
    monkeypatch.setattr(command, "choose", lambda _: [UNABLE])
    assert command.main(["--parts", "unable"]) == 0
    assert read_whole(tmp_path) is None


def test_the_page_tells_which_parts_are_of_another_run() -> None:
    whole = Whole("2026-01-02T03:00:00+00:00", "1.2.3", "0123456789ab", "2026-01-02T05:00:00+00:00")
    whole.add("queue", "python -m bench.queue", 1, 61.4)
    dates = {"inside": "2026-01-02T04:00:00+00:00", "after": "2026-01-02T05:00:01+00:00"}
    taken = [Taken(part, {"date": date}) for part, date in dates.items()] + [Taken("undated", {})]
    page = render_page([Section("The queue", "make it", "about", "limit", "unmeasured", taken)], [], whole)
    of_run = page.split("## One run")[1].split("## ")[0]
    assert "from 2026-01-02 03:00 to 2026-01-02 05:00, version 1.2.3, commit 0123456789ab" in of_run
    assert "| queue | `python -m bench.queue` | ended, a goal missed | 61 |" in of_run
    assert of_run.split("Of other runs:")[1].strip().splitlines() == ["- The queue: after", "- The queue: undated"]
    whole.ended = ""
    assert "and was cut off" in render_page([], [], whole)


def test_a_small_run_that_misses_its_goal_is_as_good_as_one_that_meets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([1, 1])

    def run(argv: list[str], **_: object) -> object:
        code = next(codes)
        folder = Path(argv[argv.index("--out") + 1])
        if not list(folder.iterdir()):
            (folder / "able.json").write_text("{}")
        return type("Ended", (), {"returncode": code})()

    monkeypatch.setattr(command.subprocess, "run", run)
    monkeypatch.setattr(command, "write_page", lambda _: 0)
    monkeypatch.setattr(command, "choose", lambda _: [ABLE])
    assert command.main(["--small"]) == 0
    monkeypatch.setattr(command, "choose", lambda _: [LONG, ABLE])
    codes = iter([1])
    monkeypatch.setattr(command, "list_results", lambda _: {})
    assert command.main(["--small"]) == 1, "it left no results"


def test_the_list_runs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command.subprocess, "run", None)
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [bench.name for bench in EVERY]


def test_the_small_form_makes_its_page_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    wrote: list[list[str]] = []
    monkeypatch.setattr(command, "write_page", lambda words: wrote.append(list(words)))
    monkeypatch.setattr(command, "choose", lambda _: [UNABLE, LONG])
    assert command.main(["--small"]) == 0
    assert wrote[0][:2] == ["--print", "--results"]
    assert not Path(wrote[0][2]).exists()
