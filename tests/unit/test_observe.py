"""Logs: one JSON object a line, ids bound, secrets hidden; and the clock."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from batchinfer.observe.clock import Stopwatch, to_unix, utc_now
from batchinfer.observe.logs import bind, configure_logging, get_logger
from batchinfer.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the lines go, while the test runs."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    written = io.StringIO()
    configure_logging(load_settings(log_level="INFO"), "cpu", written)
    yield written
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def read(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_role_the_level_and_the_ids(stream: io.StringIO) -> None:
    with bind(job_id="job_1"):
        get_logger("batchinfer.test").info("claimed", rows=3)
    get_logger("batchinfer.test").debug("left out")
    (line,) = read(stream)
    assert (line["event"], line["rows"], line["job_id"]) == ("claimed", 3, "job_1")
    assert (line["role"], line["level"], line["logger"]) == ("cpu", "info", "batchinfer.test")
    assert datetime.fromisoformat(str(line["timestamp"])).tzinfo is not None


def test_ids_are_unbound_after_the_block(stream: io.StringIO) -> None:
    with bind(job_id="job_1"):
        pass
    get_logger().info("later")
    assert "job_id" not in read(stream)[0]


def test_lines_of_libraries_are_json_too(stream: io.StringIO) -> None:
    logging.getLogger("some.library").warning("took %d tries", 3, extra={"host": "h"})
    (line,) = read(stream)
    assert (line["event"], line["role"], line["host"]) == ("took 3 tries", "cpu", "h")


def test_an_exception_is_one_line(stream: io.StringIO) -> None:
    try:
        int("broken")
    except ValueError as error:
        get_logger().error("failed", exc_info=error)
    (line,) = read(stream)
    assert "ValueError: invalid literal" in str(line["exception"])


def test_values_of_a_database_error_are_left_out(stream: io.StringIO) -> None:
    said = (
        "null value in column\nDETAIL:  Failing row contains (1, my private\nprompt).\nHINT:  none\n"
        "[SQL: INSERT]\n[parameters: {'prompt': 'my private'}]\n(Background on this error at: x)"
    )
    get_logger().error("failed", exc_info=RuntimeError(said))
    (line,) = read(stream)
    assert "private" not in stream.getvalue()
    for kept in ("null value in column", "HINT:  none", "[SQL: INSERT]", "(Background"):
        assert kept in str(line["exception"])


@pytest.mark.parametrize("name", ["prompt", "token", "messages", "authorization"])
def test_contents_and_secrets_are_hidden(stream: io.StringIO, name: str) -> None:
    get_logger().info("sent", **{name: "private"})
    assert "private" not in stream.getvalue()
    assert read(stream)[0][name] == "…"


def test_configuring_twice_writes_each_line_once(stream: io.StringIO) -> None:
    configure_logging(load_settings(log_level="INFO"), "web", stream)
    get_logger().info("once")
    (line,) = read(stream)
    assert line["role"] == "web"


def test_times_are_shown_in_whole_seconds() -> None:
    moment = datetime(2026, 1, 1, 1, 0, 0, 900_000, tzinfo=timezone(timedelta(hours=1)))
    assert to_unix(moment) == 1767225600
    assert to_unix(None) is None
    assert utc_now().tzinfo is UTC
    assert Stopwatch().elapsed_s >= 0
