"""docs/performance.md and the README's table are what `python -m bench.page` makes of the stored results alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.page.__main__ import main
from bench.page.entries import Compared, Taken, group_taken
from bench.page.render import CLOSE, OPEN, put_between, render_page, render_readme
from bench.page.stored import KNOWN, RESULTS, read_stored
from tests.docs.conftest import ROOT


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print"]) == 0
    assert (ROOT / "docs" / "performance.md").read_text() == capsys.readouterr().out, "run `make pages`"


def test_the_readmes_table_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--readme", "--print"]) == 0
    printed = capsys.readouterr().out.strip()
    between = (ROOT / "README.md").read_text().split(OPEN)[1].split(CLOSE)[0].strip()
    assert between == printed, "run `make pages`"


def test_twice_is_the_same() -> None:
    assert render_page(*read_stored()) == render_page(*read_stored())


def test_without_results_there_is_no_figure(tmp_path: Path) -> None:
    sections, missing = read_stored(tmp_path)
    page = render_page(sections, missing)
    assert not sections
    assert not re.search(r"\d", page.replace("docs/performance.md", ""))
    assert len(missing) == len(KNOWN) + 2
    assert all(command in page for _, command in missing)
    assert render_readme(sections) == "Nothing has been measured here."


def test_another_figure_in_a_file_is_another_on_the_page(tmp_path: Path) -> None:
    found = json.loads((RESULTS / "queue.json").read_text())
    found["drain"]["jobs_per_s"] = 4321.0
    found["drain"]["machine"]["date"] = "1999-12-31T23:59:00+00:00"
    found["tasks"]["jobs_per_s"] = 8642.0
    (tmp_path / "queue.json").write_text(json.dumps(found))
    page = render_page(*read_stored(tmp_path))
    assert "4,321 jobs/s" in page
    assert "1999-12-31 23:59" in page
    ahead = page.split("## Where others are ahead")[1].split("## ")[0]
    assert "8,642 jobs/s" in ahead
    assert "**0.50, behind**" in ahead


def test_what_a_file_does_not_say_is_not_made_up(tmp_path: Path) -> None:
    found = json.loads((RESULTS / "admin.json").read_text())
    del found["machine"]
    (tmp_path / "admin.json").write_text(json.dumps(found))
    page = render_page(*read_stored(tmp_path))
    assert "| all | not recorded | not recorded | not recorded | not recorded | not recorded |" in page


def test_small_runs_are_named(tmp_path: Path) -> None:
    found = json.loads((RESULTS / "api.json").read_text())
    found["service"]["small"] = True
    (tmp_path / "api.json").write_text(json.dumps(found))
    assert "service (small sizes, says nothing)" in render_page(*read_stored(tmp_path))


def test_a_file_that_nobody_knows_is_named_without_figures(tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text(json.dumps({"part": {"machine": {"cpu": "Some"}, "rate": 987654}}))
    page = render_page(*read_stored(tmp_path))
    assert "## `new.json`" in page
    assert "| part | not recorded | not recorded | Some |" in page
    assert "987654" not in page


def test_lines_of_a_gpu_are_shown_and_then_not_called_missing(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"what": "run", "model": "2b", "gpu": {"name": "Some GPU", "memory_gib": 80.0}, "machine": {"cpu": "Some"}},
        {"what": "decode", "rows": 16, "tokens_per_s": 1234.5, "failed": None},
        {"what": "decode: done", "seconds": 2.5},
    ]
    (tmp_path / "gpu-2b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = render_page(*read_stored(tmp_path))
    assert "Some GPU, 80.0 GiB" in page
    assert "| decode | rows 16, tokens_per_s 1,234 |" in page
    assert "anything on a GPU" not in page


def test_a_limit_that_is_not_reached_is_no_defeat() -> None:
    limit = Compared("load", "1 MiB/s", "the disk", "2 MiB/s", 0.5, rival=False)
    assert not limit.lost
    assert limit.cells()[-1] == "0.50 of the limit"
    rival = Compared("load", "1 MiB/s (0.5 to 2)", "another", "2 MiB/s", 0.5)
    assert rival.cells(ranges=False) == ["load", "1 MiB/s", "another", "2 MiB/s", "**0.50, behind**"]


def test_parts_of_one_machine_stand_in_one_row() -> None:
    one = {"cpu": "Some", "date": "2026-01-02T03:04:05+00:00", "load_average": 1.0}
    taken = [Taken("a", one), Taken("b", {**one, "cpu": "Other"}), Taken("c", {**one, "load_average": 2.5})]
    rows = group_taken(taken)
    assert [row[0] for row in rows] == ["a; c", "b"]
    assert rows[0][1:3] == ["2026-01-02 03:04", "1.00; 2.50"]


@pytest.mark.parametrize("text", ["", OPEN, f"{CLOSE}{OPEN}", f"{OPEN}{OPEN}{CLOSE}"])
def test_a_readme_without_its_marks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="needs the line"):
        put_between(text, "x")
