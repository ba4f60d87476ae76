"""The answer of a classifier for a video. Nothing here imports PyTorch.

Shapes: W windows, C classes.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

NUM_TOP: Final = 5
"""The default number of actions that an answer names."""


@dataclass(frozen=True)
class VideoAnswer:
    """Actions and probabilities over time."""

    class_names: tuple[str, ...]
    probabilities_WC: Floats
    start_us_W: npt.NDArray[np.int64]
    """The time of each window's first frame, in microseconds."""
    end_us_W: npt.NDArray[np.int64]
    """The time at which each window's last frame ends, in microseconds."""

    @property
    def overall(self) -> Floats:
        """The probabilities of the whole video, (C,)."""
        mean_C: Floats = self.probabilities_WC.mean(0)
        return mean_C

    @property
    def action(self) -> str:
        """The most probable class of the whole video."""
        return self.class_names[int(self.overall.argmax())]

    @property
    def probability(self) -> float:
        """The probability of `action`."""
        return float(self.overall.max())

    def top(self, num: int = NUM_TOP) -> list[int]:
        """Returns the numbers of the `num` most probable classes of the whole video, best first."""
        return [int(number) for number in np.argsort(-self.overall, kind="stable")[:num]]

    def to_json(self, num_top: int = NUM_TOP) -> dict[str, Any]:
        """Returns plain values: action, probability, the `num_top` best actions, and a timeline of windows' best."""
        windows = zip(self.start_us_W.tolist(), self.end_us_W.tolist(), self.probabilities_WC, strict=True)
        return {
            "action": self.action,
            "probability": self.probability,
            "actions": self._named(self.overall, num_top),
            "timeline": [
                {"start_s": start / 1e6, "end_s": end / 1e6, "actions": self._named(window_C, num_top)}
                for start, end, window_C in windows
            ],
        }

    def _named(self, probabilities_C: Floats, num_top: int) -> list[dict[str, Any]]:
        best = np.argsort(-probabilities_C, kind="stable")[:num_top].tolist()
        return [{"action": self.class_names[c], "probability": float(probabilities_C[c])} for c in best]
