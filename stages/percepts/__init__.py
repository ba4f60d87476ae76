"""Percepts: activations of a convnet on each frame; where they are kept, and how they are read."""

from stages.percepts.reader import PerceptStore, open_store
from stages.percepts.windows import WindowOrder, Windows

__all__ = ["PerceptStore", "WindowOrder", "Windows", "open_store"]
