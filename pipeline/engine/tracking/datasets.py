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
USES: Final = ("training", "validation", "test")
"""The purposes that a stage uses videos for. Facts on them begin with the purpose: `training/num_videos`."""
BY_VERDICT: Final = ("num_videos_ok", "num_videos_partial", "num_videos_rejected")
"""Facts that add up to the number of videos."""
DATA: Final = ("names", "files", "percepts", "pixels")
"""Content of artifacts that are data, not results or models."""


def dataset_inputs(
    store: Store,
    node: Node,
    inputs: Sequence[Manifest],
    known: Mapping[str, Manifest],
    facts: Mapping[str, int | float | str],
) -> list[DatasetInput]:
    """Returns the inputs of a stage as datasets.

    The part of its data that a stage learned from, chose by or was measured on is a data set of its own, whose context
    is `training`, `validation` or `test`. Where the stage does not say which part it was, all of the data has the
    context `training` if a model was made from it, `test` if results were measured on it.

    known: key -> manifest of the run's artifacts, which say from how many hours of video data was made.
    facts: of the stage's artifact; none where it made none.
    """
    kinds = {parent.stage.name: parent.stage.produces for parent in node.parents}
    use = context_of(node.stage.produces)
    datasets = []
    for manifest in inputs:
        whole = _dataset(store, manifest, kinds.get(manifest.stage, Artifact), known)
        parts = _parts(whole, node, facts) if is_data(manifest) and manifest.holds != "names" else []
        if not parts and is_data(manifest) and use:
            parts = [_used(whole, use, node, whole.digest, whole.profile)]
        datasets += parts or [DatasetInput(whole, [InputTag(CONTEXT, manifest.stage)])]
    return datasets


def _parts(whole: Dataset, node: Node, facts: Mapping[str, int | float | str]) -> list[DatasetInput]:
    parts = []
    for use in USES:
        profile = {k.partition("/")[2]: value for k, value in facts.items() if k.startswith(f"{use}/")}
        if profile:
            digest = str(profile.pop("digest", whole.digest))
            parts.append(_used(whole, use, node, digest, json.dumps(profile)))
    return parts


def _used(of: Dataset, use: str, node: Node, digest: str, profile: str | None) -> DatasetInput:
    """Returns data by what a stage used it for. A run has a name and a digest once, so that the name says the use."""
    named = Dataset(f"{of.name} ({use} of {node.stage.name})", digest, of.source_type, of.source, of.schema, profile)
    return DatasetInput(named, [InputTag(CONTEXT, use)])


def is_data(manifest: Manifest) -> bool:
    """Returns true for an artifact that holds videos or what was made of each of them."""
    return manifest.holds in DATA


def context_of(kind: type[Artifact]) -> str | None:
    """Returns what the data is for from which an artifact of this class is made; None: for another data set."""
    if kind.model is not None:
        return "training"
    has_results = kind.metrics is not Artifact.metrics
    return "test" if has_results and kind.holds not in DATA else None


def is_for_parent(one: DatasetInput) -> bool:
    """Returns whether a data set is that of a training, its validation or a test, which the parent run has, too."""
    return any(tag.key == CONTEXT and tag.value in USES for tag in one.tags)


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
