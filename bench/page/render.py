"""Sections as pages: docs/performance.md, where lost rows come first, and the README's table."""

from __future__ import annotations

from collections.abc import Sequence

from bench.page.entries import Section, group_taken
from bench.report import table
from bench.whole import Whole

HEAD = """# Performance

Made by `python -m bench.page` of the files in `bench/results` alone; `make bench` measures anew what a machine can, and
then makes this page. Each figure is a median, with the least and the greatest of its runs where there were several, and
stands beside another of the same run: a rate alone would tell of a machine. Results of different dates and machines are
not to be compared with each other; each section says on what its own were taken.

Random weights on processors, and fake engines: what is measured is what this project adds around the arithmetic, and
not how fast pages are read by a model of real size."""
OPEN, CLOSE = "<!-- figures: python -m bench.page --readme -->", "<!-- end of figures -->"
_COMPARED = ["", "ours", "beside it", "its figure", "ours / that"]
_MACHINE = ["part", "date, UTC", "load average", "processor", "system", "versions"]
#: By the exit code of a bench.
_ENDS = {0: "ended", 1: "ended, a goal missed", -1: "broke before it had results"}
_WORDS = {True: "met", False: "**missed**", None: "not measured"}


def render_page(sections: Sequence[Section], missing: Sequence[tuple[str, str]], whole: Whole | None = None) -> str:
    """docs/performance.md. `whole` is the run that made most of it."""
    parts = [HEAD, *(_tell_whole(whole, sections) if whole else []), *_tell_lost(sections)]
    for section in sections:
        parts += _tell(section)
    parts += ["## Not measured", *_tell_missing(sections, missing)]
    return "\n\n".join(parts) + "\n"


def render_readme(sections: Sequence[Section]) -> str:
    """The README's table: every comparison with a rival, and of limits the first of each section."""
    rows = []
    for section in sections:
        limits = [one for one in section.compared if not one.rival][:1]
        rows += [one.cells(ranges=False) for one in section.compared if one.rival or one in limits]
    lost = [one for section in sections for one in section.compared if one.lost]
    missed = [goal for section in sections for goal in section.goals if goal.met is False]
    if not rows:
        return "Nothing has been measured here."
    told = f"Behind in {len(lost)} of {len(rows)} rows, and {len(missed)} goals missed: [where](docs/performance.md)."
    return f"{told}\n\n{table(_COMPARED, rows, (0, 2))}"


def put_between(text: str, inner: str) -> str:
    """The README with `inner` between its marks. Raises ValueError where they are not there once, in order."""
    if text.count(OPEN) != 1 or text.count(CLOSE) != 1 or text.index(OPEN) > text.index(CLOSE):
        raise ValueError(f"The page needs the line {OPEN!r} once, and {CLOSE!r} once below it.")
    before, rest = text.split(OPEN)
    return f"{before}{OPEN}\n{inner}\n{CLOSE}{rest.split(CLOSE)[1]}"


def _tell_whole(whole: Whole, sections: Sequence[Section]) -> list[str]:
    """The run: how each bench ended, what was skipped, and which parts of the page are not of it."""
    until = f"to {_minute(whole.ended)}" if whole.ended else "and was cut off"
    of = f", commit {whole.commit}" if whole.commit else ""
    rows = [
        [one["name"], f"`{one['command']}`", _ENDS.get(one["code"], f"ended with {one['code']}"), f"{one['seconds']:,}"]
        for one in whole.benches
    ]
    rows += [[name, "", f"skipped: {reason}", ""] for name, reason in whole.skipped.items()]
    strange = [
        f"- {section.title}: {one.part}"
        for section in sections
        for one in section.taken
        if not whole.holds(str(one.machine.get("date", "")))
    ]
    parts = [
        "## One run",
        f"`make bench`, from {_minute(whole.began)} {until}, version {whole.version}{of}.",
        table(["bench", "command", "", "seconds"], rows, (0, 1, 2)),
    ]
    return [*parts, "Of other runs:\n\n" + "\n".join(strange)] if strange else parts


def _minute(date: str) -> str:
    return date[:16].replace("T", " ")


def _tell_lost(sections: Sequence[Section]) -> list[str]:
    lost = [one for section in sections for one in section.compared if one.lost]
    missed = [(section, goal) for section in sections for goal in section.goals if goal.met is False]
    parts = ["## Where others are ahead"]
    parts.append(table(_COMPARED, [one.cells() for one in lost], (0, 2)) if lost else "In no stored result.")
    parts.append("## Goals that were missed")
    rows = [[section.title, goal.what, goal.goal, goal.found] for section, goal in missed]
    parts.append(table(["bench", "what", "goal", "found"], rows, (0, 1)) if rows else "In no stored result.")
    return parts


def _tell(section: Section) -> list[str]:
    by = f"By `{section.command}`. " if section.command else ""
    more = f" [All of it](../bench/results/{section.page})." if section.page else ""
    parts = [f"## {section.title}", f"{by}{section.about}{more}"]
    if section.compared:
        parts.append(table(_COMPARED, [one.cells() for one in section.compared], (0, 2)))
    if section.goals:
        rows = [[goal.what, goal.goal, goal.found, _WORDS[goal.met]] for goal in section.goals]
        parts.append(table(["what", "goal", "found", ""], rows))
    for title, head, rows in section.tables:
        parts += [f"**{title}**", table(head, rows, find_words(rows))]
    parts.append(f"**The limit.** {section.limit}")
    parts.append(f"**Not measured.** {section.unmeasured}")
    parts.append(table(_MACHINE, group_taken(section.taken), range(6)))
    return parts


def find_words(rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns in which a cell begins with a letter; the first is always one."""
    return [
        column
        for column, cells in enumerate(zip(*rows, strict=True))
        if not column or any(c[:1].isalpha() for c in cells)
    ]


def _tell_missing(sections: Sequence[Section], missing: Sequence[tuple[str, str]]) -> list[str]:
    unjudged = [f"{section.title}: {goal.what}" for section in sections for goal in section.goals if goal.met is None]
    lines = [f"- {what} (`{command}`)" for what, command in missing] + [f"- {one}" for one in unjudged]
    return ["\n".join(lines)] if lines else ["Every bench has left results here."]
