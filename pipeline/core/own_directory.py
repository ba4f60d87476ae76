"""Directories of a shared machine that are this user's own: what lies in them may be trusted, and run."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

from pipeline.core.errors import StoreError


def check_own(directory: Path, option: str) -> None:
    """Checks that a directory is this user's (or root's), and that no other may write to it.

    option: what to give another directory by.

    Raises:
        StoreError: it is another user's, others may write to it, or it is a link into such a place.
        FileNotFoundError: there is none.
    """
    status = directory.stat()
    if status.st_uid not in (os.getuid(), 0):
        raise StoreError(f"{directory} belongs to another user, who can change what it holds: give another {option}")
    if stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreError(
            f"other users may write to {directory}, and change what it holds: chmod go-w it, or give another {option}"
        )


@cache
def boot_id() -> str:
    """Returns what changes with every start of this machine (Linux): what was checked before is checked again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # another system
        return ""
