"""Action classifiers (sections 3.2 and 4.2): an LSTM with a softmax at every step, and its neighbours without order.

Both hold G independent classifiers of one shape (samplings, label counts, starts), which train as one batched job.
Shapes: G groups, T steps, B clips, D frame dimensions, H units, C classes.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.core.errors import ConfigError
from stages.models.composite import Composite
from stages.models.config import ClassifierKind, ClassifierSpec
from stages.models.lstm import LSTM, compute_dtype, uniform_fan_in_

IGNORED_LABEL = -100
"""A clip with this label adds nothing to the loss: groups may hold fewer clips than others."""


class EnsembleLinear(nn.Module):
    """G linear maps side by side: `weight` (G, N, D), `bias` (G, N)."""

    def __init__(self, num_inputs: int, num_outputs: int, *, num_members: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_members, num_outputs, num_inputs))
        self.bias = nn.Parameter(torch.zeros(num_members, num_outputs))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws uniform weights, and sets biases to zero."""
        uniform_fan_in_(self.weight, generator)
        nn.init.zeros_(self.bias)

    def forward(self, x_GTBD: Tensor) -> Tensor:
        """Maps (G or 1, T, B, D) to (G, T, B, N)."""
        num_members, num_outputs, num_inputs = self.weight.shape
        num_steps, batch = x_GTBD.shape[1:3]
        dtype = compute_dtype(self.weight)
        x_GRD = x_GTBD.to(dtype).expand(num_members, -1, -1, -1).reshape(num_members, num_steps * batch, num_inputs)
        y_GRN = torch.baddbmm(self.bias.to(dtype).unsqueeze(1), x_GRD, self.weight.to(dtype).mT)
        return y_GRN.view(num_members, num_steps, batch, num_outputs)


class _Ensemble(nn.Module):
    """The parts that all classifiers share. Layers are made, and their weights drawn, in the order of the data."""

    def __init__(self, config: ClassifierSpec) -> None:
        super().__init__()
        self.config = config
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew: every group another draw."""
        for layer in self.children():
            if isinstance(layer, LSTM | EnsembleLinear):
                layer.reset_parameters(generator)

    def each_member(self, x_GTBD: Tensor) -> Tensor:
        """Expands shared frames to every group, so that each draws its own dropout; a view, no copy."""
        if x_GTBD.shape[-1] != self.config.dim:
            raise ValueError(f"frames have {x_GTBD.shape[-1]} dimensions; this classifier reads {self.config.dim}")
        return x_GTBD.expand(self.config.num_members, -1, -1, -1)

    def _linear(self, num_inputs: int, num_outputs: int | None = None) -> EnsembleLinear:
        """Makes a layer; without `num_outputs`, that of the classes."""
        config = self.config
        return EnsembleLinear(num_inputs, num_outputs or config.num_classes, num_members=config.num_members)


class LSTMClassifier(_Ensemble):
    """Frames -> LSTM -> a softmax at every step."""

    def __init__(self, config: ClassifierSpec) -> None:
        super().__init__(config)
        self.lstm = LSTM(
            config.dim,
            config.num_units,
            config.num_layers,
            num_groups=config.num_members,
            dropout=config.dropout,
            forget_bias=config.forget_bias,
        )
        self.output = self._linear(config.num_units)

    @torch.no_grad()
    def start_from(self, encoder: Composite) -> None:
        """Copies the encoder's weights into the LSTM of every group; the output layer stays.

        Raises:
            ConfigError: the encoder has another frame dimension, number of units or of layers.
        """
        given, needed = ((c.dim, c.num_units, c.num_layers) for c in (encoder.config, self.config))
        if given != needed:
            raise ConfigError(f"the encoder has (dim, units, layers) {given}, the classifier {needed}: make them equal")
        lstm_parameters = dict(self.lstm.named_parameters())
        for name, parameter in encoder.encoder.named_parameters():
            lstm_parameters[name].copy_(parameter.expand_as(lstm_parameters[name]))

    def forward(self, x_GTBD: Tensor) -> Tensor:
        """Returns logits of every step, (G, T, B, C), of frames (G, T, B, D), or (1, T, B, D) shared by every group."""
        h_GTBH, _ = self.lstm(self.input_dropout(self.each_member(x_GTBD)))
        logits_GTBC: Tensor = self.output(self.dropout(h_GTBH))
        return logits_GTBC


class SingleFrameClassifier(_Ensemble):
    """Each frame by itself -> a softmax; what a clip is, is the mean over its frames, as for the LSTM."""

    def __init__(self, config: ClassifierSpec) -> None:
        super().__init__(config)
        num_hidden = config.num_hidden_units
        self.hidden = self._linear(config.dim, num_hidden) if num_hidden else None
        self.output = self._linear(num_hidden or config.dim)

    def forward(self, x_GTBD: Tensor) -> Tensor:
        """Returns logits of every frame, (G, T, B, C), of frames (G, T, B, D), or (1, T, B, D) shared by all groups."""
        x_GTBD = self.input_dropout(self.each_member(x_GTBD))
        if self.hidden is not None:
            x_GTBD = self.dropout(self.hidden(x_GTBD).relu())
        logits_GTBC: Tensor = self.output(x_GTBD)
        return logits_GTBC


class MeanFramesClassifier(_Ensemble):
    """The mean of a window's frames -> a softmax: all that frames say without their order, in one vector."""

    def __init__(self, config: ClassifierSpec) -> None:
        super().__init__(config)
        self.output = self._linear(config.dim)

    def forward(self, x_GTBD: Tensor) -> Tensor:
        """Returns logits of each window as those of one step, (G, 1, B, C), of frames (G or 1, T, B, D)."""
        logits_G1BC: Tensor = self.output(self.each_member(x_GTBD).mean(1, keepdim=True))
        return logits_G1BC


