"""Runs in MLflow, read: of stages by the keys of their artifacts, and of recipes with their results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.addresses.mlflow_addresses import EXPERIMENT_PREFIX
from pipeline.core.addresses.model_uris import in_one_line, limit_waiting
from pipeline.core.errors import UsageError
from pipeline.core.secrets import public
from pipeline.engine.tracking.values import ComparedRun

SENT_TAG: Final = "percepts.run_id"
"""Tag of a run that was sent later: the id that it had until then."""
TESTS_TAG: Final = "percepts.tests"
"""Tag of a parent run: for each quantity, a digest of the data and the settings by which it was measured, as JSON."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """An MLflow run that made or used an artifact."""

    run_id: str
    name: str
    key: str
    """The key of the artifact."""
    state: str
    """The word `made`, or `have` if the run used an artifact that another run had made."""
    parent_id: str
    started_at: str
    """UTC, ISO 8601."""
    models: tuple[str, ...] = ()
    """Ids of the models that the run logged: models:/<id>."""


@contextmanager
def answering(tracking_uri: str) -> Iterator[MlflowClient]:
    """Yields a client of an MLflow, which tries for seconds; what it, or its database, raises becomes one line.

    Raises:
        UsageError: no tracking server or file answers.
    """
    limit_waiting()
    try:
        yield MlflowClient(tracking_uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise UsageError(f"no MLflow answers at {public(tracking_uri)!r}: {in_one_line(error)}") from error


def runs_of(tracking_uri: str, keys: Collection[str]) -> list[TrackedRun]:
    """Returns all runs of stages whose artifact has one of `keys`, with the models that they logged.

    Raises:
        UsageError: no tracking server or file answers.
    """
    with answering(tracking_uri) as client:
        experiments = _experiments(client)
        if not experiments:
            return []
        runs = [r for r in pages(partial(client.search_runs, experiments)) if r.data.tags.get("key") in keys]
        models: dict[str, list[str]] = {}
        for model in pages(partial(client.search_logged_models, experiments)):
            models.setdefault(str(model.source_run_id), []).append(str(model.model_id))
    return [
        TrackedRun(
            run_id=run.info.run_id,
            name=run.info.run_name,
            key=run.data.tags["key"],
            state=run.data.tags.get("state", ""),
            parent_id=run.data.tags.get("mlflow.parentRunId", ""),
            started_at=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
            models=tuple(sorted(models.get(run.info.run_id, ()))),
        )
        for run in runs
    ]


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """Returns a run by its id, or by the one that it had until MLflow took it; None where there is none."""
    with suppress(MlflowException):
        return client.get_run(run_id)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{SENT_TAG}` = '{run_id}'", max_results=1)
    return runs[0] if runs else None


def tag_runs(tracking_uri: str, runs: Sequence[TrackedRun], name: str, value: str) -> None:
    """Sets a tag of these runs and of the models that they logged."""
    client = MlflowClient(tracking_uri)
    for run in runs:
        client.set_tag(run.run_id, name, value)
        for model in run.models:
            client.set_logged_model_tags(model, {name: value})


def pages(search: Callable[..., Any]) -> Iterator[Any]:
    """Yields every entry of a search that returns pages."""
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def find_results(tracking_uri: str, names: Sequence[str]) -> list[ComparedRun]:
    """Returns the runs of recipes that are named: by run id or its beginning, artifact key, `latest` or `latest~N`.

    Raises:
        UsageError: no tracking server or file answers, or no run has a name.
    """
    with answering(tracking_uri) as client:
        ids = _experiments(client)
        search = partial(client.search_runs, ids, "tags.command LIKE '%'", order_by=["attributes.start_time DESC"])
        parents = list(pages(search)) if ids else []
        return [_results(_named(client, ids, parents, name, tracking_uri)) for name in names]


def results_and_those_before(tracking_uri: str, run_id: str) -> list[ComparedRun]:
    """Returns the run of the same recipe that finished before a run, and that run; fewer than two if there is none.

    Raises:
        UsageError: MLflow does not answer, or has no such run.
    """
    with answering(tracking_uri) as client:
        run = client.get_run(run_id)
        same = f"tags.command LIKE '%' AND tags.recipe = '{run.data.tags.get('recipe', '')}'"
        ended = f"attributes.status = 'FINISHED' AND attributes.start_time < {run.info.start_time}"
        before = client.search_runs(
            [run.info.experiment_id], f"{same} AND {ended}", max_results=1, order_by=["attributes.start_time DESC"]
        )
    return [_results(one) for one in (*before, run)]


def download_results(tracking_uri: str, run_id: str, file_name: str, directory: str) -> list[str]:
    """Downloads the files of one name that the stages of a run made, or the runs whose artifacts it reused.

    Returns the paths of the files, below `directory`.

    Raises:
        UsageError: MLflow does not answer.
    """
    paths = []
    with answering(tracking_uri) as client:
        experiment_id = client.get_run(run_id).info.experiment_id
        stages = pages(partial(client.search_runs, [experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'"))
        makers = dict.fromkeys(one.data.tags.get("made_by_run", one.info.run_id) for one in stages)
        for maker in makers:
            if maker != "unknown" and any(one.path == file_name for one in client.list_artifacts(maker)):
                place = Path(directory) / maker
                place.mkdir(parents=True, exist_ok=True)
                paths.append(str(client.download_artifacts(maker, file_name, str(place))))
    return paths


def _experiments(client: MlflowClient) -> list[str]:
    """Returns the ids of the experiments of recipes."""
    return [e.experiment_id for e in pages(client.search_experiments) if e.name.startswith(EXPERIMENT_PREFIX)]


def _named(client: MlflowClient, ids: list[str], parents: Sequence[Any], name: str, tracking_uri: str) -> Any:
    word, _, back = name.partition("~")
    if word == "latest" and (back or "0").isdigit():
        index = int(back or "0")
        if index >= len(parents):
            raise UsageError(
                f"{name} names no run: MLflow at {public(tracking_uri)} has {len(parents)} runs of recipes"
            )
        return parents[index]
    by_id = [run for run in parents if run.info.run_id.startswith(name)]
    if not by_id and ids:
        stages = client.search_runs(ids, f"tags.key = '{name}'") if re.fullmatch(r"[\w.-]+", name) else []
        makers = {run.data.tags.get("mlflow.parentRunId") for run in stages if run.data.tags.get("state") == "made"}
        by_id = [run for run in parents if run.info.run_id in makers]
    if len(by_id) != 1:
        problem = "no run has this id, key or place" if not by_id else f"{len(by_id)} runs have it"
        raise UsageError(
            f"run {name!r}: {problem} in MLflow at {public(tracking_uri)}; give a run id, a key, or latest~1"
        )
    return by_id[0]


def tests_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns the digests of a parent run's tests by quantity, from its tags."""
    digests: dict[str, str] = json.loads(tags.get(TESTS_TAG, "{}"))
    return digests


def _results(run: Any) -> ComparedRun:
    ended = f" ({run.info.status.lower()})" if run.info.status in ("FAILED", "KILLED") else ""
    return ComparedRun(
        run_id=run.info.run_id,
        name=f"{run.info.run_name}{ended}",
        started_at=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        recipe=run.data.tags.get("recipe", ""),
        tests=tests_of(run.data.tags).get("accuracy", ""),
    )
