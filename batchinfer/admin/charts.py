"""Charts as plain numbers: a table that a script draws, and lines of inline SVG where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_babel import gettext as _

from batchinfer.domain.histograms import find_percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from batchinfer.services.board import Board
    from batchinfer.store.points import Point

#: The drawing is this wide and high in its own units; the page stretches it.
WIDTH, HEIGHT = 600, 100
#: Lines of one chart: what there is more of, least of all, is left out.
MOST_LINES = 6


@dataclass(frozen=True)
class Line:
    """A series of a chart, a value a step; None where nothing is known."""

    name: str
    values: tuple[float | None, ...]
    #: Of the six colours of lines.
    colour: int = 0


@dataclass(frozen=True)
class Chart:
    """Lines over the same steps. `places` are decimals of its table; its scale ends at `top`, which is round."""

    key: str
    title: str
    unit: str
    steps: Sequence[datetime]
    lines: tuple[Line, ...]
    places: int = 0
    #: Lines that are not drawn for want of room.
    left_out: int = 0

    @property
    def top(self) -> float:
        """Where the scale of the drawing ends."""
        return round_up(max((value for line in self.lines for value in line.values if value is not None), default=0))

    @property
    def empty(self) -> bool:
        """Whether nothing is known of it in the whole range."""
        return all(value is None for line in self.lines for value in line.values)

    def draw(self, line: Line) -> str:
        """The path of a line; it is broken where nothing is known, and a lone value is a dash."""
        step, top, parts, pen = WIDTH / max(1, len(line.values)), self.top, [], "M"
        for place, value in enumerate(line.values):
            if value is None:
                pen = "M"
                continue
            x, y = place * step + step / 2, HEIGHT - HEIGHT * min(1.0, value / top)
            parts.append(f"{pen}{x:.1f} {y:.1f}" + (f"h{step / 4:.1f}" if pen == "M" else ""))
            pen = "L"
        return "".join(parts)

    def rows(self) -> list[tuple[datetime, list[float | None]]]:
        """The table, the newest step first."""
        found = [(step, [line.values[place] for line in self.lines]) for place, step in enumerate(self.steps)]
        return found[::-1]


def round_up(value: float) -> float:
    """The least of 1, 2, 5, 10, 20, 50 … (or tenths and hundredths of them) that is at least the value."""
    if not value:
        return 1
    scale = 0.01
    while True:
        for step in (1, 2, 5):
            if round(step * scale, 2) >= value:
                return round(step * scale, 2)
        scale *= 10


def draw_board(board: Board) -> list[Chart]:
    """The charts of the first page."""
    return [*_draw_points(board), *_draw_depths(board), *_draw_devices(board)]


def _draw_points(board: Board) -> list[Chart]:
    known = {point.at: point for point in board.points}
    first = min(known, default=None)

    def series(read: Callable[[Point, float], float | None], *, rest: float | None = None) -> tuple[float | None, ...]:
        """A value a step; `rest` where nothing happened. Before anything was counted, nothing is known."""
        values = []
        for step in board.steps:
            point = known.get(step)
            quiet = rest if first is not None and step >= first else None
            values.append(quiet if point is None else read(point, board.range.find_covered_s(step, board.now)))
        return tuple(values)

    def percentiles(name: str) -> tuple[Line, ...]:
        return tuple(
            Line(f"p{part}", series(lambda point, _s, part=part: find_percentile(getattr(point, name), part / 100)), at)  # type: ignore[misc]
            for at, part in enumerate((50, 95))
        )

    ended = (
        Line(_("succeeded"), series(lambda point, s: 60 * point.succeeded / s, rest=0), 1),
        Line(_("failed"), series(lambda point, s: 60 * _failed(point) / s, rest=0), 2),
    )
    tokens = (
        Line(_("read"), series(lambda point, s: point.prompt_tokens / s, rest=0), 0),
        Line(_("written"), series(lambda point, s: point.completion_tokens / s, rest=0), 1),
    )
    rows = series(lambda point, _s: point.row_us / point.device_us if point.device_us else None)
    steps = board.steps
    return [
        Chart("ended", _("Ended"), _("jobs a minute"), steps, ended, 1),
        Chart("tokens", _("Tokens"), _("tokens a second"), steps, tokens, 1),
        Chart("waits", _("Time waited"), _("seconds, submission to claim"), steps, percentiles("waits"), 2),
        Chart("runs", _("Time run"), _("seconds, claim to end"), steps, percentiles("runs"), 2),
        Chart("rows", _("Rows a step"), _("jobs that shared one"), steps,
              (Line(_("rows"), rows, 0),), 1),
    ]  # fmt: skip


def _failed(point: Point) -> int:
    return point.failed + point.expired + point.quarantined


def _draw_depths(board: Board) -> list[Chart]:
    looked = {depth.at for depth in board.depths}
    by_model: dict[str, dict[datetime, tuple[float, float | None]]] = {}
    for depth in board.depths:
        if depth.model:
            by_model.setdefault(depth.model, {})[depth.at] = (depth.waiting, depth.oldest_s)
    names = sorted(by_model, key=lambda name: -sum(waiting for waiting, _oldest in by_model[name].values()))

    def lines(read: Callable[[tuple[float, float | None]], float | None]) -> tuple[Line, ...]:
        shown = names[:MOST_LINES] or [_("all models")]
        return tuple(
            Line(name, tuple(_at(by_model.get(name, {}), step, looked, read) for step in board.steps), place)
            for place, name in enumerate(shown)
        )

    more = max(0, len(names) - MOST_LINES)
    return [
        Chart("waiting", _("Waiting"), _("jobs by model"), board.steps, lines(lambda seen: seen[0]), 0, more),
        Chart("oldest", _("Oldest waiting"), _("seconds, by model"), board.steps,
              lines(lambda seen: seen[1] or 0.0), 0, more),
    ]  # fmt: skip


def _at(
    seen: dict[datetime, tuple[float, float | None]],
    step: datetime,
    looked: Iterable[datetime],
    read: Callable[[tuple[float, float | None]], float | None],
) -> float | None:
    if step in seen:
        return read(seen[step])
    return 0.0 if step in looked else None


def _draw_devices(board: Board) -> list[Chart]:
    loads = {(load.host, load.device, load.at): load for load in board.loads}
    places = sorted({(load.host, load.device) for load in board.loads})
    lone = len({host for host, _device in places}) < 2
    # A CPU on which nothing is, beside GPUs, is of no interest.
    at_work = {(load.host, load.device) for load in board.loads if load.used_mib or load.busy}
    used = [at for at in places if at in at_work] or places
    # With room for it, each has a second line: what all processes take of it, where that is measured.
    whole = 2 * len(used) <= MOST_LINES
    memory: list[Line] = []
    busy: list[Line] = []
    for host, device in used[:MOST_LINES]:
        found = [loads.get((host, device, step)) for step in board.steps]
        total = next((load.total_mib for load in reversed(found) if load and load.total_mib), None)
        name = device if lone else f"{device} · {host}"
        of = str(_("%(name)s of %(total)s MiB", name=name, total=f"{total:,.0f}") if total else name)
        _add(memory, of, tuple(load.used_mib if load else None for load in found))
        _add(busy, name, tuple(100 * load.busy if load else None for load in found))
        if whole:
            everybody = str(_("%(name)s, all processes", name=name))
            _add_known(memory, everybody, tuple(load.taken_mib if load else None for load in found))
            _add_known(busy, everybody, tuple(None if load is None or load.use is None else 100 * load.use
                                              for load in found))  # fmt: skip
    more = max(0, len(used) - MOST_LINES)
    use = _("per cent of the time")
    return [
        Chart(
            "memory",
            _("Device memory"),
            _("MiB, held by replicas or taken by all processes"),
            board.steps,
            tuple(memory),
            0,
            more,
        ),
        Chart("busy", _("Device use"), use, board.steps, tuple(busy), 0, more),
    ]


def _add(lines: list[Line], name: str, values: tuple[float | None, ...]) -> None:
    lines.append(Line(name, values, len(lines)))


def _add_known(lines: list[Line], name: str, values: tuple[float | None, ...]) -> None:
    if any(value is not None for value in values):
        _add(lines, name, values)
