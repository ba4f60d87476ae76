"""Rates of two CPU workers (tests/RESULTS.md), for estimates of stages that this store has not measured yet.

`pipeline.engine.status` prefers the store's own last measurement.
"""

from __future__ import annotations

from typing import Final

FLOP_PER_S: Final = 40e9
"""The rate of matrix products of a small LSTM in training."""
FINETUNING_FLOP_PER_S: Final = 100e9
"""The rate of matrix products of small LSTMs that are trained side by side."""
FLOP_PER_S_BFLOAT16: Final = 250e9
"""The rate of matrix products in bfloat16, with two threads, AVX512-BF16, 384 units and frames of 4096 values."""
REFERENCE_CORES: Final = 2
"""The number of cores that the rates of CPUs here are of."""
H100_FLOP_PER_S: Final = 390e12
"""The rate of matrix products in training on one H100: 34,495 sequences/s of a composite of 2 x 2048 units in bfloat16,
at batch 512, in the loop (tests/RESULTS.md). Smaller models and batches leave more of the GPU idle."""
WORKER_START_S: Final = 2.5
"""The time until the first worker of a stage works: its process and the stage's own import what they need."""
GROUP_START_S: Final = 11.0
"""The further time until a training of several workers takes its first step: four more processes, which find each
other."""
PROBED_VIDEOS_PER_S: Final = 350.0
ENCODED_FRAMES_PER_S: Final = 5000.0
DECODED_FRAMES_PER_S: Final = 2500.0
SCANNED_BYTES_PER_S: Final = 130e6
"""The rate of percepts from the page cache into moments in float64."""
FORECAST_S: Final = 0.5
"""The duration of a forecast of the default number of windows, after the start of its workers."""
EVALUATE_S: Final = 2.5
"""The duration of what an evaluation does beside its matrix products."""
EVALUATION_SPEEDUP: Final = 3.0
"""The rate of matrix products of an evaluation over that of a training."""
EMBEDDED_FRAMES_PER_S: Final = 9000.0
"""The rate of embedding percepts of 1,280 values by an encoder of 256 units, in windows that follow one another."""
VISUALIZE_S: Final = 1.0
"""The duration of drawing; no part of it grows with the number of videos."""
REPORT_S: Final = 2.5
"""The duration of what comes after the last stage: results for MLflow, the report, and the end of Ray."""
BYTES_PER_FRAME: Final = 3000
"""The size of a frame of compressed web video, 240p to 480p: it turns file sizes into numbers of frames."""
H100_DECODERS: Final = 15
"""The cores that decode beside a GPU where nothing says how many: those of the H100 of the next rates."""
H100_FRAMES_PER_S_AT_224_PX: Final = {
    "vgg16": 12_330.0,
    "vgg16_torchvision": 12_330.0,
    "efficientnet_lite0": 21_080.0,
    "timm/vit_small_patch16_224": 18_910.0,
}
"""Percepts a second of one H100 with `H100_DECODERS` cores, from files of 320x240 (tests/RESULTS.md)."""
CONVNET_FRAMES_PER_S_AT_224_PX: Final = {"efficientnet_lite0": 190.0, "vgg16": 4.0, "vgg16_torchvision": 4.0}


def lstm_flop(*, num_sequences: int, num_steps: int, num_inputs: int, num_units: int, num_layers: int) -> float:
    """Returns the FLOP of the matrix products of a training step: three times the forward pass, 2 a multiply-add."""
    return 3.0 * 2.0 * num_sequences * num_steps * lstm_weights(num_inputs, num_units, num_layers)


def lstm_weights(num_inputs: int, num_units: int, num_layers: int) -> int:
    """Returns the number of weights in an LSTM's matrix products."""
    return 4 * num_units * (num_inputs + num_units) + (num_layers - 1) * 8 * num_units**2


def extraction_seconds(convnet: str, input_px: int, num_frames: int) -> float | None:
    """Estimates an extraction's seconds from the number of pixels; None for a convnet that was never measured.

    Decoding sets the lower bound.
    """
    at_224 = CONVNET_FRAMES_PER_S_AT_224_PX.get(convnet)
    if at_224 is None:
        return None
    return num_frames / min(DECODED_FRAMES_PER_S, at_224 * (224 / input_px) ** 2)
