"""Authority: np.load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.arrays import map_array, write_array
from pipeline.core.errors import CorruptArtifact


@pytest.mark.parametrize("root", ["local", "memory"])
def test_arrays_come_back(tmp_path: Path, root: str) -> None:
    uri = f"{tmp_path}/a.npy" if root == "local" else f"memory://{tmp_path.name}/a.npy"
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)[:, ::2]
    write_array(uri, array)
    found = map_array(uri)
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable
    if root == "local":
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(np.load(uri), array)


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(3, 4)
    write_array(f"{tmp_path}/a.npy", array)
    write_array(f"{tmp_path}/b.npy", np.asfortranarray(array))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.parametrize("data", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_what_is_no_array_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(CorruptArtifact, match=r"not a whole \.npy file"):
        map_array(f"{tmp_path}/a.npy")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    write_array(f"{tmp_path}/a.npy", np.zeros(1000))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-8])
    with pytest.raises(CorruptArtifact, match=r"not a whole \.npy file"):
        map_array(f"{tmp_path}/a.npy")
