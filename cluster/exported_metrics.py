"""The metrics of a run at Ray's own metrics endpoint, which Prometheus reads: amounts of work, waiting, verdicts.

They are made of the events that the driver shows and writes to MLflow. Ray puts `ray_` before each name, and `_total`
behind a counter's. `cluster/watching/grafana_dashboard.json` and `cluster/watching/alerts.yaml` read them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pipeline.core.events import Event, Log, Metrics, Progress


@dataclass(frozen=True, kw_only=True)
class ExportedMetric:
    """One metric as Prometheus shows it."""

    kind: Literal["gauge", "counter"]
    description: str
    tags: tuple[str, ...] = ("stage",)


EXPORTED: Final = {
    "percepts_stages_running": ExportedMetric(kind="gauge", description="Stages of the run that are running.", tags=()),
    "percepts_work_done": ExportedMetric(
        kind="gauge", description="Units of a stage's work that are done.", tags=("stage", "unit")
    ),
    "percepts_work_expected": ExportedMetric(
        kind="gauge", description="Units of a stage's work in all; 0 while it is unknown.", tags=("stage", "unit")
    ),
    "percepts_frames": ExportedMetric(kind="counter", description="Frames that became percepts."),
    "percepts_sequences": ExportedMetric(kind="counter", description="Sequences that a training has learned from."),
    "percepts_sequences_per_second": ExportedMetric(kind="gauge", description="Sequences a second of a training."),
    "percepts_videos": ExportedMetric(
        kind="gauge", description="Videos of an extraction that has ended.", tags=("stage", "verdict")
    ),
    "percepts_queue_length": ExportedMetric(kind="gauge", description="Shards that wait for a worker, or are in hand."),
    "percepts_seconds_waited": ExportedMetric(
        kind="counter", description="Seconds in which a model or convnet had nothing to compute on, of all workers."
    ),
    "percepts_busy_share": ExportedMetric(
        kind="gauge",
        description="Share of the time in which the model or convnet (the GPU, where there is one) computes.",
    ),
    "percepts_log_lines": ExportedMetric(
        kind="counter", description="Lines of the log: workers lost, retries, resumptions."
    ),
}
"""Name of a metric -> its form."""
VERDICTS: Final = ("ok", "partial", "rejected")


def _open(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    metric = EXPORTED[name]
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(name, description=metric.description, tag_keys=metric.tags)


@dataclass
class MetricsExport:
    """The metrics of this process's run."""

    _metrics: dict[str, Any] = field(default_factory=lambda: {name: _open(name) for name in EXPORTED})
    _done: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Stage -> part of its work -> units done."""
    _counted: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    """Counter and stage -> what has been counted."""

    def set_running(self, num_stages: int) -> None:
        """Shows the number of running stages."""
        self._metrics["percepts_stages_running"].set(num_stages)

    def handle(self, event: Event) -> None:
        """Shows an event of a running stage."""
        stage = {"stage": event.source}
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Log):
            self._metrics["percepts_log_lines"].inc(1, stage)
        elif isinstance(event, Metrics):
            self._curves(event)

    def _progress(self, event: Progress) -> None:
        parts = self._done[event.source]
        parts[event.part] = event.done
        done, tags = sum(parts.values()), {"stage": event.source, "unit": event.unit}
        self._metrics["percepts_work_done"].set(done, tags)
        self._metrics["percepts_work_expected"].set(event.total, tags)
        if event.unit == "frames":
            self._count("percepts_frames", event.source, done)

    def _curves(self, event: Metrics) -> None:
        stage, values = {"stage": event.source}, event.values
        for verdict in VERDICTS:
            if f"videos_{verdict}" in values:
                self._metrics["percepts_videos"].set(values[f"videos_{verdict}"], stage | {"verdict": verdict})
        if "waiting_for_data" in values:
            self._metrics["percepts_busy_share"].set(1 - values["waiting_for_data"], stage)
        for name in ("sequences_per_second", "queue_length", "busy_share"):
            if name in values:
                self._metrics[f"percepts_{name}"].set(values[name], stage)
        for name in ("sequences", "seconds_waited"):
            if name in values:
                self._count(f"percepts_{name}", event.source, values[name])

    def _count(self, name: str, stage: str, value: float) -> None:
        """Adds what a sum has grown by; nothing where it begins again, since its stage was resumed."""
        grown = value - self._counted[name, stage]
        self._counted[name, stage] = value
        if grown > 0:
            self._metrics[name].inc(grown, {"stage": stage})
