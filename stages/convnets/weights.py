"""Weights of convnets: from a path, a URL or hf://, checked by sha256 before anything reads them, never unpickled.

`.safetensors` files, and published `.pth` files through torch's `weights_only` reader, which builds tensors and
nothing else.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.addresses.hub import hub_address
from pipeline.core.errors import ConfigError, DigestError, SourceError
from pipeline.core.files import local_copy, sha256_file

if TYPE_CHECKING:  # torch takes seconds to import, and a digest needs none
    from torch import Tensor


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
        self._compare(digest(self.uri))

    def _compare(self, actual: str) -> None:
        if actual != self.sha256:
            raise DigestError(
                f"weights {self.uri} have sha256 {actual}, not {self.sha256}; "
                "fetch the right file, or name this digest if you trust it"
            )

    def load(self) -> Mapping[str, Tensor]:
        """Loads the checkpoint's tensors by name, on the CPU; what is read is what `check` would have checked.

        Raises:
            DigestError, SourceError: as `check`.
            ConfigError: neither a safetensors file nor a checkpoint that holds tensors alone.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        with _weights_file(self.uri) as path:
            self._compare(sha256_file(str(path)))
            try:
                if path.suffix == ".safetensors":
                    return load_file(path)
                state = torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
                raise ConfigError(
                    f"weights {self.uri} cannot be read: give .safetensors, or a .pth that holds a dict of tensors"
                ) from error
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ConfigError(f"weights {self.uri} are not a dict of tensors; save the state_dict() and name that")
        return state


def digest(uri: str) -> str:
    """Returns the sha256 of a weights file.

    Raises:
        SourceError: no such file, or it cannot be reached.
    """
    with _weights_file(uri) as path:
        return sha256_file(str(path))


@contextmanager
def _weights_file(uri: str) -> Iterator[Path]:
    """Yields a local path of the file, fetched once. Raises SourceError."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(local_copy(hub_address(uri)))
            path.open("rb").close()
        except FileNotFoundError as error:
            raise SourceError(f"there are no weights at {uri}; give a .safetensors or .pth file") from error
        except Exception as error:  # fsspec's back ends raise the exceptions of their client libraries
            raise SourceError(f"weights {uri} cannot be read: {str(error) or type(error).__name__}") from error
        yield path
