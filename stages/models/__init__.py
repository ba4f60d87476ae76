"""The paper's models: the LSTM with peepholes, six unsupervised models, two classifiers; how they are saved."""

from stages.models.classifier import (
    IGNORED_LABEL,
    Classifier,
    LSTMClassifier,
    LSTMClassifierConfig,
    SingleFrameClassifier,
    SingleFrameConfig,
    classification_losses,
    clip_probabilities,
)
from stages.models.composite import Composite, CompositeConfig, Losses, Outputs
from stages.models.lstm import LSTM, LayerState, State, Trace
from stages.models.pretrained import Pretrained, load_encoder
from stages.models.weights import MODEL_FILE, load_model, save_model

__all__ = [
    "IGNORED_LABEL",
    "LSTM",
    "MODEL_FILE",
    "Classifier",
    "Composite",
    "CompositeConfig",
    "LSTMClassifier",
    "LSTMClassifierConfig",
    "LayerState",
    "Losses",
    "Outputs",
    "Pretrained",
    "SingleFrameClassifier",
    "SingleFrameConfig",
    "State",
    "Trace",
    "classification_losses",
    "clip_probabilities",
    "load_encoder",
    "load_model",
    "save_model",
]
