"""The plan of a training, which goes to every worker of the group."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.files import join
from stages.datasets.sequences import SequenceSource
from stages.models.config import CompositeSpec
from stages.percepts.node_cache import Log
from stages.percepts.schema import Extractor
from stages.percepts.transforms import Transform
from stages.pretraining.config import TrainingConfig

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The settings of a training for its workers. It pickles; data and model are built where they are used."""

    uri: str
    """Directory of the artifact: model.safetensors, history.json, and meanwhile checkpoints/."""
    open_source: Callable[[Log], SequenceSource]
    """A function that opens the sequences, of num_frames_in frames and, where the model predicts, num_frames_out more.
    Its argument logs waits."""
    model: CompositeSpec
    training: TrainingConfig
    transform: Transform | None = None
    """The transform of the source's frames, to be kept with the weights."""
    extractor: Extractor | None = None
    """The extractor of the source's percepts, to be kept with the weights."""
    warm_start: str | None = None
    """File of the model whose weights the training goes on from; None: it starts from random ones."""
    max_sequences_per_worker: int | None = None
    """Largest micro-batch of a worker. A larger share is split and its gradients accumulated."""
    num_checkpoints_kept: int = 2

    @property
    def checkpoints(self) -> str:
        """Directory of the checkpoints; it goes when the training is finished."""
        return join(self.uri, CHECKPOINTS)

    def num_at_once(self, world_size: int) -> int:
        """Returns the number of sequences that a worker holds in memory, at most."""
        share = -(-self.training.batch_size // world_size)
        return min(share, self.max_sequences_per_worker or share)
