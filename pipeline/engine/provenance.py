"""Where an artifact comes from, beside its identity: the commit, whether the tree was clean, library versions."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SOURCE_ROOT = str(Path(__file__).resolve().parents[2])
"""The directory that holds our packages."""

COMMIT_VARIABLE = "PERCEPTS_COMMIT"
"""Set this where `.git` does not travel along, as under `ray job submit`; a trailing `+` means uncommitted changes."""

LIBRARIES = ("torch", "ray", "mlflow", "pyarrow", "av", "numpy", "onnxruntime", "safetensors", "fsspec")


def commit() -> tuple[str | None, bool | None]:
    """The git commit of the code that runs and whether it had uncommitted changes; None where nobody can tell."""
    named = os.environ.get(COMMIT_VARIABLE)
    if named:
        return named.rstrip("+"), named.endswith("+")
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None, None
    return head, bool(_git("status", "--porcelain"))


def libraries() -> dict[str, str]:
    """Installed versions of the libraries whose arithmetic or formats an artifact depends on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", SOURCE_ROOT, *arguments], capture_output=True, text=True, check=False, timeout=20
        )
    except FileNotFoundError:  # no git on this machine: as unknown as a tree without .git
        return None
    return result.stdout.strip() if result.returncode == 0 else None
