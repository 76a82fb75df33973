"""The list of metrics is the one that alarms, dashboards and docs/metrics.md name; and a sheet tells nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchinfer.domain.progress import is_at_risk
from batchinfer.observe.fresh import Fresh, Overdue
from batchinfer.observe.metric_list import METRICS
from batchinfer.observe.metrics import Sheet
from tests.metrics_pages import read_page

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "metrics.md").read_text()
_NAME = re.compile(r"\bbatchinfer_[a-z0-9_]+")


def list_names(text: str) -> set[str]:
    """Names of metrics in it, without what a histogram adds to its own."""
    found = set(_NAME.findall(text))
    return {name if name in METRICS else re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def list_alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def list_labels(expression: str) -> set[str]:
    """Labels that selectors and aggregations name."""
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    return {word.strip() for group in groups for word in group.split(",")} | set(re.findall(r"(\w+)=~?\"", expression))


def test_names_follow_the_rules_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"batchinfer_[a-z][a-z0-9_]*", name)
        assert name.endswith("_total") is (metric.kind == "counter"), name
        assert not re.search(r"_(ms|mib|minutes|percent)(_|$)", name), f"{name}: base units"
        assert metric.meaning.endswith("."), name


def test_the_page_lists_exactly_the_metrics() -> None:
    rows = re.findall(r"^\| `(batchinfer_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    expected = [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.meaning)
        for metric in METRICS.values()
    ]
    assert rows == expected


def test_alarms_name_metrics_that_are_told_and_each_says_what_to_do() -> None:
    alerts = list_alerts()
    for alert in alerts:
        names = list_names(alert["expr"])
        assert names <= METRICS.keys(), alert["alert"]
        told = {label for name in names for label in METRICS[name].labels} | {"job", "instance", "le"}
        assert list_labels(alert["expr"]) <= told, alert["alert"]
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert f"| `{alert['alert']}` |" in PAGE, "docs/metrics.md says what to do"
    needed = {"DeviceMemory", "OldestJob", "DeadlineAtRisk", "WorkerLost", "Quarantine", "DiskFills", "SwapUsed"}
    assert needed <= {alert["alert"] for alert in alerts}
    rows = re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [alert["alert"] for alert in alerts]


def test_each_alarm_is_tested_to_fire_and_to_stay_quiet() -> None:
    cases = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    seen = {(rule["alertname"], bool(rule["exp_alerts"])) for case in cases for rule in case["alert_rule_test"]}
    assert seen == {(alert["alert"], fires) for alert in list_alerts() for fires in (True, False)}


@pytest.mark.parametrize("name", ["service", "workers"])
def test_dashboards_name_metrics_that_are_told(name: str) -> None:
    text = (DEPLOY / "grafana" / "dashboards" / f"{name}.json").read_text()
    board = json.loads(text)
    assert list_names(text) <= METRICS.keys()
    source = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "batchinfer.yml").read_text())
    uid = source["datasources"][0]["uid"]
    targets = [(panel["title"], target) for panel in board["panels"] for target in panel["targets"]]
    assert len(targets) > 15
    for title, target in targets:
        names = list_names(target["expr"])
        assert names, title
        told = {label for metric in names for label in METRICS[metric].labels} | {"instance", "le"}
        assert list_labels(target["expr"]) | set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= told, title
        assert target["datasource"]["uid"] == uid
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)


def test_every_metric_is_on_a_dashboard_in_an_alarm_or_only_of_use_beside_others() -> None:
    shown = list_names("".join(file.read_text() for file in DEPLOY.rglob("*.json")))
    shown |= {name for alert in list_alerts() for name in list_names(alert["expr"])}
    assert len(shown) > len(METRICS) * 0.7


def test_a_sheet_refuses_what_is_not_listed() -> None:
    sheet = Sheet()
    with pytest.raises(KeyError):
        sheet.add("batchinfer_nothing", 1)
    with pytest.raises(ValueError, match="labels"):
        sheet.add("batchinfer_queue_depth", 1, "m")
    sheet.add("batchinfer_queue_depth", 1, 'a"\\\nb', "normal", "queued")
    sheet.add("batchinfer_tick_age_seconds", None)
    sheet.note("two\nlines")
    assert sheet.render().startswith(b"# batchinfer: two lines\n")
    assert read_page(sheet.render().decode()) == {("batchinfer_queue_depth", 'a"\\\nb', "normal", "queued"): 1}


def test_a_reading_is_kept_for_a_moment_with_its_error_and_never_waited_for_without_end() -> None:
    now, values = [0.0], iter([1, ValueError("away"), 3])

    def read() -> int:
        value = next(values)
        if isinstance(value, Exception):
            raise value
        return value

    fresh = Fresh(read, keep_s=5.0, patience_s=60.0, clock=lambda: now[0])
    assert (fresh.get(), fresh.get()) == (1, 1)
    now[0] = 5.0
    for _ in range(2):
        with pytest.raises(ValueError, match="away"):
            fresh.get()
    now[0] = 10.0
    assert fresh.get() == 3
    import threading

    over = threading.Event()
    slow = Fresh(lambda: over.wait(60), keep_s=5.0, patience_s=0.05)
    with pytest.raises(Overdue):
        slow.get()
    over.set()
    assert Fresh(lambda: True).get()


@pytest.mark.parametrize(
    ("open_lines", "recent", "ran_s", "left_s", "late"),
    [
        (100, 100, 600.0, 599.0, True),
        (100, 100, 600.0, 601.0, False),
        (100, 50, 60.0, 119.0, True),
        (100, 0, 3600.0, 599.0, True),
        (100, 19, 3600.0, 601.0, False),
        (0, 0, 10.0, -5.0, False),
        (1, 500, 600.0, -5.0, True),
    ],
)
def test_a_deadline_is_at_risk_at_the_pace_of_the_last_minutes(
    open_lines: int, recent: int, ran_s: float, left_s: float, late: bool
) -> None:
    assert is_at_risk(open_lines=open_lines, recent=recent, ran_s=ran_s, left_s=left_s) is late
