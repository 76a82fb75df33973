from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from batchinfer.client.progress import make_plain
from batchinfer.demo import report
from batchinfer.demo.accuracy import find_card, find_wrong, measure
from batchinfer.demo.display import Screen, describe_progress
from batchinfer.demo.ledger import Ledger, PageRow
from batchinfer.demo.watch import Progress
from batchinfer.samples import FIELDS

if TYPE_CHECKING:
    from pathlib import Path

TRUTH = {
    "type": "invoice",
    "vendor": "Kirrin Ltd",
    "number": "PO-77",
    "date": "2031-02-03",
    "total": "12.50",
    "currency": "EUR",
}


def make_row(page: int = 1, *, truth: dict[str, str] | None = TRUTH, scanned: bool = False, **read: Any) -> PageRow:
    text = read.pop("text", json.dumps({**TRUTH, **read}))
    job = {
        "id": f"job_{page}",
        "status": "succeeded",
        "created_at": 100,
        "started_at": 103,
        "result": {"text": text},
        "error": None,
        "attempts": 1,
        "crashes": 0,
        "usage": {},
        "timings": {"waiting": 0.5, "preparing": 0.125, "prefill": 0.25, "decoding": 1.0, "rows": 8.0},
    }
    return PageRow("a.pdf", page, job, truth, scanned)


def make_card(clean: float, noisy: float | None = None) -> dict[str, Any]:
    card = {"clean": {"per_field": dict.fromkeys(FIELDS, clean)}}
    if noisy is not None:
        card["noisy"] = {"per_field": dict.fromkeys(FIELDS, noisy)}
    return card


def print_to_text(write: Any, *arguments: Any) -> str:
    console = Console(file=io.StringIO(), width=110, markup=False, highlight=False)
    write(console, *arguments)
    return console.file.getvalue()


def test_fields_are_compared_exactly() -> None:
    assert find_wrong(make_row()) == {}
    assert find_wrong(make_row(number="PO-71")) == {"number": ("PO-77", "PO-71")}
    assert find_wrong(make_row(vendor="KIRRIN LTD")) == {"vendor": ("Kirrin Ltd", "KIRRIN LTD")}


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", "null", '{"type": '])
def test_an_answer_that_is_no_object_has_no_right_field(text: str) -> None:
    assert set(find_wrong(make_row(text=text))) == set(FIELDS)


def test_accuracy_over_all_and_by_field() -> None:
    rows = [make_row(1), make_row(2, number="x"), make_row(3, number="y", total="0"), make_row(4)]
    accuracy = measure(rows, None)
    assert accuracy is not None
    assert accuracy.per_field["number"] == 0.5
    assert accuracy.per_field["total"] == 0.75
    assert accuracy.overall == pytest.approx(21 / 24)
    assert accuracy.whole_pages == 0.5
    assert accuracy.expected is None
    assert accuracy.good


def test_the_card_is_mixed_as_the_pages_are() -> None:
    rows = [make_row(1), make_row(2), make_row(3, scanned=True)]
    accuracy = measure(rows, make_card(0.98, 0.92))
    assert accuracy is not None
    assert accuracy.expected == pytest.approx(0.96)
    clean_only = measure(rows, make_card(0.98))
    assert clean_only is not None
    assert clean_only.expected == pytest.approx(0.98)


@pytest.mark.parametrize(("wrong", "good"), [(0, True), (3, True), (4, False)])
def test_at_most_five_points_under_the_card(wrong: int, good: bool) -> None:
    """Of 60 fields, 3 wrong are 95 %: just the five points under a card of 100 %."""
    rows = [make_row(page, **({"number": "x"} if page < wrong else {})) for page in range(10)]
    accuracy = measure(rows, make_card(1.0))
    assert accuracy is not None
    assert accuracy.good is good


def test_a_page_that_failed_counts_as_wrong() -> None:
    row = make_row()
    row.job["result"] = None
    accuracy = measure([row], None)
    assert accuracy is not None
    assert accuracy.overall == 0.0


def test_without_truth_there_is_no_accuracy() -> None:
    assert measure([make_row(truth=None)], make_card(1.0)) is None


