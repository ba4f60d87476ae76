"""The rows of the table of pixel scores: the work of stage `score_pixels` outside its workers.

Shapes: T frames, N sequences of the test set, D pixels (and channels) of a frame, S softenings.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pipeline.core.errors import ConfigError, CorruptArtifact
from pipeline.core.files import exists, read_json, sha256_bytes
from pipeline.core.stage import Context
from stages.datasets import moving_mnist
from stages.datasets.artifacts import Digits, Patches
from stages.evaluation.artifacts import PixelScoreRow
from stages.evaluation.intervals import t_interval
from stages.evaluation.metrics import Frames
from stages.evaluation.pixel_scoring import PIECE, SOFTENINGS, Columns, PixelTask
from stages.models.artifacts import Encoder

MANIFEST_FILE: Final = "manifest.json"
NUM_MEAN_FRAME_SEQUENCES: Final = 1000
"""Training sequences whose frames make the mean frame."""


def digits_task(
    num_test_sequences: int, encoders: tuple[Encoder, ...], digits: Digits, num_in: int, num_out: int
) -> tuple[dict[str, Any], PixelTask]:
    images, num_frames = digits.load("test").images, num_in + num_out
    num = num_test_sequences
    digest = moving_mnist.digest(moving_mnist.fixed_test_set(images, num=num, num_frames=num_frames))
    recorded = moving_mnist.TEST_SET_SHA256.get(sha256_bytes(images.tobytes()))
    is_whole = (num, num_frames) == (moving_mnist.NUM_TEST_SEQUENCES, moving_mnist.NUM_TEST_FRAMES)
    if is_whole and recorded is not None and digest != recorded:
        raise CorruptArtifact(
            f"the fixed Moving MNIST test set has sha256 {digest} here and {recorded} on record: this machine or "
            "version of NumPy draws other sequences, and its figures would not compare"
        )
    training = digits.load("train").images
    pieces = [
        moving_mnist.sequences(training, seed=0, first=first, num=PIECE, num_frames=num_frames).mean((0, 1))
        for first in range(0, NUM_MEAN_FRAME_SEQUENCES, PIECE)
    ]
    mean_frame_D: Frames = np.mean(pieces, axis=0)
    facts = {"test_set_sha256": digest, "test_set_is_recorded": bool(is_whole and recorded)}
    return facts, PixelTask(encoders, digits, num, num_in, num_out, mean_frame_D)


def patches_task(
    num_test_sequences: int, encoders: tuple[Encoder, ...], patches: Patches, num_in: int, num_out: int
) -> tuple[dict[str, Any], PixelTask]:
    test, train, moments = patches.map("test"), patches.map("train"), patches.moments()
    if test.shape[1] < num_in + num_out:
        raise ConfigError(
            f"the patches are {test.shape[1]} frames long, the models read and predict {num_in + num_out}: "
            "cut longer ones"
        )
    training = train[:NUM_MEAN_FRAME_SEQUENCES, : num_in + num_out].mean((0, 1), keepdims=True)
    mean_frame_D = moments.standardise(training)[0, 0]
    num = min(num_test_sequences, len(test))
    return {}, PixelTask(encoders, patches, num, num_in, num_out, mean_frame_D)


def score_columns(task: PixelTask, context: Context) -> list[Columns]:
    """Computes the columns of the whole test set, of every model and baseline."""
    pieces = list(range(0, task.num_test, PIECE))
    columns_by_piece: dict[int, list[Columns]] = {}
    resources = context.resources
    for position, result in context.workers.map(
        task,
        pieces,
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        describe=lambda first: f"test sequences from {first} on",
    ):
        columns_by_piece[position] = result
        context.progress(min(len(columns_by_piece) * PIECE, task.num_test), task.num_test, "sequences")
    whole = [columns_by_piece[position] for position in range(len(pieces))]
    num_scored = len(whole[0])
    return [
        {name: np.concatenate([piece[n][name] for piece in whole]) for name in whole[0][n]} for n in range(num_scored)
    ]


def table_row(name: str, columns: Columns, in_nats: bool, **facts: Any) -> PixelScoreRow:
    """Builds a row from the means of a model's columns. `facts`: further fields of the row."""
    error = "cross_entropy" if in_nats else "squared_error"
    columns = dict(columns)
    row: dict[str, Any] = dict(facts)
    if "softened" in columns:
        softened_NTS = columns.pop("softened")
        best = int(softened_NTS.mean((0, 1)).argmin())
        columns["error"] = softened_NTS[..., best]
        row["softening"] = SOFTENINGS[best]
    for key, column in {
        error: "error",
        "mse": "mse",
        "ssim": "ssim",
        f"reconstruction_{error}": "reconstruction",
        f"teacher_forced_{error}": "teacher_forced",
    }.items():
        row[key] = float(columns[column].mean()) if column in columns else None
    if "error" in columns:
        interval = t_interval(columns["error"].mean(1))
        row |= {f"{error}_low": interval.low, f"{error}_high": interval.high}
        row[f"{error}_by_frame"] = tuple(columns["error"].mean(0).tolist())
    return PixelScoreRow(model=name, **row)


def training_facts(encoder: Encoder) -> dict[str, Any]:
    """Reads the seconds and sequences of the encoder's training from its manifest; None where they are not there."""
    uri = encoder.path(MANIFEST_FILE)
    manifest = read_json(uri) if exists(uri) else {"facts": {}}
    return {"seconds": manifest.get("seconds"), "num_sequences_seen": manifest["facts"].get("num_sequences_seen")}
