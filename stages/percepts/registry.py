"""The old path of `stages.convnets.registry`: plugins name it, and their bytes are part of a fingerprint."""

from stages.convnets.registry import Architecture as Architecture
from stages.convnets.registry import register as register