def test_the_card_lies_in_the_model_folder(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "models" / "own"
    folder.mkdir(parents=True)
    assert find_card(str(folder), home) is None
    (folder / "evaluation.json").write_text(json.dumps(make_card(0.5)))
    assert find_card(str(folder), home) == make_card(0.5)
    named = home / "models" / "named"
    named.mkdir(parents=True)
    (named / "evaluation.json").write_text("{broken")
    assert find_card("named", home) is None


@pytest.mark.parametrize("card", [{}, {"clean": {}}, {"clean": {"per_field": {"type": 1.0}}}, {"clean": 3}])
def test_a_card_without_figures_promises_nothing(card: dict[str, Any]) -> None:
    accuracy = measure([make_row()], card)
    assert accuracy is not None
    assert accuracy.expected is None


def test_the_table_shows_the_first_rows_and_every_wrong_one() -> None:
    rows = [make_row(page) for page in range(1, 30)]
    rows[2], rows[24] = make_row(3, total="9.99"), make_row(25, number="PO-11")
    text = print_to_text(report.print_table, rows)
    assert text.count("✓") == report.FIRST_ROWS - 1
    assert "✗ total is 12.50, read 9.99" in text
    assert "✗ number is PO-77, read PO-11" in text
    assert "and 18 more, all of them right" in text
    assert "3 s" in text
    assert "1.38 s" in text


def test_the_table_shows_answers_where_nobody_knows_the_truth() -> None:
    text = print_to_text(report.print_table, [make_row(truth=None, text="[bold]Hello\x1b[31m\nworld")])
    assert "[bold]Hello" in text
    assert "world" in text
    assert "\x1b" not in text
    assert "✓" not in text


def test_the_ledger_line_says_what_is_missing() -> None:
    assert "each once, lost 0, twice 0" in print_to_text(report.print_ledger, Ledger(files=2, pages=3, answered=3))
    bad = Ledger(files=2, pages=3, answered=1, lost=["a.pdf page 2"], twice=["a.pdf page 1"])
    text = print_to_text(report.print_ledger, bad)
    assert "NOT each once: lost 1, twice 1" in text
    assert "lost: a.pdf page 2" in text
    assert "twice: a.pdf page 1" in text


def test_the_accuracy_line_names_the_card() -> None:
    accuracy = measure([make_row(), make_row(2, number="x")], make_card(0.98))
    text = print_to_text(report.print_accuracy, accuracy)
    assert "91.7% of fields right" in text
    assert "98.0%" in text
    assert [line.split() for line in text.splitlines()[1:]] == [
        list(FIELDS),
        ["here", "100%", "100%", "50%", "100%", "100%", "100%"],
        ["card", *["98%"] * 6],
    ]


def test_results_are_one_json_line_a_page(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    report.write_results(path, [make_row(1), make_row(2, total="0"), make_row(3, truth=None)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["page"] for line in lines] == [1, 2, 3]
    assert [line["wrong"] for line in lines] == [[], ["total"], None]
    assert lines[1]["fields"]["total"] == "0"


def test_text_of_others_cannot_steer_the_terminal() -> None:
    assert make_plain("a\x1b[2J\nb\u202ec") == "a [2J b c"
    assert make_plain("x" * 50, 10) == "x" * 9 + "…"


def test_progress_in_words() -> None:
    assert describe_progress(Progress(total=54)) == "0/54 pages"
    progress = Progress(total=54, done=31, rows_per_step=11.84, pages_per_s=9.2, left_s=2.4)
    assert describe_progress(progress) == "31/54 pages  9.2 pages/s  11.8 rows a step  2 s left"


def test_without_a_terminal_progress_is_plain_lines() -> None:
    console = Console(file=io.StringIO(), width=110)
    with Screen(console) as screen:
        screen.update(Progress(total=2))
        screen.update(Progress(total=2, done=1))
        screen.say("Killed.")
        screen.update(Progress(total=2, done=2))
    assert console.file.getvalue() == "  0/2 pages\n  Killed.\n  2/2 pages\n"
