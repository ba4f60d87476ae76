"""A pretrained composite as one file that stands alone: weights, config, and how its input was standardised.

It is a model file as any other (`stages.models.load_encoder` reads it); the standardisation lies in its header.

Shapes: N windows, T frames of a window, D frame dimensions, L layers, H units, R = 2 * L * H.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import CorruptArtifact
from pipeline.files import join
from stages.models.composite import Composite
from stages.models.weights import MODEL_FILE, load_encoder, read_tensors, write_tensors
from stages.percepts.standardisation import Standardisation

Array = npt.NDArray[np.float32]

HEADER_KEY = "standardise"


@dataclass(frozen=True)
class Pretrained:
    """The model, and what its input goes through first: None for frames that are read as they are."""

    composite: Composite
    standardisation: Standardisation | None = None

    def __post_init__(self) -> None:
        assert self.standardisation is None or len(self.standardisation.mean_D) == self.composite.config.dim

    def save(self, uri: str) -> None:
        """Writes the file, atomically; equal models give equal bytes."""
        header: dict[str, Any] = {
            "class": type(self.composite).__name__,
            "config": dataclasses.asdict(self.composite.config),
        }
        if self.standardisation is not None:
            # A float32 survives the way through a JSON double unchanged.
            rule = self.standardisation
            header[HEADER_KEY] = {"mean": rule.mean_D.tolist(), "scale": rule.scale_D.tolist()}
        write_tensors(uri, self.composite.state_dict(), header)

    @classmethod
    def load(cls, uri: str, *, device: str = "cpu") -> Self:
        """Reads a file that `save` wrote, or the model.safetensors in the directory `uri`.

        Raises:
            SourceError, StoreError, CorruptArtifact: as `stages.models.weights.load_model`.
        """
        uri = uri if uri.endswith(".safetensors") else join(uri, MODEL_FILE)
        composite = load_encoder(uri, device=device)
        found = read_tensors(uri)[1].get(HEADER_KEY)
        if found is None:
            return cls(composite)
        mean_D, scale_D = (np.array(found[name], np.float32) for name in ("mean", "scale"))
        if not mean_D.shape == scale_D.shape == (composite.config.dim,):
            raise CorruptArtifact(f"{uri}: its standardisation is not for frames of {composite.config.dim} dimensions")
        return cls(composite, Standardisation(mean_D, scale_D))

    def standardise(self, x: Tensor) -> Tensor:
        """(..., D) as the videos give it -> as the model reads it, float32."""
        return x.float() if self.standardisation is None else self.standardisation(x)

    @torch.no_grad()
    def represent(self, x_NTD: Array) -> Array:
        """The representation (N, R) of windows as the videos give them: h, then c, of layer 1, then of layer 2 ..."""
        device = next(self.composite.parameters()).device
        x_TND = self.standardise(torch.from_numpy(x_NTD).to(device)).transpose(0, 1).contiguous()
        parts_NH = [part_GNH[0] for layer in self.composite.encode(x_TND) for part_GNH in layer]
        represented: Array = torch.cat(parts_NH, dim=1).float().cpu().numpy()
        return represented
