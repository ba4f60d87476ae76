"""Weights of convnets: from a URI, checked by sha256 before anything reads them, never unpickled.

`.safetensors` files, and published `.pth` files through torch's `weights_only` reader, which builds tensors and
nothing else.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.core.errors import ConfigError, DigestError, SourceError
from pipeline.core.files import local_copy, sha256_file


@dataclass(frozen=True)
class Weights:
    """A checkpoint file and the sha256 that its bytes have."""

    uri: str
    sha256: str

    def check(self) -> None:
        """Reads the file once and compares its digest.

        Raises:
            DigestError: other bytes than promised.
            SourceError: no such file.
        """
        actual = digest(self.uri)
        if actual != self.sha256:
            raise DigestError(
                f"weights {self.uri} have sha256 {actual}, not {self.sha256}; "
                "fetch the right file, or name this digest if you trust it"
            )

    def load(self) -> Mapping[str, Tensor]:
        """Loads the checkpoint's tensors by name, on the CPU, after `check`.

        Raises:
            DigestError, SourceError: as `check`.
            ConfigError: neither a safetensors file nor a checkpoint that holds tensors alone.
        """
        self.check()
        with local_copy(self.uri) as path:
            try:
                if path.suffix == ".safetensors":
                    return load_file(path)
                state = torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
                raise ConfigError(
                    f"weights {self.uri} cannot be read: give .safetensors, or a .pth that holds a dict of tensors"
                ) from error
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ConfigError(f"weights {self.uri} are not a dict of tensors; save the state_dict() and name that")
        return state


def digest(uri: str) -> str:
    """Returns the sha256 of a weights file.

    Raises:
        SourceError: no such file.
    """
    try:
        return sha256_file(uri)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise SourceError(f"there are no weights at {uri}; give a .safetensors or .pth file") from error
