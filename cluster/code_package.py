"""The code that travels with a submitted job: the packages alone, checked for size, everything else named.

An installed percepts (an image's) has no checkout beside it: nothing is sent then, and the job runs the code of the
cluster's own image.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.core.errors import UsageError

SENT: Final = ("pipeline", "stages", "cluster", "ray_cluster.yaml", "pyproject.toml", "constraints.txt")
"""Names at the root of the checkout that a job needs."""
MAX_BYTES: Final = 20_000_000
"""Largest package: the code takes about 2 MB, and whatever else lies among it is a mistake."""
NOT_SENT: Final = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@dataclass(frozen=True, kw_only=True)
class CodePackage:
    """A directory with what a job brings along."""

    directory: str
    """The directory, for `working_dir`; empty where nothing is sent."""
    num_bytes: int
    """Bytes of its files."""
    left_out: tuple[str, ...]
    """Names at the root of the checkout that stay behind."""

    @property
    def summary(self) -> str:
        """The package in one line."""
        if not self.directory:
            return "sending no code: percepts is installed here, and the job runs the cluster's own"
        left_out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"sending {self.num_bytes / 1e6:.1f} MB of code{left_out}"


@contextmanager
def code_package(source_root: str, files: Mapping[str, str]) -> Iterator[CodePackage]:
    """Copies the code of a checkout, and further `files` (name in the package -> path), into a temporary directory.

    Raises:
        UsageError: the copy is larger than `MAX_BYTES`; the message names the largest file.
    """
    root = Path(source_root)
    is_checkout = (root / "pyproject.toml").is_file()
    if not is_checkout and not files:
        yield CodePackage(directory="", num_bytes=0, left_out=())
        return
    with tempfile.TemporaryDirectory(prefix="percepts-job-") as name:
        directory = Path(name)
        for sent in SENT if is_checkout else ():
            _copy(root / sent, directory / sent)
        for target, source in files.items():
            shutil.copy(source, directory / target)
        sizes = {path: path.stat().st_size for path in directory.rglob("*") if path.is_file()}
        num_bytes = sum(sizes.values())
        if num_bytes > MAX_BYTES:
            largest = max(sizes, key=lambda path: sizes[path])
            raise UsageError(
                f"the code to send takes {num_bytes / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f} MB; the largest "
                f"file is {largest.relative_to(directory)} ({sizes[largest] / 1e6:.0f} MB): keep data elsewhere"
            )
        others = sorted(path.name for path in root.iterdir() if path.name not in SENT) if is_checkout else []
        yield CodePackage(directory=name, num_bytes=num_bytes, left_out=tuple(others))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=NOT_SENT)
    elif source.is_file():
        shutil.copy(source, target)
