"""Reports of a running training: one line of progress, and points of curves, at most one of each a second."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from pipeline.core.workers import TrainWorker

SECONDS_BETWEEN_REPORTS = 1.0


class Telemetry:
    """The reports of the worker of rank 0; those of the others are dropped."""

    def __init__(self, worker: TrainWorker, num_steps: int, batch_size: int, num_sequences: int | None = None) -> None:
        self._worker, self._num_steps, self._batch_size = worker, num_steps, batch_size
        self._num_sequences = num_sequences
        self._before = (time.monotonic(), 0, 0.0)

    def begin(self, step: int) -> None:
        """Starts the clock before step `step`."""
        self._before = (time.monotonic(), step, 0.0)

    def report(self, num_done: int, point: Mapping[str, float | None], seconds_waited: float) -> None:
        """Reports that `num_done` steps are done.

        point: the newest of the training curve. seconds_waited: total time in which the model had no data.
        """
        now, (before, done_before, waited_before) = time.monotonic(), self._before
        if self._worker.rank or (now - before < SECONDS_BETWEEN_REPORTS and num_done < self._num_steps):
            return
        self._before = (now, num_done, seconds_waited)
        elapsed = max(now - before, 1e-9)
        values = {name: value for name, value in point.items() if name != "step" and value is not None}
        values["sequences_per_second"] = (num_done - done_before) * self._batch_size / elapsed
        values["sequences"] = float(num_done * self._batch_size)
        values["seconds_waited"] = seconds_waited
        values["waiting_for_data"] = (seconds_waited - waited_before) / elapsed
        if self._num_sequences is not None:
            values["passes"] = num_done * self._batch_size / self._num_sequences
        if self._worker.device.type == "cuda":
            values["gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated(self._worker.device))
        self._worker.progress(num_done, self._num_steps, "steps", _note(values))
        step = point["step"]
        assert step is not None
        self._worker.metrics(int(step), **values)


def _note(values: Mapping[str, float]) -> str:
    words = [
        f"loss {values['loss']:.4g}",
        f"{values['sequences_per_second']:,.0f} sequences/s",
        f"{values['waiting_for_data']:.0%} waiting for data",
        f"gradient {values['gradient_norm']:.3g}",
        f"rate {values['learning_rate']:.2g}",
    ]
    if "passes" in values:
        words.insert(1, f"{values['passes']:.2g} passes")
    if "gpu_memory_bytes" in values:
        words.append(f"GPU {values['gpu_memory_bytes'] / 2**30:.1f} GiB")
    return ", ".join(words)
