"""Tracking in MLflow: one parent run for a run of a recipe, with its results, and a nested run for each stage.

One tracker in the driver's process writes for all stages of the run, so a SQLite file in the store is enough and no
stage waits for a tracking server. No module but the `tracking` ones writes to MLflow.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pipeline.core.addresses.mlflow_addresses import EXPERIMENT_PREFIX, run_page
from pipeline.core.files import join
from pipeline.core.outbox import is_alive
from pipeline.core.printable import printable
from pipeline.core.result_metrics import ResultMetrics
from pipeline.core.stage import config_dict
from pipeline.engine.plan import Node
from pipeline.engine.store import MANIFEST, Manifest, Store
from pipeline.engine.tracking.client import TrackingClient
from pipeline.engine.tracking.datasets import dataset_inputs, is_for_parent
from pipeline.engine.tracking.registry import result_names, test_digests
from pipeline.engine.tracking.runs import TESTS_TAG
from pipeline.engine.tracking.values import (
    PARAM_CHARACTERS,
    TAG_CHARACTERS,
    Registration,
    RunDescription,
    allowed_name,
    flat,
    source_tags,
)

SMALL_FILE_BYTES: Final = 1 << 20
POINTS_PER_REQUEST: Final = 1000
PARAMS_PER_REQUEST: Final = 100
PROCESS_TAG: Final = "percepts.process"
TABLE_FILE: Final = "results.json"
SECONDS_BETWEEN_SYSTEM_METRICS: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class _Tracked:
    """A finished stage of this run, made or reused."""

    node: Node
    manifest: Manifest
    results: ResultMetrics
    made: bool


class Tracker:
    """The MLflow runs of one run of a recipe. Only one thread may use it at a time."""

    def __init__(self, store: Store, tracking_uri: str, recipe: str, experiment: str | None = None) -> None:
        """Opens the experiment (default: of the recipe). Raises as `TrackingClient`, and nothing afterwards."""
        self._store = store
        self.uri = tracking_uri
        self._client = TrackingClient(store, tracking_uri, f"{EXPERIMENT_PREFIX}{experiment or recipe}")
        self.experiment_id = self._client.experiment_id
        self._killed_run_ids = self._end_killed_runs()
        self._recipe = recipe
        self.parent_id = ""
        self._monitor: Any = None
        self._tracked: list[_Tracked] = []
        self._num_samples: Counter[str] = Counter()
        self._inputs: dict[str, tuple[Node, Sequence[Manifest]]] = {}
        """Inputs of the stages that run, by the run's id: which parts were used is known at the end."""

    def start(self, description: RunDescription) -> str:
        """Begins the parent run and the measurement of this machine's CPUs, memory, disk and GPUs; returns its id."""
        commit = description.commit
        tags = {
            **source_tags(description.command.partition(" -")[0], commit, description.dirty),
            **{allowed_name(name): value[:TAG_CHARACTERS] for name, value in description.tags.items()},
            "recipe": self._recipe,
            "store": self._store.root,
            "command": printable(description.command)[:TAG_CHARACTERS],
            "commit": commit or "unknown",
        }
        name = description.name or self._recipe
        self.parent_id = self._client.create_run(name, self._with_process_tag(tags))
        self._log_params(self.parent_id, description.params)
        if not self._client.is_open:
            return self.parent_id
        monitor: Any = SystemMetricsMonitor  # it has no types
        self._monitor = monitor(self.parent_id, sampling_interval=SECONDS_BETWEEN_SYSTEM_METRICS, tracking_uri=self.uri)
        self._monitor.start()
        return self.parent_id

    @property
    def page(self) -> str:
        """The page of the parent run, to be put behind the address at which MLflow's pages are served.

        Empty where MLflow does not have the run yet.
        """
        if self._client.find_run(self.parent_id) is None:
            return ""
        return run_page(self.experiment_id, self.parent_id)

    def start_stage(self, node: Node, inputs: Sequence[Manifest], commit: str | None) -> str:
        """Begins the nested run of a stage whose artifact is being made, and returns its id."""
        run_id = self._nested(node, {"commit": commit or "unknown", "state": "made"})
        self._log_params(run_id, config_dict(node.config))
        self._inputs[run_id] = node, inputs
        return run_id

    def reuse(self, node: Node, manifest: Manifest, inputs: Sequence[Manifest] = ()) -> None:
        """Logs a nested run for an artifact that was made earlier: with its settings, inputs and results, and links.

        If the driver of the run that made it was killed between the manifest and the end of its logging, the rest is
        logged now.
        """
        maker = self._client.find_run(manifest.mlflow_run_id)
        maker_id = manifest.mlflow_run_id if maker is None else str(maker.info.run_id)
        if maker_id in self._killed_run_ids:
            self._log_made(node, manifest, maker_id)
            self._client.set_terminated(maker_id, "FINISHED")
            self._client.wait()
            maker = self._client.find_run(maker_id)
        directory = self._store.directory(manifest.stage, manifest.key)
        tags = {"state": "have", "made_by_run": maker_id or "unknown", "artifact_uri": directory}
        note = f"Reused: made by run `{maker_id}`."
        if maker is not None:
            note = f"Reused: made by [run {maker_id}](#/experiments/{maker.info.experiment_id}/runs/{maker_id})."
        run_id = self._nested(node, tags, note=note)
        self._log_params(run_id, manifest.config)
        self._log_inputs(run_id, node, inputs, manifest.facts)
        if maker is not None:
            self.metrics(run_id, 0, {k: v for k, v in maker.data.metrics.items() if not k.startswith("system/")})
            models = [] if maker.outputs is None else maker.outputs.model_outputs
            if models:
                self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0) for model in models])
        self._log_results(run_id, node, manifest, made=False)
        self._client.set_terminated(run_id, "FINISHED")

    def metrics(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Logs a point of every curve in `values`."""
        now_ms = int(time.time() * 1000)
        self._log_points(
            run_id, [Metric(allowed_name(name), float(value), now_ms, step) for name, value in values.items()]
        )

    def node_usage(self, node: str, values: Mapping[str, float]) -> None:
        """Logs what another machine of the cluster uses, as MLflow logs it of this one; nothing while MLflow is away.

        values: name, as MLflow has it, without `system/` -> value.
        """
        if self._client.is_open:
            self._num_samples[node] += 1
            self.metrics(self.parent_id, self._num_samples[node], {f"system/{node}/{k}": v for k, v in values.items()})

    def finish_stage(self, node: Node, manifest: Manifest, run_id: str) -> None:
        """Ends the stage's run with its results, facts, small files, the artifact's URI and the logged model."""
        _, inputs = self._inputs.pop(run_id, (node, ()))
        self._log_inputs(run_id, node, inputs, manifest.facts)
        self._log_made(node, manifest, run_id)
        self._log_results(run_id, node, manifest, made=True)
        self._client.set_terminated(run_id, "FINISHED")

    def fail_stage(self, run_id: str, reason: str) -> None:
        """Ends the run of a stage that raised an exception."""
        self._client.set_tag(run_id, "error", reason[:PARAM_CHARACTERS])
        self.end_stage(run_id, "FAILED")

    def end_stage(self, run_id: str, status: str) -> None:
        """Ends a stage's run without a result."""
        if run_id in self._inputs:
            self._log_inputs(run_id, *self._inputs.pop(run_id), {})
        self._client.set_terminated(run_id, status)

    def log_results(self, seconds: float) -> dict[str, float]:
        """Logs the results of all stages on the parent run, with what the run took; returns the metrics.

        A name that several stages measure has the node's name at its end.

        seconds: time that the run took.
        """
        # The model that a training went on from has the results of another run.
        tracked_here = [one for one in self._tracked if one.node.content is None]
        named = result_names((one.node, one.results) for one in tracked_here)
        values = {named(name, t.node): v for t in tracked_here for name, v in t.results.values.items()}
        values |= self._costs(seconds)
        self.metrics(self.parent_id, 0, values)
        for tracked in tracked_here:
            self._log_curves(self.parent_id, {named(n, tracked.node): c for n, c in tracked.results.curves.items()})
        tests = test_digests((t.node, t.manifest, t.results) for t in self._tracked)
        self._client.set_tag(self.parent_id, TESTS_TAG, json.dumps(tests, sort_keys=True))
        return {allowed_name(name): value for name, value in values.items()}

    def describe(self, note: str) -> None:
        """Puts a note in Markdown on the page of the parent run."""
        self._client.set_tag(self.parent_id, "mlflow.note.content", note[:TAG_CHARACTERS])

    def register(self, registration: Registration) -> str:
        """Registers the model of an artifact as NAME or NAME@ALIAS. Raises as `registry.register`."""
        return self._client.register(registration)

    def report(self, directory_uri: str, name: str) -> None:
        """Attaches the report to the parent run."""
        self._client.log_file(self.parent_id, join(directory_uri, name))

    def end(self, status: str) -> str:
        """Ends the parent run as FINISHED, FAILED or KILLED; returns a line on what MLflow lacks, empty if nothing."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._client.set_terminated(self.parent_id, status)
        return self._client.close()

    def _log_made(self, node: Node, manifest: Manifest, run_id: str) -> None:
        words = [RunTag(allowed_name(k), str(v)) for k, v in manifest.facts.items() if isinstance(v, str)]
        directory = self._store.directory(manifest.stage, manifest.key)
        self._client.log_batch(run_id, tags=[*words, RunTag("artifact_uri", directory)])
        small = [name for name, output in manifest.outputs.items() if output.num_bytes <= SMALL_FILE_BYTES]
        for name in [MANIFEST, *(name for name in small if "/" not in name)]:
            self._client.log_file(run_id, join(directory, name))
        if node.stage.produces.model is not None:
            self._client.log_model(run_id, node, node.stage.produces(directory, manifest.key))

    def _log_results(self, run_id: str, node: Node, manifest: Manifest, *, made: bool) -> None:
        artifact = node.stage.produces(self._store.directory(manifest.stage, manifest.key), manifest.key)
        results = artifact.metrics(manifest.facts)
        self._tracked.append(_Tracked(node=node, manifest=manifest, results=results, made=made))
        facts = {k: float(v) for k, v in manifest.facts.items() if isinstance(v, int | float)}
        costs = {
            "seconds": manifest.seconds,
            "gpu_seconds": _gpu_seconds(node, manifest),
            "artifact_bytes": float(manifest.num_bytes),
            "peak_memory_bytes": float(manifest.peak_memory_bytes),
        }
        self.metrics(run_id, 0, {**facts, **costs, **results.values})
        self._log_curves(run_id, results.curves)
        if results.table:
            self._client.log_table(run_id, {k: list(v) for k, v in results.table.items()}, TABLE_FILE)

    def _log_curves(self, run_id: str, curves: Mapping[str, Mapping[int, float]]) -> None:
        now_ms = int(time.time() * 1000)
        self._log_points(
            run_id,
            [
                Metric(allowed_name(name), float(value), now_ms, step)
                for name, curve in curves.items()
                for step, value in curve.items()
            ],
        )

    def _log_points(self, run_id: str, points: Sequence[Metric]) -> None:
        for first in range(0, len(points), POINTS_PER_REQUEST):
            self._client.log_batch(run_id, metrics=points[first : first + POINTS_PER_REQUEST])

    def _log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        params = [Param(name, text[:PARAM_CHARACTERS]) for name, text in flat(values).items() if text]
        for first in range(0, len(params), PARAMS_PER_REQUEST):
            self._client.log_batch(run_id, params=params[first : first + PARAMS_PER_REQUEST])

    def _log_inputs(
        self, run_id: str, node: Node, inputs: Sequence[Manifest], facts: Mapping[str, int | float | str]
    ) -> None:
        """Logs the data of a stage on its run and, if it trains or tests, on the parent."""
        known = {tracked.manifest.key: tracked.manifest for tracked in self._tracked}
        datasets = dataset_inputs(self._store, node, inputs, known, facts)
        self._client.log_inputs(run_id, datasets)
        of_parent = [one for one in datasets if is_for_parent(one)]
        if of_parent:
            self._client.log_inputs(self.parent_id, of_parent)

    def _costs(self, seconds: float) -> dict[str, float]:
        made = [tracked for tracked in self._tracked if tracked.made]
        return {
            "cost/seconds": seconds,
            "cost/stage_seconds": sum(t.manifest.seconds for t in made),
            "cost/stage_seconds_of_reused": sum(t.manifest.seconds for t in self._tracked if not t.made),
            "cost/gpu_seconds": sum(_gpu_seconds(t.node, t.manifest) for t in made),
            "cost/bytes_made": float(sum(t.manifest.num_bytes_made for t in made)),
            "cost/stages_made": float(len(made)),
            "cost/stages_reused": float(len(self._tracked) - len(made)),
        }

    def _end_killed_runs(self) -> set[str]:
        """Ends as KILLED the runs that a killed driver of this machine has left as RUNNING; returns their ids."""
        ended_ids = set()
        for run in self._client.open_runs():
            host, _, pid = run.data.tags.get(PROCESS_TAG, "").partition(":")
            if host == socket.gethostname() and not is_alive(int(pid)):
                self._client.set_terminated(run.info.run_id, "KILLED")
                ended_ids.add(str(run.info.run_id))
        return ended_ids

    def _with_process_tag(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {**tags, PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}

    def _nested(self, node: Node, tags: Mapping[str, str], note: str | None = None) -> str:
        named = {
            "key": node.key,
            "stage": node.stage.name,
            "recipe": self._recipe,
            "mlflow.parentRunId": self.parent_id,
        }
        if note:
            named["mlflow.note.content"] = note
        tags = self._with_process_tag({**named, **tags})
        return self._client.create_run(node.name, tags)


def _gpu_seconds(node: Node, manifest: Manifest) -> float:
    """Returns the time that GPUs were reserved for a stage, at most."""
    return manifest.seconds * node.resources.num_workers * node.resources.gpus_per_worker
