"""Figures of a model of pixels (the paper's figures 5, 6, 7 and 8): reconstructions, predictions and features.

Shapes: T frames, B sequences, D pixels (and channels) of a frame, H units of a layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.figures.canvas import Frames, Row, Scene, animation, gif, png, strip, tiles
from stages.figures.gallery import Figure
from stages.figures.percepts import remembered_and_expected
from stages.figures.plots import feature_pictures, largest, trace_sheet
from stages.models.composite import Composite
from stages.models.lstm import PeepholeLayer, Trace

Floats = npt.NDArray[np.float32]

SHRINK_FROM_PX: Final = 64
"""The side from which features are drawn at half their size: six sheets of 200 would make a page heavy."""
TRACES: Final = {"input gate": "i", "forget gate": "f", "output gate": "o", "cell": "c", "output": "h"}


@dataclass(frozen=True)
class PixelView:
    """The picture of a frame of D values."""

    shape: tuple[int, int, int]
    """Rows, columns and channels of a frame; their product is D."""
    picture: Callable[[Floats], Frames]
    """A function from (T, B, D) to (T, B, rows, columns, 3) bytes."""


def model_scenes(view: PixelView, model: Composite, x_TBD: Floats, titles: list[str]) -> list[Scene]:
    """Returns each sequence, above the model's output for its first `num_frames_in` frames."""
    num_in = model.config.num_frames_in
    made = remembered_and_expected(model, x_TBD[:num_in], len(x_TBD) - num_in)
    first = 0 if model.config.reconstructs else num_in
    truth, pictures = view.picture(x_TBD), view.picture(made)
    return [
        Scene(title, (Row("truth", truth[:, b]), Row("model", pictures[:, b], first))) for b, title in enumerate(titles)
    ]


def sequence_figures(view: PixelView, model: Composite, x_TBD: Floats, titles: list[str], name: str) -> list[Figure]:
    """Draws reconstructions and predictions under their truth: a strip, and its animation."""
    num_in = model.config.num_frames_in
    scenes = model_scenes(view, model, x_TBD, titles)
    caption = (
        f"Each upper row is the truth. The model has seen the first {num_in} frames and nothing else: under them is "
        "what it remembers, and under the orange numbers what it expects."
    )
    moving = animation(scenes, num_seen=num_in, seen_word="remembered", expected_word="predicted")
    cell_px = 64 if view.shape[0] <= 64 else 96
    return [
        Figure(
            f"{name}.png",
            "Reconstructions and predictions",
            caption,
            png(strip(scenes, num_seen=num_in, cell_px=cell_px)),
        ),
        Figure(f"{name}.gif", "The same in motion", "Orange: the model is on its own and predicts.", gif(moving)),
    ]


def far_future_figures(
    view: PixelView, models: dict[str, Composite], x_TBD: Floats, *, num_steps: int, num_units: int, seed: int
) -> list[Figure]:
    """Draws `num_steps` predicted frames, and gates and states of `num_units` random units of the top layer.

    x_TBD: one sequence (B = 1): the input, and as much of the truth after it as there is.
    """
    model = next(iter(models.values()))
    num_in = model.config.num_frames_in
    units = np.random.default_rng(seed).choice(model.config.num_units, min(num_units, model.config.num_units), False)
    units.sort()
    rows, traces = [Row("truth", view.picture(x_TBD)[:, 0])], {}
    for name, each in models.items():
        frames_TBD, layers = each.extrapolate_with_traces(torch.from_numpy(x_TBD[:num_in]), num_steps)
        rows.append(Row(name, view.picture(frames_TBD.numpy())[:, 0], num_in))
        traces[name] = _traces(layers[-1], torch.from_numpy(units))
    scene = Scene(f"{num_steps} frames into the future", tuple(rows))
    frames = strip([scene], num_seen=num_in, max_columns=(num_in + num_steps) // 5)
    moving = animation([scene], num_seen=num_in, seen_word="seen", expected_word="predicted")
    return [
        Figure(
            "far_future.png",
            f"{num_steps} frames ahead",
            f"Far beyond the {model.config.num_frames_out} frames that it was trained to predict.",
            png(frames),
        ),
        Figure("far_future.gif", f"{num_steps} frames ahead, in motion", "", gif(moving, frame_ms=60)),
        Figure(
            "traces.png",
            "Inside the future decoder",
            f"Gates and states of {len(units)} random units of the top layer over the same {num_steps} frames. "
            + _changes_sentence(traces),
            trace_sheet(traces),
        ),
    ]


def feature_figures(view: PixelView, model: Composite, num_features: int) -> list[Figure]:
    """Draws input features of the encoder and output features of each decoder, those of the largest norms."""
    layer = model.encoder.layers[0]
    assert isinstance(layer, PeepholeLayer)
    weight_KD = _array(layer.input_weight)[0]
    by_gate = dict(zip(("input gate", "forget gate", "cell input", "output gate"), np.split(weight_KD, 4), strict=True))
    units = largest(by_gate["cell input"], num_features)
    figures = [
        Figure(
            f"features_{name.replace(' ', '_')}.png",
            f"Input features: {name}",
            f"Weights from the pixels to the {name} of {len(units)} units of the encoder's first layer, those with the "
            "largest norm of the weights to the cell input; a place is the same unit in all four pictures.",
            _feature_sheet(weight_HD[units], view),
        )
        for name, weight_HD in by_gate.items()
    ]
    decoders = {"reconstruction": model.reconstruct_decoder, "prediction": model.predict_decoder}
    for name, decoder in decoders.items():
        if decoder is None:
            continue
        weight_HD = _array(decoder.output.weight).T
        units = largest(weight_HD, num_features)
        title, caption = (
            f"Output features: {name}",
            f"Weights to the pixels from the {len(units)} units of largest norm.",
        )
        figures.append(Figure(f"features_{name}.png", title, caption, _feature_sheet(weight_HD[units], view)))
    return figures


def _feature_sheet(weight_RD: Floats, view: PixelView) -> bytes:
    rows, columns, channels = view.shape
    weight_RHWC = weight_RD.reshape(-1, rows, columns, channels)
    if rows >= SHRINK_FROM_PX:
        weight_RHWC = weight_RHWC.reshape(-1, rows // 2, 2, columns // 2, 2, channels).mean((2, 4))
    return png(tiles(feature_pictures(np.ascontiguousarray(weight_RHWC)), columns=20))


def _changes_sentence(traces: dict[str, dict[str, Floats]]) -> str:
    """Says by how much units still change in the second half."""
    changes = {
        name: float(np.abs(np.diff(model["output"][len(model["output"]) // 2 :], axis=0)).mean())
        for name, model in traces.items()
    }
    listed = ", ".join(f"{change:.2g} ({name})" for name, change in changes.items())
    return f"In the second half of them the units' outputs still change by {listed} a frame, on average."


def _traces(trace: Trace, units: Tensor) -> dict[str, Floats]:
    return {name: getattr(trace, field)[0, :, 0, units].numpy() for name, field in TRACES.items()}


def _array(weight: Tensor | None) -> Floats:
    assert weight is not None
    array: Floats = weight.detach().float().cpu().numpy()
    return array
