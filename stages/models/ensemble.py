"""Independent classifiers that train as one: G groups, each with random numbers of its own.

What a group becomes does not depend on which other groups train beside it, but for the rounding of batched products.

Shapes: G groups, T steps, B clips, D dimensions.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.models.classifier import Classifier, LSTMClassifier, SingleFrameClassifier
from stages.models.config import ClassifierSpec


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on every part, for generators that must not be correlated."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def build_classifier(config: ClassifierSpec) -> Classifier:
    """Builds the classifier that a spec describes, weights drawn from torch's global generator."""
    return LSTMClassifier(config) if config.model == "lstm" else SingleFrameClassifier(config)


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
    owners: list[LSTMClassifier | SingleFrameClassifier | nn.Module] = [classifier]
    if isinstance(classifier, LSTMClassifier):
        owners.append(classifier.lstm)
    for owner in owners:
        for name, child in list(owner.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(owner, name, MemberDropout(child.p, generators))


@torch.no_grad()
def seed_weights(classifier: Classifier, seeds: Sequence[int]) -> None:
    """Draws group g's weights as a classifier of one group draws them from a generator that starts from `seeds[g]`."""
    single = build_classifier(classifier.config.single())
    theirs = dict(single.named_parameters())
    for group, seed in enumerate(seeds):
        single.reset_parameters(torch.Generator().manual_seed(seed))
        for name, parameter in classifier.named_parameters():
            parameter[group] = theirs[name][0]
