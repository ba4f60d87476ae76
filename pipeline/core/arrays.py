"""NumPy arrays as `.npy` files on any store: equal arrays give equal bytes, and a local file is mapped, not read."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import local_copy, open_atomic


def write_array(uri: str, array: npt.NDArray[Any]) -> None:
    """Writes the array, atomically, in C order."""
    with open_atomic(uri) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def map_array(uri: str) -> npt.NDArray[Any]:
    """Maps the array, read-only; a remote file is fetched first, and its copy is deleted with the array.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptArtifact: it is no .npy file, or is cut short.
    """
    with local_copy(uri) as path:
        try:
            # An unlinked copy stays mapped until the last view of it is gone.
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise CorruptArtifact(f"{uri} is not a whole .npy file ({error}): make it again") from error
    return array
