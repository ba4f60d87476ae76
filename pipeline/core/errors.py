"""Every exception that percepts raises on purpose.

PerceptsError
├── UsageError                    what was asked cannot be done: exit status 2, one line
│   ├── ConfigError (ValueError)  a setting breaks its rule
│   ├── PlanError (ValueError)    the stages of a recipe do not fit together
│   ├── SourceError               a folder, bucket or file that is missing or holds nothing to use
│   │   └── DataSetError          a published data set that is not there or not whole; says what to put where
│   ├── StoreError                a store that cannot be written, or that a newer version wrote
│   └── DigestError               bytes that are not the ones promised by their sha256
└── RunError                      the work itself went wrong: exit status 1
    ├── StageFailed               a stage raised; names the stage and its key
    ├── WorkerDied                worker processes were lost again and again on the same item
    ├── GroupReplaced             another run trains into the same artifact
    ├── TrainingDiverged          the loss or the gradient is no longer finite
    ├── OutOfMemory               a machine or a GPU has too little memory for what was asked at once
    └── CorruptArtifact           a finished file is not what its manifest says

A message says what was given, the rule, and what to do instead.
"""

from __future__ import annotations


class PerceptsError(Exception):
    """The root: catch it to catch everything that percepts raises on purpose."""


class UsageError(PerceptsError):
    """What was asked cannot be done; the command line prints one line and exits with status 2."""


class ConfigError(UsageError, ValueError):
    """A setting breaks its rule."""


class PlanError(UsageError, ValueError):
    """The stages of a recipe do not fit together."""


class SourceError(UsageError):
    """A folder, bucket or file is missing, unreadable, or holds nothing to use."""


class DataSetError(SourceError):
    """A published data set is not there or not whole. `instructions`: further lines that say what to put where."""

    def __init__(self, message: str, instructions: str = "") -> None:
        super().__init__(message, instructions)
        self.instructions = instructions

    def __str__(self) -> str:
        return str(self.args[0])


class StoreError(UsageError):
    """A store cannot be reached or written, or a newer version of percepts wrote it."""


class DigestError(UsageError):
    """The bytes behind a URI do not have the sha256 that was promised."""


class RunError(PerceptsError):
    """The work itself went wrong; the command line exits with status 1."""


class StageFailed(RunError):
    """A stage raised. The message names the stage, its key and the cause."""


class WorkerDied(RunError):
    """Worker processes were lost again and again on the same item. The message names the item."""


class GroupReplaced(RunError):
    """A training group found that another one writes in its place. The message says what to do."""


class TrainingDiverged(RunError):
    """The loss or the gradient is no longer finite. The message names step, loss and gradient norm."""


class OutOfMemory(RunError):
    """A machine or a GPU has too little memory. The message names the setting that asks for less."""


class CorruptArtifact(RunError):
    """A finished file is not what its manifest says."""
