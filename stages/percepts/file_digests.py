"""Digests of files on this machine's disk: hashed once a start, and again where anything has written to the file.

What was hashed is kept in a stamp, a small JSON file that says which state of a file (size, times of change) had which
digest. A stamp is trusted where this user alone can write it.
"""

import json
import os
import tempfile
from hashlib import file_digest
from pathlib import Path

from pipeline.core.own_directory import boot_id

STAMP = ".checked"
"""The suffix of a stamp."""


def has_digest(path: str | Path, descriptor: int, sha256: str | None, stamp: Path | None) -> bool:
    """Returns whether an open file has a digest: that of its stamp where it is unchanged since, else hashes it.

    sha256: the promised digest; None: the one of the stamp.
    stamp: where the answer is kept; None: nowhere.
    """
    kept = {} if stamp is None else _read(stamp)
    promised = sha256 or kept.get("sha256")
    if promised is not None and kept.get("state") == _state(descriptor) and kept["sha256"] == promised:
        return True
    state = _state(descriptor)  # of before: what is written meanwhile is hashed the next time
    with open(path, "rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    if digest != promised:
        return False
    if stamp is not None:
        _write(stamp, digest, state)
    return True


def write_stamp(stamp: Path, descriptor: int, digest: str) -> None:
    """Keeps the digest of an open file that was just written."""
    _write(stamp, digest, _state(descriptor))


def _write(stamp: Path, digest: str, state: list[int | str]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=stamp.parent, suffix=STAMP, delete=False) as file:
        json.dump({"sha256": digest, "state": state}, file)
    os.replace(file.name, stamp)


def _read(stamp: Path) -> dict[str, object]:
    try:
        value = json.loads(stamp.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _state(descriptor: int) -> list[int | str]:
    """Returns what changes whenever a file is written to, in whatever way."""
    stat = os.fstat(descriptor)
    return [boot_id(), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
