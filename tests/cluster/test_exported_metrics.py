"""What Prometheus reads of a run, and that the dashboard and the alerts read nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster.exported_metrics import EXPORTED, MetricsExport
from cluster.session import Session
from pipeline.core.events import Log, Metrics, Progress
from tests.conftest import ROOT

WATCHING = ROOT / "cluster" / "watching"
NAMES = {f"ray_{name}{'_total' if metric.kind == 'counter' else ''}" for name, metric in EXPORTED.items()}
OF_RAY = {"ray_node_gpus_utilization"}
DURATION = re.compile(r"([0-9]+(ms|[smhdwy]))+")


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


def scrape() -> str:
    import ray

    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def samples(text: str) -> dict[tuple[str, str, str], float]:
    """Every sample of ours by name, stage and verdict or unit."""
    found = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"(ray_percepts_\w+)\{(.*)\} (\S+)", line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            found[match[1], labels.get("stage", ""), labels.get("verdict") or labels.get("unit", "")] = float(match[3])
    return found


@pytest.mark.ray
def test_prometheus_reads_what_the_events_say(ray_session: Session) -> None:
    export = MetricsExport()
    export.set_running(2)
    for part, done in (("a", 10), ("b", 5), ("a", 30)):
        export.handle(Progress(source="shown extract", part=part, done=done, total=50, unit="frames"))
    export.handle(
        Metrics(source="shown extract", step=1, values={"queue_length": 3, "busy_share": 0.5, "seconds_waited": 2.0})
    )
    export.handle(
        Metrics(
            source="shown extract", step=1, values={"videos_ok": 7.0, "videos_partial": 0.0, "videos_rejected": 1.0}
        )
    )
    for waited, sequences in ((1.0, 64.0), (1.5, 128.0), (0.5, 64.0), (1.0, 96.0)):  # resumed after the second
        values = {
            "sequences_per_second": 8.0,
            "waiting_for_data": 0.25,
            "seconds_waited": waited,
            "sequences": sequences,
        }
        export.handle(Metrics(source="shown pretrain", step=1, values=values))
    export.handle(Log(source="shown pretrain", line="resuming from step 4"))
    wanted = {
        ("ray_percepts_stages_running", "", ""): 2,
        ("ray_percepts_work_done", "shown extract", "frames"): 35,
        ("ray_percepts_work_expected", "shown extract", "frames"): 50,
        ("ray_percepts_frames_total", "shown extract", ""): 35,
        ("ray_percepts_queue_length", "shown extract", ""): 3,
        ("ray_percepts_busy_share", "shown extract", ""): 0.5,
        ("ray_percepts_busy_share", "shown pretrain", ""): 0.75,
        ("ray_percepts_videos", "shown extract", "ok"): 7,
        ("ray_percepts_videos", "shown extract", "partial"): 0,
        ("ray_percepts_videos", "shown extract", "rejected"): 1,
        ("ray_percepts_sequences_per_second", "shown pretrain", ""): 8,
        ("ray_percepts_sequences_total", "shown pretrain", ""): 160,
        ("ray_percepts_seconds_waited_total", "shown extract", ""): 2,
        ("ray_percepts_seconds_waited_total", "shown pretrain", ""): 2,
        ("ray_percepts_log_lines_total", "shown pretrain", ""): 1,
    }
    assert {name for name, _, _ in wanted} == NAMES
    deadline = time.monotonic() + 240
    while not wanted.items() <= (seen := samples(scrape())).items():  # Ray reports every 10 s
        assert time.monotonic() < deadline, {name: seen.get(name) for name in wanted}
        time.sleep(0.5)


def panels() -> Iterator[dict[str, Any]]:
    dashboard = json.loads((WATCHING / "grafana_dashboard.json").read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    yield from dashboard["panels"]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    places, shown = set(), set()
    for number, panel in enumerate(panels(), start=1):
        assert panel["id"] == number
        assert panel["type"] in ("timeseries", "bargauge")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        places.add((place["x"], place["y"]))
        assert place["x"] + place["w"] <= 24
        for target in panel["targets"]:
            assert balanced(target["expr"])
            shown |= names_in(target["expr"])
    assert len(places) == number, "two panels lie in one place"
    assert shown == NAMES | OF_RAY


def test_alerts_are_rules_of_prometheus_on_metrics_that_there_are() -> None:
    (group,) = yaml.safe_load((WATCHING / "alerts.yaml").read_text())["groups"]
    assert group.keys() == {"name", "rules"}
    for rule in group["rules"]:
        assert (
            {"alert", "expr", "labels", "annotations"}
            <= rule.keys()
            <= {"alert", "expr", "for", "labels", "annotations"}
        )
        assert re.fullmatch(r"[A-Z][A-Za-z]+", rule["alert"])
        assert balanced(rule["expr"])
        assert names_in(rule["expr"]) <= NAMES
        assert names_in(rule["expr"])
        assert DURATION.fullmatch(rule.get("for", "1m"))
        for text in rule["annotations"].values():
            assert set(re.findall(r"\$(\w+)", text)) <= {"labels", "value"}
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= {"stage", "SessionName"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian package prometheus)")
def test_promtool_takes_the_alerts() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", WATCHING / "alerts.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def balanced(expression: str) -> bool:
    """True if every bracket of an expression is closed, in order."""
    waiting = []
    for letter in re.sub(r'"[^"]*"', "", expression):
        if letter in "([{":
            waiting.append({"(": ")", "[": "]", "{": "}"}[letter])
        elif letter in ")]}" and (not waiting or waiting.pop() != letter):
            return False
    return not waiting
