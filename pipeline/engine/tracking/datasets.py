"""Artifacts that hold data, as datasets of MLflow: digest, counts, columns, and what a stage used them for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from mlflow.entities import Dataset, DatasetInput, InputTag

from pipeline.core.files import filesystem, is_local
from pipeline.core.stage import Artifact
from pipeline.engine.plan import Node
from pipeline.engine.store import Manifest, Store

DIGEST_CHARACTERS: Final = 36
CONTEXT: Final = "mlflow.data.context"
COUNTED: Final = ("num_videos", "num_frames", "num_bytes", "num_clips", "fingerprint")
"""The beginnings of facts that describe data."""
HELD_OUT: Final = "validation_fraction"
"""The field of a training's config that says which share of the videos is held out."""
BY_VERDICT: Final = ("num_videos_ok", "num_videos_partial", "num_videos_rejected")
"""Facts that add up to the number of videos."""
DATA: Final = ("names", "files", "percepts", "pixels")
"""Content of artifacts that are data, not results or models."""


def dataset_inputs(
    store: Store, node: Node, inputs: Sequence[Manifest], known: Mapping[str, Manifest]
) -> list[DatasetInput]:
    """Returns the inputs of a stage as datasets.

    Data from which a model is made has the context `training`, data by which results are measured `test`. The
    part of its data that a training holds out is a data set of its own, with the context `validation`.

    known: key -> manifest of the run's artifacts, which say from how many hours of video data was made.
    """
    kinds = {parent.stage.name: parent.stage.produces for parent in node.parents}
    use = context_of(node.stage.produces)
    held_out = getattr(node.config, HELD_OUT, None) if use == "training" else None
    datasets = []
    for manifest in inputs:
        dataset = _dataset(store, manifest, kinds.get(manifest.stage, Artifact), known)
        own_use = use if is_data(manifest) and use else manifest.stage
        datasets.append(DatasetInput(dataset, [InputTag(CONTEXT, own_use)]))
        if held_out and own_use == "training":
            profile = json.dumps({"share_of_videos": held_out})
            part = _renamed(dataset, f"{dataset.name} (validation)", profile)
            datasets.append(DatasetInput(part, [InputTag(CONTEXT, "validation")]))
    return datasets


def is_data(manifest: Manifest) -> bool:
    """Returns true for an artifact that holds videos or what was made of each of them."""
    return manifest.holds in DATA


def context_of(kind: type[Artifact]) -> str | None:
    """Returns what the data is for from which an artifact of this class is made; None: for another data set."""
    if kind.model is not None:
        return "training"
    has_results = kind.metrics is not Artifact.metrics
    return "test" if has_results and kind.holds not in DATA else None


def for_parent(dataset: DatasetInput) -> DatasetInput | None:
    """Returns a data set of a training, its validation or a test as the parent run has it; None for any other.

    A run has each data set once, so that its name says what it is for.
    """
    use = next((tag.value for tag in dataset.tags if tag.key == CONTEXT), "")
    if use == "validation":
        return dataset
    if use not in ("training", "test"):
        return None
    of = dataset.dataset
    return DatasetInput(_renamed(of, f"{of.name} ({use})", of.profile), dataset.tags)


def _renamed(of: Dataset, name: str, profile: str | None) -> Dataset:
    return Dataset(name, of.digest, of.source_type, of.source, of.schema, profile)


def _dataset(store: Store, manifest: Manifest, kind: type[Artifact], known: Mapping[str, Manifest]) -> Dataset:
    uri = store.directory(manifest.stage, manifest.key)
    return Dataset(
        name=manifest.name,
        digest=manifest.key.rpartition("-")[2][:DIGEST_CHARACTERS],
        source_type="local" if is_local(uri) else str(filesystem(uri)[0].protocol[0]),
        source=json.dumps({"uri": uri}),
        schema=_schema(kind.columns),
        profile=json.dumps(_profile(manifest, known)),
    )


def _schema(columns: Mapping[str, str]) -> str | None:
    if not columns:
        return None
    return json.dumps({"mlflow_colspec": [{"name": name, "type": kind} for name, kind in columns.items()]})


def _profile(manifest: Manifest, known: Mapping[str, Manifest]) -> dict[str, float | str]:
    """Returns the counts of an artifact: videos, frames, bytes, and hours, which those that it was made of may know."""
    facts = manifest.facts
    profile = {name: value for name, value in facts.items() if name.startswith(COUNTED)}
    by_verdict = [int(facts[name]) for name in BY_VERDICT if name in facts]
    if by_verdict:
        profile.setdefault("num_videos", sum(by_verdict))
    sources = (manifest, *(known[key] for key in manifest.input_keys() if key in known))
    seconds = [float(m.facts["seconds_of_video"]) for m in sources if "seconds_of_video" in m.facts]
    return {**profile, "hours": round(sum(seconds) / 3600, 4)} if seconds else profile
