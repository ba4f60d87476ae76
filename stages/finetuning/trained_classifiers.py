"""Trained classifiers as files that stand alone: weights, standardisation, class names, and their training clips.

One safetensors file holds G classifiers of one shape, trained on G samplings; `TrainedClassifiers.select` cuts one out.

Shapes: G classifiers, N windows, T frames of a window, D percept dimension, C classes.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import CorruptArtifact
from stages.models.classifier import Classifier, build_classifier, clip_probabilities
from stages.models.composite import Composite
from stages.models.header import as_tuples, check_kind
from stages.models.weights import build_model, read_tensors, write_tensors
from stages.percepts.schema import Extractor
from stages.percepts.transforms import Transform, of_header, to_header

_FACTS = {
    **{name: name for name in ("class_names", "arm", "num_frames", "labels_per_class", "split", "samplings", "clips")},
    **{"search_clips": "consulted", "groups": "groups"},
}
"""Field -> its name in the header of a file."""
_WEIGHTS, _LOSSES = "classifier.", "losses"


@dataclass(frozen=True)
class TrainedClassifiers:
    """G classifiers and all that is needed to use, to compare and to trace them."""

    classifier: Classifier
    """The model, whose `config.num_members` is G."""
    transform: Transform
    """The transform of a percept to the classifiers' input: that of the encoder that they started from, if any."""
    class_names: tuple[str, ...]
    arm: str
    """Name of the model in tables."""
    num_frames: int
    """T of the windows that they were trained on."""
    labels_per_class: int
    """Label count; 0 (`ALL_CLIPS`): all training clips."""
    split: int
    """Number of the official split; 0: the parts of the videos' manifest."""
    samplings: tuple[int, ...]
    """Number of each classifier's sampling, G of them."""
    clips: tuple[tuple[str, ...], ...]
    """sha256 of the labelled clips of each sampling."""
    search_clips: tuple[str, ...]
    """sha256 of the clips of the search for settings: trained or evaluated on in a trial."""
    groups: tuple[str, ...]
    """Groups (`VideoRecord.group`) of all clips of the training and of the search."""
    losses_SG: npt.NDArray[np.float32]
    """Cross-entropy of each classifier at each of S training steps, nats."""
    encoder: str = ""
    """Key of the pretrained encoder that they started from; empty: random weights."""
    extractor: Extractor | None = None
    """The extractor of the percepts that they learned from, so that a video can be turned into such percepts."""

    def __post_init__(self) -> None:
        assert self.classifier.config.num_members == len(self.samplings) == len(self.clips) == self.losses_SG.shape[1]
        assert self.classifier.config.num_classes == len(self.class_names)
        assert self.transform.dim == self.classifier.config.dim

    def select(self, group: int) -> "TrainedClassifiers":
        """Returns one of the classifiers by itself: G = 1."""
        with torch.device("meta"):
            single = build_classifier(self.classifier.config.single())
        state = {name: tensor[group : group + 1].clone() for name, tensor in self.classifier.state_dict().items()}
        single.load_state_dict(state, assign=True)
        return dataclasses.replace(
            self,
            classifier=single.eval(),
            samplings=self.samplings[group : group + 1],
            clips=self.clips[group : group + 1],
            losses_SG=self.losses_SG[:, group : group + 1],
        )

    @torch.no_grad()
    def probabilities(self, x_TND: Tensor) -> Tensor:
        """Computes (G, N, C) of standardised windows: the mean over a window's frames of their softmaxes."""
        return clip_probabilities(self.classifier(x_TND[None]))

    def save(self, uri: str) -> None:
        """Writes the file, atomically; equal classifiers give equal bytes."""
        tensors = {_WEIGHTS + name: tensor for name, tensor in self.classifier.state_dict().items()}
        tensors[_LOSSES] = torch.from_numpy(self.losses_SG)
        header: dict[str, Any] = {key: getattr(self, name) for name, key in _FACTS.items()}
        header["transform"] = to_header(self.transform)
        if self.encoder:
            header["encoder"] = self.encoder
        model = {"name": type(self.classifier).__name__, "config": self.classifier.config.to_header()}
        if self.extractor is not None:
            header["extractor"] = {"settings": self.extractor.settings, "dim": self.extractor.dim}
        write_tensors(uri, tensors, {"class": "TrainedClassifiers", "classifier": model, **header})

    @classmethod
    def load(cls, uri: str, *, device: str = "cpu") -> "TrainedClassifiers":
        """Reads the file that `save` wrote; float32, in evaluation mode.

        Raises:
            SourceError, StoreError, CorruptArtifact: as `stages.models.weights.read_tensors`; SourceError also where
              the file holds another kind of model, CorruptArtifact where its weights do not fit their config.
        """
        tensors, header = read_tensors(uri)
        check_kind(header, "classifier", uri)
        lacking = sorted({*_FACTS.values(), "transform", "classifier"} - header.keys()) or sorted(
            {_LOSSES} - tensors.keys()
        )
        if lacking:
            raise CorruptArtifact(f"{uri} lacks {lacking[0]!r}: another version of percepts wrote it; finetune again")
        losses = tensors.pop(_LOSSES).numpy()
        state = {name.removeprefix(_WEIGHTS): tensor for name, tensor in tensors.items()}
        classifier = build_model(state, header["classifier"]["name"], header["classifier"]["config"], uri)
        if isinstance(classifier, Composite):
            raise CorruptArtifact(f"{uri} holds a Composite among its classifiers: give a file that finetune wrote")
        facts = {name: as_tuples(header[key]) for name, key in _FACTS.items()}
        return cls(
            classifier.to(device),
            of_header(header["transform"]),
            losses_SG=losses,
            encoder=header.get("encoder", ""),
            extractor=Extractor(**header["extractor"]) if "extractor" in header else None,
            **facts,
        )
