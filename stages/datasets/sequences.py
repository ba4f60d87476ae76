"""Sources of training sequences: the same interface over Moving MNIST, patches and percepts.

The sequences of step s of a run are a pure function of (seed, s, global batch size). A worker reads its share of the
global batch, so that neither a restart nor another number of workers changes what the model sees.

Shapes: T frames, B sequences of a batch, D dimensions of a frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from stages.datasets import moving_mnist
from stages.datasets.moving_mnist import Images
from stages.datasets.patches import NUM_DIMS, ChannelMoments, Patch
from stages.percepts.transforms import Standardisation, Transform
from stages.percepts.windows import WindowOrder, Windows
from stages.video.ledger import VideoRecord

Frames = npt.NDArray[np.float32]

VALIDATION_SEED = 0
"""Validation sequences are the same for every run, whatever its seed, so that runs can be compared."""


class SequenceSource(Protocol):
    """Training sequences by step, and a fixed set of validation sequences."""

    @property
    def dim(self) -> int:
        """D, the dimensions of a frame."""
        ...

    @property
    def num_frames(self) -> int:
        """T, the frames of a sequence."""
        ...

    @property
    def num_sequences(self) -> int | None:
        """Different training sequences that there are; None where there is no end."""
        ...

    @property
    def amounts(self) -> Mapping[str, int | float | str]:
        """Facts on how much is learned from and validated on, such as `training/num_videos`, as far as known."""
        ...

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Frames:
        """Returns worker `rank`'s share of the global batch of step `step`: (T, B, D) float32, contiguous."""
        ...

    def validation_batches(self) -> Iterator[Frames]:
        """Yields the validation sequences, always the same, in pieces of (T, at most `validation_batch`, D)."""
        ...

    def check_unchanged(self) -> None:
        """Raises CorruptArtifact where what is read is no longer what was opened."""
        ...

    def digest(self) -> str:
        """Returns a digest of the data that must not change when a training is resumed; empty where it cannot."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """A source that can make a batch on a GPU better than by copying `batch` there."""

    def batch_on(self, device: torch.device, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Returns `batch` as a tensor on `device`, ready for any stream."""
        ...


class _PinnedMemory:
    """Memory of the host that batches pass on their way to a GPU, one after the other: the fastest way there."""

    def __init__(self) -> None:
        self._kept: dict[tuple[tuple[int, ...], torch.dtype], Tensor] = {}

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns a tensor for batches that go to `device`, the same one each time."""
        if (shape, dtype) not in self._kept:
            self._kept[shape, dtype] = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
        return self._kept[shape, dtype]


def _wait_for(device: torch.device) -> None:
    """Waits until what was launched on the current stream is done: pinned memory is free again."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _ids(
    source: PatchesSource | PerceptSource, step: int, batch_size: int, rank: int, world_size: int
) -> npt.NDArray[np.int64]:
    """Returns (B,) numbers, in `train`, of the sequences of a worker's share of a step."""
    order = WindowOrder(num_windows=source.num_sequences, global_batch=batch_size, seed=source.seed)
    return order.ids(step)[share(batch_size, rank, world_size)]


def share(batch_size: int, rank: int, world_size: int) -> slice:
    """Returns the slice of a global batch that is worker `rank`'s share; shares differ by at most one sequence.

    Raises:
        ConfigError: there are more workers than sequences.
    """
    if batch_size < world_size:
        raise ConfigError(
            f"a batch of {batch_size} sequences cannot be shared by {world_size} workers: "
            f"give batch_size >= {world_size}"
        )
    assert 0 <= rank < world_size
    return slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)


