"""The tree of exceptions that percepts raises on purpose.

PerceptsError
├── UsageError                    the command cannot be carried out: exit status 2, one line
│   ├── ConfigError (ValueError)  a setting breaks its rule
│   ├── PlanError (ValueError)    the stages of a recipe do not fit together
│   ├── SourceError               a folder, bucket or file that is missing or holds nothing to use
│   │   └── DataSetError          a published data set that is not there or not whole; says what to put where
│   ├── StoreError                a store that cannot be written, or that a newer version wrote
│   └── DigestError               bytes that are not the ones promised by their sha256
└── RunError                      the work itself failed: exit status 1
    ├── StageFailed               a stage raised; names the stage and its key
    ├── WorkerDied                several worker processes in a row died on the same item
    ├── GroupReplaced             another run trains into the same artifact
    ├── TrainingDiverged          the loss or the gradient is no longer finite
    ├── OutOfMemory               a machine or a GPU has too little memory for the settings
    └── CorruptArtifact           a finished file is not what its manifest says

A message says what was given, the rule, and what to do instead.
"""

from __future__ import annotations


class PerceptsError(Exception):
    """The root of all exceptions that percepts raises on purpose."""


class UsageError(PerceptsError):
    """An error of the command, its settings or its inputs; the command line prints one line and exits with status 2."""


class ConfigError(UsageError, ValueError):
    """A setting that breaks its rule."""


class PlanError(UsageError, ValueError):
    """A recipe whose stages do not fit together."""


class SourceError(UsageError):
    """A folder, bucket or file that is missing, unreadable, or without usable content."""


class DataSetError(SourceError):
    """A published data set that is missing or incomplete. `instructions` says which files to put where."""

    def __init__(self, message: str, instructions: str = "") -> None:
        super().__init__(message, instructions)
        self.instructions = instructions

    def __str__(self) -> str:
        return str(self.args[0])


class StoreError(UsageError):
    """A store that cannot be reached or written, or that a newer version of percepts wrote."""


class DigestError(UsageError):
    """A URI whose bytes do not have the expected sha256."""


class RunError(PerceptsError):
    """A failure of the work itself; the command line exits with status 1."""


class StageFailed(RunError):
    """A stage that raised an exception. The message names the stage, its key and the cause."""


class WorkerDied(RunError):
    """The death of several worker processes in a row on the same item. The message names the item."""


class GroupReplaced(RunError):
    """A training group in whose place another one writes. The message says what to do."""


class TrainingDiverged(RunError):
    """A training whose loss or gradient is no longer finite. The message names step, loss and gradient norm."""


class OutOfMemory(RunError):
    """A machine or a GPU with too little memory. The message names the setting that reduces the need."""


class CorruptArtifact(RunError):
    """A finished file that differs from its manifest."""
