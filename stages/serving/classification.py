"""Actions of the videos of percepts, written part by part as Parquet: the work of stage `classify`.

Shapes: W windows of a video, V videos of a part, C classes, T frames of a window.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.extraction.single_video import VideoPercepts
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.percepts.artifacts import Percepts
from stages.serving.parts import Part, Per, columns_of_names, read_names, table_schema, write_part
from stages.serving.video_classifier import answer_of, probabilities_of, windows_of

Columns = list[pa.Array]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Builds, in a worker, the function that writes a part, unless it is there."""

    model_uri: str
    percepts: Percepts
    per: Per
    device: str

    def __call__(self) -> Callable[[Part], None]:
        trained = TrainedClassifiers.load(self.model_uri, device=self.device)
        store, names = self.percepts.open(), read_names(self.percepts)
        schema, classes = actions_schema(self.per, trained.class_names), trained.class_names

        def seen(video: str) -> VideoPercepts:
            rows = store.rows(video)
            return VideoPercepts(store.percepts(video), rows.frame_N, rows.pts_us_N, rows.segment_N)

        def rows_of_windows(videos: Sequence[str]) -> Iterator[Columns]:
            for video in videos:
                percepts = seen(video)
                row_WT = windows_of(trained, percepts)
                first_W, last_W = row_WT[:, 0], row_WT[:, -1]
                times = (percepts.frame_N[first_W], percepts.pts_us_N[first_W], percepts.pts_us_N[last_W])
                place = map(pa.array, (np.arange(len(row_WT), dtype=np.int32), *times))
                probabilities_WC = probabilities_of(trained, percepts, row_WT)
                yield [*columns_of_names([video] * len(row_WT), names), *place, *_actions(classes, probabilities_WC)]

        def rows_of_videos(videos: Sequence[str]) -> Iterator[Columns]:
            answers = [answer_of(trained, seen(video)) for video in videos]
            num_windows = pa.array([len(answer.start_us_W) for answer in answers], pa.int32())
            probabilities_VC = np.stack([answer.overall for answer in answers])
            yield [*columns_of_names(videos, names), num_windows, *_actions(classes, probabilities_VC)]

        def classify(part: Part) -> None:
            part.check(store.videos)
            rows_of = rows_of_windows if self.per == "window" else rows_of_videos
            write_part(part, schema, rows_of(store.videos[part.first : part.end]))

        return classify


def actions_schema(per: Per, class_names: Sequence[str]) -> pa.Schema:
    """Returns the schema of a table of actions, with the names of the classes in its metadata."""
    probabilities = pa.list_(pa.float32(), len(class_names))
    columns = {"action": pa.string(), "probability": pa.float32(), "probabilities": probabilities}
    return table_schema(per, columns).with_metadata({"classes": json.dumps(class_names)})


def _actions(class_names: Sequence[str], probabilities_WC: npt.NDArray[np.float32]) -> Columns:
    """Returns the columns action, probability and probabilities of rows."""
    names = [class_names[number] for number in probabilities_WC.argmax(1).tolist()]
    flat = pa.array(probabilities_WC.astype(np.float32).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, len(class_names))
    return [pa.array(names, pa.string()), pa.array(probabilities_WC.max(1).astype(np.float32)), lists]