class AttentionClassifier(_Ensemble):
    """A mean of a window's frames, weighted by a softmax over their products with a learned query -> a softmax.

    The query starts at zero, where the weights are equal.
    """

    def __init__(self, config: ClassifierSpec) -> None:
        super().__init__(config)
        self.query = nn.Parameter(torch.zeros(config.num_members, config.dim))
        self.output = self._linear(config.dim)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew: every group another draw; the query is zero."""
        nn.init.zeros_(self.query)
        super().reset_parameters(generator)

    def forward(self, x_GTBD: Tensor) -> Tensor:
        """Returns logits of each window as those of one step, (G, 1, B, C), of frames (G or 1, T, B, D)."""
        x_GTBD = self.input_dropout(self.each_member(x_GTBD))
        scale = self.config.dim**-0.5
        weight_GTB = (torch.einsum("gtbd,gd->gtb", x_GTBD, self.query) * scale).softmax(1)
        pooled_G1BD = torch.einsum("gtb,gtbd->gbd", weight_GTB, x_GTBD).unsqueeze(1)
        logits_G1BC: Tensor = self.output(self.dropout(pooled_G1BD))
        return logits_G1BC


Classifier = LSTMClassifier | SingleFrameClassifier | MeanFramesClassifier | AttentionClassifier
CLASSIFIERS: Final[dict[ClassifierKind, type[Classifier]]] = {
    "lstm": LSTMClassifier,
    "frame": SingleFrameClassifier,
    "mean": MeanFramesClassifier,
    "attention": AttentionClassifier,
}


def classification_losses(logits_GTBC: Tensor, labels_GB: Tensor) -> Tensor:
    """Returns each group's cross-entropy (G,), nats, with the clip's label at every step.

    It is the mean over steps and labelled clips.
    Clips labelled IGNORED_LABEL add nothing; a group of nothing else has loss 0. Train on the SUM over groups, so that
    each group's gradient is the one that it would have alone.
    """
    num_members, num_steps, batch, num_classes = logits_GTBC.shape
    targets_GTB = labels_GB[:, None].expand(-1, num_steps, -1)
    logits = logits_GTBC.to(torch.promote_types(logits_GTBC.dtype, torch.float32))
    losses = cross_entropy(
        logits.reshape(-1, num_classes),
        targets_GTB.reshape(-1),
        ignore_index=IGNORED_LABEL,
        reduction="none",
    )
    num_labelled_G = (labels_GB != IGNORED_LABEL).sum(1).clamp(min=1) * num_steps
    return losses.view(num_members, num_steps * batch).sum(1) / num_labelled_G


def clip_probabilities(logits_GTBC: Tensor) -> Tensor:
    """Returns a clip's prediction (G, B, C): the mean over its steps of the softmax's probabilities."""
    dtype = torch.promote_types(logits_GTBC.dtype, torch.float32)
    return logits_GTBC.softmax(-1, dtype=dtype).mean(1)


def derived_seed(*parts: int | str) -> int:
    """Returns a seed of 63 bits that depends on every part, for generators that must not be correlated."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def build_classifier(config: ClassifierSpec) -> Classifier:
    """Builds the classifier that a spec describes, weights drawn from torch's global generator."""
    return CLASSIFIERS[config.model](config)


class MemberDropout(nn.Dropout):
    """Dropout on (G, ...) in which every group draws from its own generator."""

    def __init__(self, p: float, generators: Sequence[torch.Generator]) -> None:
        super().__init__(p)
        self.generators = tuple(generators)

    def forward(self, x_GTBD: Tensor) -> Tensor:
        """Zeroes each element with probability p and scales the others by 1 / (1 - p); nothing in evaluation mode."""
        if not self.training or self.p == 0.0:
            return x_GTBD
        assert len(x_GTBD) == len(self.generators), (x_GTBD.shape, len(self.generators))
        mask_GTBD = torch.empty(x_GTBD.shape, dtype=x_GTBD.dtype, device=x_GTBD.device)
        for mask_TBD, generator in zip(mask_GTBD, self.generators, strict=True):
            mask_TBD.bernoulli_(1.0 - self.p, generator=generator)
        return x_GTBD * mask_GTBD.div_(1.0 - self.p)


def seed_dropout(classifier: Classifier, seeds: Sequence[int]) -> None:
    """Gives every dropout of the classifier one random stream a group: group g's starts from `seeds[g]`."""
    device = next(classifier.parameters()).device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    owners: list[nn.Module] = [classifier]
    if isinstance(classifier, LSTMClassifier):
        owners.append(classifier.lstm)
    for owner in owners:
        for name, child in list(owner.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(owner, name, MemberDropout(child.p, generators))


@torch.no_grad()
def seed_weights(
    classifier: Classifier,
    seeds: Sequence[int],
    draw_weights: Callable[[Classifier, torch.Generator], None] = lambda single, generator: single.reset_parameters(
        generator
    ),
) -> None:
    """Draws group g's weights as a classifier of one group draws them from a generator that starts from `seeds[g]`."""
    single = build_classifier(classifier.config.single())
    drawn = dict(single.named_parameters())
    for group, seed in enumerate(seeds):
        draw_weights(single, torch.Generator().manual_seed(seed))
        for name, parameter in classifier.named_parameters():
            parameter[group] = drawn[name][0]
