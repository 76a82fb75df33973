"""The first page: tiles of now, charts whose data are their tables, ranges by address, pause and resume."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text as sql

from batchinfer.admin.charts import Chart, Line, draw_board
from batchinfer.domain.histograms import count_durations
from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.domain.ranges import RANGES
from batchinfer.services import board, keys, scheduling
from batchinfer.store.points import Depth, Load, Point
from batchinfer.store.series_tables import minutes, queue_gauges

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

KEYS = ["ended", "tokens", "waits", "runs", "rows", "waiting", "oldest", "memory", "busy"]


def cells(page: str, key: str) -> list[list[str]]:
    """The rows of a chart's table, without their times."""
    found = re.search(rf'<figure[^>]+id="chart-{key}".*?</figure>', page, re.DOTALL)
    assert found is not None
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", found[0], re.DOTALL)
    return [re.findall(r'<td class="num">([^<]*)</td>', row) for row in rows]


def put_minute(stage: Any, back: int, **values: Any) -> None:
    at = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=back)
    row = {"tenant_id": DEFAULT_TENANT, "model": "reader", "minute": at, "waits": [], "runs": []}
    with stage.context.db.transaction() as tx:
        tx.execute(minutes.insert(), row | values)


def test_every_chart_has_its_table_lines_and_unit(client: FlaskClient, stage: Any) -> None:
    put_minute(stage, 3, succeeded=12, failed=2, expired=1, completion_tokens=600, row_us=60, device_us=20,
               waits=count_durations([1.5] * 12), runs=count_durations([0.3] * 12))  # fmt: skip
    page = client.get("/admin/").text
    assert re.findall(r'<figure[^>]+id="chart-(\w+)"', page) == KEYS
    ended = cells(page, "ended")
    assert len(ended) == 60
    assert [row for row in ended if row not in (["0.0", "0.0"], ["–", "–"])] == [["12.0", "3.0"]]
    assert ["0.0", "10.0"] in cells(page, "tokens")
    assert ["1.50", "1.95"] in cells(page, "waits")
    assert ["3.0"] in cells(page, "rows")
    assert page.count("Show as table") == len(KEYS)


@pytest.mark.parametrize(("name", "steps"), [("15m", 15), ("1h", 60), ("24h", 144), ("7d", 168)])
def test_a_range_is_in_the_address(client: FlaskClient, stage: Any, name: str, steps: int) -> None:
    put_minute(stage, 1, succeeded=5)
    page = client.get(f"/admin/?range={name}").text
    rows = cells(page, "ended")
    assert len(rows) == steps
    assert any(row[0] not in ("–", "0.0") for row in rows)
    assert len(cells(client.get(f"/admin/charts?range={name}").text, "ended")) == steps
    assert re.search(rf'href="[^"]+range={name}" aria-current="true"', page)


def test_a_range_that_cannot_be_says_so(client: FlaskClient) -> None:
    for path in ("/admin/?range=2y", "/admin/charts?range="):
        answer = client.get(path)
        assert answer.status_code == 400
        assert "range" in answer.text


def test_a_poll_brings_no_charts_and_changes_only_with_the_numbers(client: FlaskClient, stage: Any) -> None:
    first = client.get("/admin/", headers={"HX-Request": "true"})
    assert "<figure" not in first.text
    assert 'id="charts"' in first.text
    seen = re.search(r'name="seen"[^>]*value="(\w+)"', first.text)
    assert seen is not None
    assert client.get(f"/admin/?seen={seen[1]}", headers={"HX-Request": "true"}).status_code in {200, 204}


def test_work_is_paused_and_resumed_after_a_question(
    client: FlaskClient, stage: Any, sign_in: Callable[[str], FlaskClient]
) -> None:
    assert "Pause all work" in client.get("/admin/").text
    assert "Pause all work?" in client.get("/admin/pause").text
    assert scheduling.list_pauses(stage.context, stage.caller) == []
    done = client.post("/admin/pause", follow_redirects=True)
    assert "All work is paused" in done.text
    assert "Resume all work" in done.text
    stage.submit()
    reader = sign_in(keys.create_key(stage.context, "reader", ["read"])[1])
    page = reader.get("/admin/").text
    assert "All work is paused" in page
    assert "Resume all work" not in page
    for path in ("/admin/pause", "/admin/resume"):
        assert reader.post(path).status_code == 403
    assert "Work goes on." in client.post("/admin/resume", follow_redirects=True).text
    assert scheduling.list_pauses(stage.context, stage.caller) == []
    with stage.context.db.transaction() as tx:
        actions = list(tx.execute(sql("SELECT action FROM audit WHERE action LIKE 'queue.%' ORDER BY id")).scalars())
    assert actions == ["queue.pause", "queue.resume"]


def test_a_queue_too_long_to_count_is_shown_as_it_was_seen(
    client: FlaskClient, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "COUNTED_JOBS", 2)
    for _ in range(3):
        stage.submit()
    at = datetime.now(UTC).replace(second=0, microsecond=0)
    with stage.context.db.transaction() as tx:
        tx.execute(
            queue_gauges.insert(),
            {"span_s": 60, "at": at, "tenant_id": DEFAULT_TENANT, "model": "reader", "waiting": 7, "running": 1,
             "oldest_s": 30.0},
        )  # fmt: skip
    page = client.get("/admin/").text
    assert "as it stood at" in page
    standing = board.read_standing(stage.context, stage.caller)
    assert (standing.jobs, standing.running, standing.sampled_at) == (3, 1, at)
    assert standing.oldest_s is not None
    assert standing.oldest_s >= 30


def test_charts_tell_what_is_not_known_from_nothing(app: Any) -> None:
    now = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
    span = RANGES["15m"]
    steps = span.list_steps(now)
    point = Point(steps[5], 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, [], [])
    depths = [Depth(steps[7], "", 0, 0, None), Depth(steps[8], "", 0, 0, None), Depth(steps[8], "<b>", 4, 1, 9.0)]
    loads = [Load(steps[9], "h", "cuda:0", 1000, 400, 0.25, 600), Load(steps[9], "h", "cpu", None, 0, 0)]
    with app.test_request_context():
        charts = {chart.key: chart for chart in draw_board(board.Board(span, now, steps, [point], depths, loads))}
    ended = charts["ended"].lines[0].values
    assert ended[:7] == (None, None, None, None, None, 6.0, 0)
    (waiting,) = charts["waiting"].lines
    assert waiting.values[6:10] == (None, 0.0, 4, None)
    assert waiting.name == "<b>"
    memory, taken = charts["memory"].lines
    assert (memory.name, taken.name) == ("cuda:0 of 1,000 MiB", "cuda:0, all processes")
    assert (memory.values[9], taken.values[8:10]) == (400, (None, 600))
    (busy,) = charts["busy"].lines
    assert busy.values[9] == 25, "the use by all is not known, and has no line"
    assert charts["waits"].empty


def test_a_line_is_broken_where_nothing_is_known() -> None:
    steps = [datetime(2026, 1, 1, tzinfo=UTC)] * 4
    line = Line("x", (1.0, None, 2.0, 1.0))
    chart = Chart("x", "X", "u", steps, (line,))
    assert chart.top == 2
    assert chart.draw(line).count("M") == 2
    assert [values for _step, values in chart.rows()] == [[1.0], [2.0], [None], [1.0]]
