"""The provenance of an artifact: the commit, whether the tree was clean, and the versions of libraries."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SOURCE_ROOT = str(Path(__file__).resolve().parents[2])
"""The directory that holds our packages."""

COMMIT_VARIABLE = "PERCEPTS_COMMIT"
"""Environment variable with the commit, where `.git` is not uploaded, as with `ray job submit`; a trailing `+` means
uncommitted changes."""

LIBRARIES = ("torch", "ray", "mlflow", "pyarrow", "av", "numpy", "onnxruntime", "safetensors", "fsspec")


def commit() -> tuple[str | None, bool | None]:
    """Returns the git commit of the running code and whether it had uncommitted changes; None if unknown."""
    named = os.environ.get(COMMIT_VARIABLE)
    if named:
        return named.rstrip("+"), named.endswith("+")
    head = _git("rev-parse", "HEAD")
    # An installed percepts may lie within another project's repository, which does not track it.
    if head is None or _git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is None:
        return None, None
    return head, bool(_git("status", "--porcelain"))


def libraries() -> dict[str, str]:
    """Returns the installed versions of the libraries on whose arithmetic or formats an artifact depends."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", SOURCE_ROOT, *arguments], capture_output=True, text=True, check=False, timeout=20
        )
    except FileNotFoundError:  # no git on this machine: the commit is unknown, as in a tree without .git
        return None
    return result.stdout.strip() if result.returncode == 0 else None
