"""A pretrained composite as one file that stands alone: weights, config, the transform and extractor of its input.

    encoder = load_encoder("models:/walks@best")        # or a path or URL of a pretrain artifact
    embeddings_NR = encoder.embed("clip.mp4")           # decode, percepts, transform, encode

All but the weights lies in the header of the safetensors file.

Shapes: N windows, T frames of a window, B sequences, D frame dimensions, L layers, H units, R = 2 * L * H.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.addresses.model_uris import resolve
from pipeline.core.errors import ConfigError, CorruptArtifact, SourceError
from pipeline.core.stage import config_dict
from stages.models.composite import Composite
from stages.models.header import check_kind, model_file
from stages.models.weights import build_model, read_tensors, write_tensors
from stages.percepts.schema import Extractor
from stages.percepts.transforms import Transform, of_header, to_header
from stages.percepts.windows import window_starts

Array = npt.NDArray[np.float32]

TRANSFORM_KEY, EXTRACTOR_KEY = "transform", "extractor"
WINDOWS_AT_ONCE = 256


@dataclass(frozen=True)
class Pretrained:
    """The model, and the transform and extractor of its input."""

    composite: Composite
    transform: Transform | None = None
    """The transform that a frame goes through first; None: none."""
    extractor: Extractor | None = None
    """The extractor of the percepts that it learned from; None: it learned from pixels."""

    def __post_init__(self) -> None:
        assert self.transform is None or self.transform.dim == self.composite.config.dim
        assert self.extractor is None or self.extractor.dim == self.composite.config.dim

    def save(self, uri: str) -> None:
        """Writes the file, atomically; equal models give equal bytes."""
        header: dict[str, Any] = {"class": Composite.__name__, "config": config_dict(self.composite.config)}
        if self.transform is not None:
            header[TRANSFORM_KEY] = to_header(self.transform)
        if self.extractor is not None:
            header[EXTRACTOR_KEY] = {"fingerprint": self.extractor.fingerprint, "settings": self.extractor.settings}
        write_tensors(uri, self.composite.state_dict(), header)

    @classmethod
    def load(cls, uri: str, *, device: str = "cpu") -> Self:
        """Reads a file that `save` wrote.

        uri: the file, a directory that holds model.safetensors, a model of a hub (`hf://OWNER/NAME[@REVISION]`), or an
          MLflow model: a path, any fsspec URL, `models:/...` or `runs:/...`.

        Raises:
            SourceError: there is no such file, or it holds another kind of model.
            StoreError: a newer version of percepts wrote it.
            CorruptArtifact: it is no model file, or its weights do not fit its config.
            UsageError: MLflow has no such model.
        """
        uri = model_file(resolve(uri))
        tensors, header = read_tensors(uri, device=device)
        check_kind(header, "encoder", uri)
        composite = build_model(tensors, Composite.__name__, header.get("config", {}), uri)
        assert isinstance(composite, Composite)
        made_by: dict[str, Any] | None = header.get(EXTRACTOR_KEY)
        try:
            transform = of_header(header[TRANSFORM_KEY]) if TRANSFORM_KEY in header else None
            extractor = None if made_by is None else Extractor(made_by["settings"], composite.config.dim)
            if made_by is not None and extractor is not None and extractor.fingerprint != made_by["fingerprint"]:
                raise CorruptArtifact(f"{uri}: the fingerprint of its extractor is not that of the settings beside it")
            return cls(composite, transform, extractor)
        except (KeyError, TypeError, AssertionError) as error:
            raise CorruptArtifact(
                f"{uri}: its header does not fit a model of {composite.config.dim} dimensions ({error!r})"
            ) from error

    def standardise(self, x: Tensor) -> Tensor:
        """Transforms frames (..., D) of the videos into what the model reads, float32."""
        return x.float() if self.transform is None else self.transform(x)

    def in_units(self, x: Array) -> Array:
        """Transforms frames (..., D) that the model wrote into the units of the videos."""
        return x if self.transform is None else self.transform.inverse(x)

    @torch.no_grad()
    def represent(self, x_NTD: Array) -> Array:
        """Returns the representations (N, R) of windows of the videos: h, then c, of layer 1, then of layer 2 ..."""
        device = next(self.composite.parameters()).device
        x_TND = self.standardise(torch.from_numpy(x_NTD).to(device)).transpose(0, 1).contiguous()
        parts_NH = [part_GNH[0] for layer in self.composite.encode(x_TND) for part_GNH in layer]
        represented: Array = torch.cat(parts_NH, dim=1).float().cpu().numpy()
        return represented

    def embed(self, video: str, *, stride: int | None = None, weights: str | None = None) -> Array:
        """Returns the representations (N, R) of the windows of a video file, in order; none crosses a gap.

        video: path or fsspec URL. stride: frames from one window to the next; default: as many as a window has.
        weights: of the convnet, where they are of no package that is installed.

        Raises:
            ConfigError: the model learned from pixels, or `stride` is below 1.
            SourceError: there is no such video, it cannot be decoded, or no run of its frames is as long as a window.
            DigestError: the convnet at hand is not the one that made what the model learned from.
        """
        from stages.extraction.single_video import read_video  # PyAV and a convnet: only where a video is read

        if self.extractor is None:
            raise ConfigError("this model learned from pixels, not from percepts: it has no extractor to embed with")
        length = self.composite.config.num_frames_in
        stride = length if stride is None else stride
        if stride < 1:
            raise ConfigError(f"stride is {stride}; it must be at least 1")
        seen = read_video(video, self.extractor, weights=weights)
        start_N = window_starts(seen.segment_N, length, stride)
        if not len(start_N):
            raise SourceError(
                f"{video} has {len(seen.segment_N)} frames, and no run of {length} without a gap, which a window takes"
            )
        pieces = np.split(start_N, range(WINDOWS_AT_ONCE, len(start_N), WINDOWS_AT_ONCE))
        windows = (seen.percepts_ND[start[:, None] + np.arange(length)].astype(np.float32) for start in pieces)
        return np.concatenate([self.represent(x_NTD) for x_NTD in windows])


def load_encoder(uri: str, *, device: str = "cpu") -> Pretrained:
    """Loads the pretrained encoder at `uri`, on `device`. Raises what `Pretrained.load` raises.

    uri: `models:/NAME@ALIAS`, `models:/m-<id>`, `hf://OWNER/NAME[@REVISION]` as `percepts publish` and an upload make
      it, or a path or fsspec URL of its file or of the directory that holds it.
      The MLflow is that of `MLFLOW_TRACKING_URI` where it is set, else that of the store in `.percepts`.
    """
    return Pretrained.load(uri, device=device)
