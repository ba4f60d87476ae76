"""Predictions of classifiers for every test clip, as Parquet that pandas and DuckDB read.

predictions.parquet    one row a classifier and clip: the predicted class and its probability.
probabilities.parquet  one row a classifier and clip, of the classifiers with the most labels: every class's
                       probability, in the order of the class names in the file's metadata (`percepts.class_names`).

Shapes: G samplings, N clips, C classes.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.files import read_bytes
from pipeline.core.parquet import read_table
from stages.evaluation.scores import Predictions
from stages.video.ledger import VideoRecord

PREDICTIONS_FILE: Final = "predictions.parquet"
PROBABILITIES_FILE: Final = "probabilities.parquet"
_CLASS_NAMES: Final = b"percepts.class_names"
_NAMES = pa.dictionary(pa.int32(), pa.string())
_CLASSIFIER: Final = [
    ("model", _NAMES),
    ("labels_per_class", pa.int32()),
    ("split", pa.int32()),
    ("sampling", pa.int32()),
    ("encoder", _NAMES),
]
Clips = Mapping[int, Sequence[VideoRecord]]
"""Split -> its test clips, in the order of the predictions."""


def predictions(results: Sequence[Predictions], clips: Clips) -> bytes:
    """Writes the content of predictions.parquet."""

    def values(result: Predictions, group: int) -> dict[str, Any]:
        numbers_N = pa.array(result.predicted_GN[group].astype(np.int32))
        predicted = pa.DictionaryArray.from_arrays(numbers_N, pa.array(result.class_names))
        return {"predicted": predicted, "probability": result.probability_GN[group]}

    return _parquet(results, clips, [("predicted", _NAMES), ("probability", pa.float32())], values)


def probabilities(results: Sequence[Predictions], clips: Clips, class_names: Sequence[str]) -> bytes:
    """Writes the content of probabilities.parquet."""

    def values(result: Predictions, group: int) -> dict[str, Any]:
        assert result.probabilities_GNC is not None
        flat = pa.array(result.probabilities_GNC[group].ravel())
        return {"probabilities": pa.FixedSizeListArray.from_arrays(flat, len(class_names))}

    kept = [result for result in results if result.probabilities_GNC is not None]
    column = ("probabilities", pa.list_(pa.float32(), len(class_names)))
    return _parquet(kept, clips, [column], values, {_CLASS_NAMES: json.dumps(class_names)})


def _parquet(
    results: Sequence[Predictions],
    clips: Clips,
    columns: Sequence[tuple[str, pa.DataType]],
    values: Callable[[Predictions, int], dict[str, Any]],
    metadata: Mapping[bytes, str] | None = None,
) -> bytes:
    """Writes a table of classifiers, clips and `columns`, which `values` gives of a result's group."""
    schema = pa.schema([*_CLASSIFIER, ("video", _NAMES), ("label", _NAMES), *columns], metadata=metadata)
    tables = [schema.empty_table()]
    for result in results:
        members = clips[result.split]
        videos = pa.array([clip.sha256 for clip in members]).dictionary_encode()
        labels = pa.array([clip.label for clip in members]).dictionary_encode()
        for group, sampling in enumerate(result.samplings):
            row = {**_classifier(result, sampling, len(members)), "video": videos, "label": labels}
            tables.append(pa.table({**row, **values(result, group)}, schema=schema))
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), sink, compression="zstd")
    return sink.getvalue()


def _classifier(result: Predictions, sampling: int, num_rows: int) -> dict[str, Any]:
    ones = np.ones(num_rows, np.int32)
    return {
        "model": pa.DictionaryArray.from_arrays(pa.array(ones * 0), pa.array([result.arm])),
        "labels_per_class": ones * result.labels_per_class,
        "split": ones * result.split,
        "sampling": ones * sampling,
        "encoder": pa.DictionaryArray.from_arrays(pa.array(ones * 0), pa.array([result.encoder])),
    }


@dataclass(frozen=True)
class ClassProbabilities:
    """The probabilities of one classifier for every test clip of its split."""

    videos: tuple[str, ...]
    labels: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities_NC: npt.NDArray[np.float32]


def read_probabilities(uri: str) -> dict[tuple[str, int, int, int, str], ClassProbabilities]:
    """Reads a probabilities.parquet by (model, labels a class, split, sampling, key of the encoder or "")."""
    table = read_table(read_bytes(uri))
    class_names = tuple(json.loads(table.schema.metadata[_CLASS_NAMES]))
    flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    probabilities_RC = flat.reshape(-1, len(class_names))
    keys = list(zip(*(table[name].to_pylist() for name, _ in _CLASSIFIER), strict=True))
    videos, labels = table["video"].to_pylist(), table["label"].to_pylist()
    rows: dict[tuple[str, int, int, int, str], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return {
        key: ClassProbabilities(
            tuple(videos[row] for row in members),
            tuple(labels[row] for row in members),
            class_names,
            probabilities_RC[members],
        )
        for key, members in rows.items()
    }
