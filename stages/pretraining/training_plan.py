"""All that a member of a training group is told."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.files import join
from stages.datasets.augmentation import VariationConfig
from stages.datasets.sequences import SequenceSource
from stages.models.composite import CompositeConfig
from stages.models.feedback import FeedbackConfig
from stages.percepts.node_cache import Log
from stages.percepts.schema import Extractor
from stages.percepts.transforms import Transform
from stages.pretraining.kept_weights import EarlyStopConfig, WeightsConfig
from stages.pretraining.optimisation import OptimizerConfig
from stages.pretraining.precision import Precision

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All that a worker is told. Pickles; data and model are built where they are used."""

    uri: str
    """Directory of the artifact: model.safetensors, history.json, and meanwhile checkpoints/."""
    open_source: Callable[[Log], SequenceSource]
    """Sequences of num_frames_in frames and, where the model predicts, num_frames_out more. Called with what hears of
    waits."""
    composite: CompositeConfig
    optimizer: OptimizerConfig
    seed: int
    batch_size: int
    """Sequences of the global batch, over all workers."""
    num_steps: int
    validate_every_steps: int
    max_validation_batches: int
    checkpoint_every_steps: int
    transform: Transform | None = None
    """What the source's frames have gone through, to be kept with the weights."""
    extractor: Extractor | None = None
    """What made the source's percepts, to be kept with the weights."""
    variation: VariationConfig = VariationConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    weights: WeightsConfig = WeightsConfig()
    early_stop: EarlyStopConfig = EarlyStopConfig()
    precision: Precision = "auto"
    start_at_mean: bool = False
    """Output biases start where the model says the mean frame of training, whatever its state."""
    max_sequences_per_worker: int | None = None
    """A worker whose share is larger works it off in parts, and adds up their gradients."""
    num_checkpoints_kept: int = 2

    @property
    def checkpoints(self) -> str:
        """Directory of the checkpoints; it goes when the training is finished."""
        return join(self.uri, CHECKPOINTS)

    def num_at_once(self, world_size: int) -> int:
        """Sequences that a worker holds in memory, at most."""
        share = -(-self.batch_size // world_size)
        return min(share, self.max_sequences_per_worker or share)
