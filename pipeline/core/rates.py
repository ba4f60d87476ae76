"""What stages are expected to take before this store has measured it: rates of two CPU workers (tests/RESULTS.md).

`pipeline.engine.status` uses the store's own last measurement instead, where there is one.
"""

from __future__ import annotations

from typing import Final

FLOP_PER_S: Final = 40e9
"""Matrix products of a small LSTM in training."""
FLOP_PER_S_BFLOAT16: Final = 250e9
"""The same in bfloat16, of two threads that have AVX512-BF16 and a layer of 384 units on frames of 4096."""
TRAIN_START_S: Final = 20.0
"""Until a training group of Ray Train takes its first step."""
PROBED_VIDEOS_PER_S: Final = 350.0
ENCODED_FRAMES_PER_S: Final = 3000.0
DECODED_FRAMES_PER_S: Final = 2500.0
SCANNED_BYTES_PER_S: Final = 130e6
"""Percepts from a warm disk into moments in float64."""
FORECAST_S: Final = 7.0
"""Of the default number of windows, most of it opening percepts and the model."""
VISUALIZE_S: Final = 5.0
"""Drawing; no part of it grows with the number of videos."""
BYTES_PER_FRAME: Final = 3000
"""Of compressed video on the web, 240p to 480p: what a listing's sizes say about its frames."""
CONVNET_FRAMES_PER_S_AT_224_PX: Final = {"efficientnet_lite0": 190.0, "vgg16": 4.0, "vgg16_torchvision": 4.0}


def lstm_flop(*, num_sequences: int, num_steps: int, num_inputs: int, num_units: int, num_layers: int) -> float:
    """Forward and backward, 2 FLOP a multiply-add, matrix products only: three times the forward pass."""
    weights = 4 * num_units * (num_inputs + num_units) + (num_layers - 1) * 8 * num_units**2
    return 3.0 * 2.0 * num_sequences * num_steps * weights


def extraction_seconds(convnet: str, input_px: int, num_frames: int) -> float | None:
    """None for a convnet that was never measured. Cost goes with the number of pixels, down to that of decoding."""
    at_224 = CONVNET_FRAMES_PER_S_AT_224_PX.get(convnet)
    if at_224 is None:
        return None
    return num_frames / min(DECODED_FRAMES_PER_S, at_224 * (224 / input_px) ** 2)
