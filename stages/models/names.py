"""What the models are called: the paper's names, for tables."""

from collections.abc import Sequence

from stages.models.config import CompositeConfig


def model_names(configs: Sequence[CompositeConfig]) -> list[str]:
    """The paper's names of the models; with their sizes where two have the same."""
    names = [paper_name(config) for config in configs]
    if len(set(names)) < len(names):
        names = [f"{name}, {c.num_layers} x {c.num_units}" for name, c in zip(names, configs, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({n + 1})" for n, name in enumerate(names)]


def paper_name(config: CompositeConfig) -> str:
    """Of the six, and of the two composites beside them."""
    if config.decoders == "autoencoder":
        return "conditional autoencoder" if config.reconstruct_conditional else "autoencoder"
    if config.decoders == "future":
        return "conditional future predictor" if config.predict_conditional else "future predictor"
    conditional = {
        (False, False): "composite",
        (False, True): "composite, conditional future",
        (True, False): "composite, conditional reconstruction",
        (True, True): "composite, both conditional",
    }
    return conditional[config.reconstruct_conditional, config.predict_conditional]
