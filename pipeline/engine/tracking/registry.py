"""Models registered with MLflow under names, and aliases that move to a version that beats their holder."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from typing import Final

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.core.errors import UsageError
from pipeline.core.result_metrics import ResultMetrics
from pipeline.engine.plan import Node
from pipeline.engine.store import Manifest
from pipeline.engine.tracking.datasets import context_of, is_data
from pipeline.engine.tracking.runs import TESTS_TAG, find_run, tests_of
from pipeline.engine.tracking.values import (
    KEY_TAG,
    TAG_CHARACTERS,
    Registration,
    allowed_name,
    flat,
    lower_is_better,
)

RUNS_TAG: Final = "percepts.runs"
"""Tag of a model version: ids of the parent runs whose results are its own, the newest first."""
OF_COMPARISON: Final = ("pairs",)
"""Settings of a test that say which of its results are compared, and leave the results as they are."""
MAX_RUNS: Final = 100
"""Number of runs in the tag of a version."""


def result_names(measured: Iterable[tuple[Node, ResultMetrics]]) -> Callable[[str, Node], str]:
    """Returns the function from the name of a result and its node to the name that the parent run has it by.

    A name that several stages measure has the node's name at its end.
    """
    counts = Counter(name for _, results in measured for name in (*results.values, *results.curves))
    return lambda name, node: name if counts[name] == 1 else f"{name}/{node.name}"


def test_digests(measured: Iterable[tuple[Node, Manifest, ResultMetrics]]) -> dict[str, str]:
    """Returns, for each quantity that stages measured by data, a digest of that data's keys and of the settings.

    A quantity is the beginning of its metrics' names. What a model learned from is no part of it.
    """
    stages = list(measured)
    data_keys = {manifest.key for _, manifest, _ in stages if is_data(manifest)}
    tests: dict[str, list[object]] = {}
    for node, manifest, results in stages:
        keys = [key for key in manifest.input_keys() if key in data_keys]
        if context_of(node.stage.produces) == "test" and keys:
            for quantity in {name.split("/")[0] for name in results.values if lower_is_better(name) is not None}:
                settings = sorted(item for item in flat(manifest.config).items() if item[0] not in OF_COMPARISON)
                tests.setdefault(quantity, []).append((manifest.stage, settings, sorted(keys)))
    return {name: hashlib.sha256(repr(sorted(t, key=repr)).encode()).hexdigest()[:16] for name, t in tests.items()}


def register(client: MlflowClient, registration: Registration) -> str:
    """Registers the model that was logged for an artifact, made now or earlier; returns what became of it.

    The same model is registered once. What is returned is the version, and where the alias is and why.

    Raises:
        UsageError: this MLflow has no model of the artifact, or does not allow the name.
    """
    manifest, target = registration.manifest, registration.target
    name, _, alias = target.partition("@")
    try:
        model_id = _model_of(client, manifest)
        if model_id is None:
            raise UsageError(
                f"--register {target}: MLflow at {client.tracking_uri} holds no model of {manifest.key}; "
                "use the --tracking-uri that it was made with"
            )
        number = _version(client, name, model_id, registration)
        if not alias:
            return f"{name} version {number}"
        if registration.if_better is None:
            client.set_registered_model_alias(name, alias, number)
            return f"{name} version {number}, alias {alias}"
        moves, reason = _compare(client, name, alias, number, registration)
        if moves:
            client.set_registered_model_alias(name, alias, number)
            return f"{name} version {number}, alias {alias}: {reason}"
    except MlflowException as error:
        raise UsageError(f"--register {target}: {' '.join(str(error).split())[:200]}") from error
    return f"{name} version {number}; alias {alias} stays where it is: {reason}"


def _model_of(client: MlflowClient, manifest: Manifest) -> str | None:
    if manifest.mlflow_run_id is None:
        return None
    run = find_run(client, manifest.mlflow_run_id)
    if run is None:
        return None
    logged = client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'")
    return str(logged[0].model_id) if logged else None


def _version(client: MlflowClient, name: str, model_id: str, registration: Registration) -> str:
    """Returns the number of the artifact's version, which is made if there is none."""
    key, run_id = registration.manifest.key, registration.run_id
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    known = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(KEY_TAG) == key]
    number = str(known[0].version) if known else _new_version(name, model_id, key)
    if run_id is not None:
        runs = [run_id, *(other for version in known for other in _runs(version.tags) if other != run_id)]
        client.set_model_version_tag(name, number, RUNS_TAG, " ".join(runs[:MAX_RUNS]))
    if registration.description:
        client.update_model_version(name, number, registration.description[:TAG_CHARACTERS])
    return number


def _new_version(name: str, model_id: str, key: str) -> str:
    with redirect_stderr(StringIO()):  # MLflow prints there what this module returns
        return str(mlflow.register_model(f"models:/{model_id}", name, tags={KEY_TAG: key}).version)


def _compare(client: MlflowClient, name: str, alias: str, number: str, registration: Registration) -> tuple[bool, str]:
    """Returns whether the alias moves to a version, and why: by a metric of runs that tested both alike."""
    metric = allowed_name(str(registration.if_better))
    run = client.get_run(registration.run_id or "").data
    if metric not in run.metrics:
        known = ", ".join(sorted(n for n in run.metrics if lower_is_better(n) is not None)) or "none"
        return False, f"the run has no metric {metric}; by these it can be compared: {known}"
    new = f"{metric} is {run.metrics[metric]:.6g}"
    aliases = client.get_registered_model(name).aliases
    if alias not in aliases:
        return True, f"{new}, and no version had the alias"
    if str(aliases[alias]) == number:
        return True, f"{new}, and the alias was its own"
    holder = client.get_model_version(name, str(aliases[alias]))
    other, test = f"version {holder.version}", _test_of(run.tags, metric)
    measured = [one for run_id in _runs(holder.tags) if (one := _metrics_and_tags(client, run_id)) is not None]
    if registration.holder is not None and registration.holder.key == holder.tags.get(KEY_TAG):
        now = registration.holder
        measured.insert(0, (dict(now.metrics), {TESTS_TAG: json.dumps(dict(now.tests))}))
    same = [values[metric] for values, tags in measured if metric in values and _test_of(tags, metric) == test]
    if not any(metric in values for values, _ in measured):
        return False, f"{other} holds it, and no run of it has the metric {metric}"
    if test is None or not same:
        return False, f"{other} holds it, and was measured on other test data or with other settings of a test"
    is_beaten = run.metrics[metric] < same[0] if lower_is_better(metric) else run.metrics[metric] > same[0]
    had = f"{other} {'had' if is_beaten else 'has'} {same[0]:.6g}"
    return is_beaten, f"{new}, {had} on the same test"


def _test_of(tags: Mapping[str, str], metric: str) -> str | None:
    return tests_of(tags).get(metric.split("/")[0])


def _metrics_and_tags(client: MlflowClient, run_id: str) -> tuple[dict[str, float], dict[str, str]] | None:
    """Returns those of a run; None if MLflow has it no more."""
    try:
        data = client.get_run(run_id).data
    except MlflowException:
        return None
    return dict(data.metrics), dict(data.tags)


def _runs(tags: Mapping[str, str]) -> list[str]:
    return tags.get(RUNS_TAG, "").split()
