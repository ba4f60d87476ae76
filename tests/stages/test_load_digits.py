"""The digits stage: the parts on disk are those that were loaded, and the key knows MNIST's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import SourceError
from pipeline.core.files import list_files, read_bytes
from pipeline.core.stage import Context
from stages.datasets.mnist import PARTS, read_digits
from stages.digits_and_patches import LoadDigitsConfig, load_digits, mnist_snapshot
from tests.stages.datasets.test_mnist import write_mnist


def test_mnist_files_become_arrays_with_equal_bytes(tmp_path: Path) -> None:
    write_mnist(tmp_path, num_train=36, num_test=5)
    config = LoadDigitsConfig(mnist=str(tmp_path))
    one, other = (load_digits(config, Context.for_test(tmp_path / name)) for name in ("a", "b"))
    expected = read_digits(str(tmp_path))
    for part in PARTS:
        np.testing.assert_array_equal(one.load(part).images, expected[part].images)
        np.testing.assert_array_equal(one.load(part).labels, expected[part].labels)
        assert np.load(one.path(f"{part}.npy")).shape == (len(expected[part]), 28, 28)
    names = list_files(one.uri)
    assert names == sorted([f"{part}.npy" for part in PARTS] + [f"{part}_labels.npy" for part in PARTS])
    assert all(read_bytes(one.path(name)) == read_bytes(other.path(name)) for name in names)


def test_the_key_follows_the_files(tmp_path: Path) -> None:
    write_mnist(tmp_path, num_train=36, num_test=5)
    config = LoadDigitsConfig(mnist=str(tmp_path))
    before = mnist_snapshot(config)
    assert before == mnist_snapshot(config)
    write_mnist(tmp_path, num_train=36, num_test=6)
    assert mnist_snapshot(config) != before
    assert mnist_snapshot(LoadDigitsConfig()) is None


def test_a_folder_without_mnist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds neither train-images-idx3-ubyte"):
        mnist_snapshot(LoadDigitsConfig(mnist=str(tmp_path)))
