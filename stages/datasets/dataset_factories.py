"""Dataset factories of training workers: small values that pickle, and open the data where they are called.

Shapes: D dimensions of a frame.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import ConfigError
from stages.datasets.artifacts import Digits, Patches
from stages.datasets.moving_mnist import NUM_PIXELS
from stages.datasets.patches import NUM_DIMS
from stages.datasets.sequences import MovingMNISTSource, PatchesSource, PerceptSource, hold_out
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.node_cache import Log, NodeCache, silent
from stages.percepts.reader import PerceptStore
from stages.percepts.schema import Extractor
from stages.percepts.transforms import Standardisation, Transform, TransformConfig
from stages.percepts.windows import Windows
from stages.video.ledger import amounts_of


@dataclass(frozen=True, kw_only=True)
class PerceptsFactory:
    """Windows of the videos of some parts; some videos are held out for validation, in whole groups."""

    percepts: Percepts
    statistics: Statistics
    parts: tuple[str, ...]
    num_frames: int
    stride: int
    validation_fraction: float
    seed: int
    transform_config: TransformConfig = TransformConfig()
    learned_transform: Transform | None = None
    """The transform that a model to go on from reads through; None: that of `transform_config` and the statistics."""

    def __call__(self, log: Log = silent) -> PerceptSource:
        """Opens the store; a remote one is read into this node's cache first, which is reported to `log`.

        Raises:
            SourceError: no video with frames is of these parts.
            ConfigError: no video is as long as a window, or those that are make up a single group.
            CorruptArtifact, StoreError: see `stages.percepts.reader.open_store`.
        """
        store = self.percepts.open(parts=self.parts, cache=NodeCache.of_environment(log))
        long_enough = set(open_windows(store, self.num_frames, self.stride).videos)
        records = (record for record in self.percepts.iter_records() if record.sha256 in long_enough)
        kept, held_out = hold_out(records, portion=self.validation_fraction, seed=self.seed)
        return PerceptSource(
            train=Windows(store.select(kept), length=self.num_frames, stride=self.stride),
            validation=Windows(store.select(held_out), length=self.num_frames, stride=self.stride),
            transform=self.transform(),
            seed=self.seed,
            amounts=amounts_of(self.percepts.iter_records(), training=set(kept), validation=set(held_out)),
        )

    def extractor(self) -> Extractor:
        """Returns the extractor that computed the percepts."""
        return self.percepts.extractor()

    def dim(self) -> int:
        """Returns D, the dimensions of a frame."""
        return self.extractor().dim

    def transform(self) -> Transform:
        """Returns the learned transform, or builds the configured one from the statistics."""
        return self.learned_transform or self.transform_config.build(self.statistics.moments())


@dataclass(frozen=True, kw_only=True)
class DigitsFactory:
    """Moving MNIST, endless."""

    digits: Digits
    num_frames: int
    seed: int

    def __call__(self, log: Log = silent) -> MovingMNISTSource:
        """Reads the digits of the training and of the validation part."""
        train, validation = (self.digits.load(part).images for part in ("train", "validation"))
        return MovingMNISTSource(train=train, validation=validation, seed=self.seed, num_frames=self.num_frames)

    def extractor(self) -> None:
        """Returns None: no convnet comes before the model."""

    def dim(self) -> int:
        """Returns D, the dimensions of a frame."""
        return NUM_PIXELS

    def transform(self) -> None:
        """Returns None: pixels in [0, 1] are read as they are."""


@dataclass(frozen=True, kw_only=True)
class PatchesFactory:
    """Patches of natural video."""

    patches: Patches
    num_frames: int
    seed: int

    def __call__(self, log: Log = silent) -> PatchesSource:
        """Maps the patches. Raises ConfigError where they are shorter than `num_frames`."""
        return PatchesSource(
            train=self.patches.map("train"),
            validation=self.patches.map("validation"),
            moments=self.patches.moments(),
            num_frames=self.num_frames,
            seed=self.seed,
        )

    def extractor(self) -> None:
        """Returns None: no convnet comes before the model."""

    def dim(self) -> int:
        """Returns D, the dimensions of a frame."""
        return NUM_DIMS

    def transform(self) -> Standardisation:
        """Returns the standardisation of bytes, 0 to 255: that of the channels, repeated for every pixel."""
        return Standardisation(*self.patches.moments().of_frame)


def open_windows(store: PerceptStore, num_frames: int, stride: int) -> Windows:
    """Opens the windows of `num_frames` frames, of which there is at least one.

    Raises:
        ConfigError: every video is shorter, or has gaps.
    """
    windows = Windows(store, length=num_frames, stride=stride)
    if not len(windows):
        longest = int(np.diff(store.first_row_V).max())
        raise ConfigError(
            f"a window is {num_frames} frames long, and the longest of {len(store.videos)} videos has {longest} frames "
            "(no window crosses a gap): give fewer num_frames_in or num_frames_out, or longer videos"
        )
    return windows