@dataclass(frozen=True, kw_only=True)
class MovingMNISTSource:
    """Endless Moving MNIST; D = 4096, pixels in [0, 1]. Validation moves digits that training never sees."""

    train: Images
    """(N, 28, 28) uint8."""
    validation: Images
    seed: int = 0
    num_frames: int = 20
    num_digits: int = 2
    num_validation: int = 1000
    validation_batch: int = 100
    dim: int = moving_mnist.NUM_PIXELS
    num_sequences: None = None
    amounts: Mapping[str, int | float | str] = field(default_factory=dict)

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Frames:
        return moving_mnist.draw_unit(self.train, self._scenes(step, batch_size, rank, world_size))

    def batch_on(self, device: torch.device, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Draws `batch` on `device`, where the digits stay; faster than a copy where the GPU outruns the CPU cores."""
        key = str(device)
        if key not in self._on_device:
            self._on_device[key] = torch.from_numpy(self.train).to(device)
        return moving_mnist.draw_on_device(self._on_device[key], self._scenes(step, batch_size, rank, world_size))

    def validation_batches(self) -> Iterator[Frames]:
        for first in range(0, self.num_validation, self.validation_batch):
            yield moving_mnist.sequences(
                self.validation,
                seed=VALIDATION_SEED,
                stream="validation",
                first=first,
                num=min(self.validation_batch, self.num_validation - first),
                num_frames=self.num_frames,
                num_digits=self.num_digits,
            )

    def check_unchanged(self) -> None:
        """Does nothing: the digits are in memory."""

    def digest(self) -> str:
        return ""

    @cached_property
    def _on_device(self) -> dict[str, Tensor]:
        return {}

    def _scenes(self, step: int, batch_size: int, rank: int, world_size: int) -> moving_mnist.Scenes:
        rows = share(batch_size, rank, world_size)
        return moving_mnist.scenes(
            len(self.train),
            seed=self.seed,
            stream="train",
            first=step * batch_size + rows.start,
            num=rows.stop - rows.start,
            num_frames=self.num_frames,
            num_digits=self.num_digits,
        )


@dataclass(frozen=True, kw_only=True)
class PatchesSource:
    """Patches of video, standardised per channel; D = 3072. Epochs are permutations (`WindowOrder`)."""

    train: Patch
    """(N, at least T, 32, 32, 3) uint8, in memory or mapped."""
    validation: Patch
    moments: ChannelMoments
    num_frames: int = 29
    seed: int = 0
    validation_batch: int = 100
    dim: int = NUM_DIMS

    def __post_init__(self) -> None:
        if self.num_frames > self.train.shape[1]:
            raise ConfigError(
                f"the patches were cut {self.train.shape[1]} frames long, the model wants {self.num_frames}: "
                "cut longer ones"
            )

    @property
    def num_sequences(self) -> int:
        return len(self.train)

    @property
    def amounts(self) -> Mapping[str, int | float | str]:
        return {"training/num_sequences": len(self.train), "validation/num_sequences": len(self.validation)}

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Frames:
        ids_B = _ids(self, step, batch_size, rank, world_size)
        return self.moments.standardise(self.train[ids_B, : self.num_frames])

    def batch_on(self, device: torch.device, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Returns `batch` on a GPU, (T, B, D) float32, to the bit; not thread-safe.

        A quarter of the bytes go there, and it standardises them: a core needs longer for that than a GPU for the step.
        """
        ids_B = _ids(self, step, batch_size, rank, world_size)
        pinned_BTPPC = self._pinned.tensor((len(ids_B), self.num_frames, *self.train.shape[2:]), torch.uint8, device)
        for patch_TPPC, number in zip(pinned_BTPPC.numpy(), ids_B, strict=True):
            patch_TPPC[:] = self.train[number, : self.num_frames]
        bytes_TBD = pinned_BTPPC.to(device, non_blocking=True).flatten(2).transpose(0, 1)
        x_TBD = Standardisation(*self.moments.of_frame)(bytes_TBD.contiguous())
        _wait_for(device)
        return x_TBD

    @cached_property
    def _pinned(self) -> _PinnedMemory:
        return _PinnedMemory()

    def validation_batches(self) -> Iterator[Frames]:
        for first in range(0, len(self.validation), self.validation_batch):
            piece = self.validation[first : first + self.validation_batch, : self.num_frames]
            yield self.moments.standardise(piece)

    def check_unchanged(self) -> None:
        """Does nothing: the patches are files of an artifact, which never change."""

    def digest(self) -> str:
        return ""


@dataclass(frozen=True, kw_only=True)
class PerceptSource:
    """Windows of percepts, transformed. Not to be pickled: open the store where it is used."""

    train: Windows
    validation: Windows
    transform: Transform
    seed: int = 0
    validation_batch: int = 64
    amounts: Mapping[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.train.length == self.validation.length

    @property
    def dim(self) -> int:
        return self.train.store.dim

    @property
    def num_frames(self) -> int:
        return self.train.length

    @property
    def num_sequences(self) -> int:
        return len(self.train)

    def ids(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> npt.NDArray[np.int64]:
        """Returns (B,) numbers, in `train`, of the windows of a worker's share of a step."""
        return _ids(self, step, batch_size, rank, world_size)

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Frames:
        return self.train.gather(self.ids(step, batch_size, rank, world_size), transform=self.transform)

    def batch_on(self, device: torch.device, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Returns `batch` on a GPU, (T, B, D) float32; not thread-safe.

        float16 is copied from the map into pinned memory and from there to the GPU, on the caller's stream, and is
        transformed there.
        """
        ids_B = self.ids(step, batch_size, rank, world_size)
        pinned_BTD = self._pinned.tensor((len(ids_B), self.num_frames, self.dim), torch.float16, device)
        self.train.gather_half(ids_B, pinned_BTD)
        half_TBD = pinned_BTD.to(device, non_blocking=True).transpose(0, 1).contiguous()
        x_TBD = self.transform(half_TBD)
        _wait_for(device)
        return x_TBD

    def validation_batches(self) -> Iterator[Frames]:
        for first in range(0, len(self.validation), self.validation_batch):
            end = min(first + self.validation_batch, len(self.validation))
            yield self.validation.gather(np.arange(first, end), transform=self.transform)

    def check_unchanged(self) -> None:
        self.train.store.check_unchanged()

    def digest(self) -> str:
        index = self.train.store.index
        return "" if index is None else index.sha256

    @cached_property
    def _pinned(self) -> _PinnedMemory:
        return _PinnedMemory()


def hold_out(records: Iterable[VideoRecord], *, portion: float, seed: int) -> tuple[list[str], list[str]]:
    """Divides videos into (kept, held out), by sha256, in the records' order; a group is never divided.

    Groups are ranked by a hash of (seed, group): the order of the records changes nothing, and a video that comes
    later moves few others. portion: share of the groups to hold out; at least one group is.

    Raises:
        ConfigError: there is a single group, so that nothing would be left.
    """
    group_of = {record.sha256: record.group or record.sha256 for record in records}
    is_out = hold_out_groups(group_of.values(), portion=portion, seed=seed)
    return list(compress(group_of, ~is_out)), list(compress(group_of, is_out))


def hold_out_groups(groups: Iterable[str], *, portion: float, seed: int) -> npt.NDArray[np.bool_]:
    """Returns (V,) bool, True where `hold_out` holds out a video of the group; 32 bytes a video. Raises alike."""
    hashes = b"".join(hashlib.sha256(f"{seed} {group}".encode()).digest() for group in groups)
    rank_V = np.frombuffer(hashes, "S32")
    rank_G = np.unique(rank_V)
    num_out = max(1, round(portion * len(rank_G)))
    if num_out >= len(rank_G):
        raise ConfigError(
            f"holding out {portion:g} of {len(rank_G)} video groups leaves none to train on: give more videos, or less"
        )
    is_out_V: npt.NDArray[np.bool_] = rank_V <= rank_G[num_out - 1]
    return is_out_V
