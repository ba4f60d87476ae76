"""Harms lists and archives at random, for `tests.fuzz`: each is read twice, to the same rows or SourceError."""

from __future__ import annotations

import json
import random
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import SourceError
from stages.video.archives import ArchiveLimits
from stages.video.lists.reader import iter_rows
from stages.video.lists.rows import ListRow
from stages.video.lists.sidecars import Sidecars, is_video_or_sidecar
from stages.video.lists.suffixes import has_video_suffix, list_suffix
from stages.video.processes.isolated_archive import iter_isolated_members
from tests.stages.video.damage import harmed
from tests.stages.video.made_archives import make_rar, make_tar, make_zip

LIMITS = ArchiveLimits(max_bytes=64 << 20)
LISTS_A_CASE = 20
"""A list is read in milliseconds, an archive in a process of its own."""


def own_lists() -> dict[str, bytes]:
    """Name -> bytes of a list of every kind."""
    rows = [
        {"uri": f"clips/{n}.mp4", "start": n, "end": n + 10.5, "label": f"class {n % 3}", "part": "train", "group": "g"}
        for n in range(40)
    ]
    text = "".join(",".join(map(str, row.values())) + "\n" for row in (dict(zip(rows[0], rows[0], strict=True)), *rows))
    table = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), table)
    entry = {"subset": "training", "annotations": [{"segment": [1.0, 2.0], "label": "x"}]}
    return {
        "a.csv": text.encode(),
        "b.csv": text.replace(",", ";").encode("utf-16"),
        "a.tsv": text.replace(",", "\t").encode(),
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "a.json": json.dumps({"database": {f"sJbkXcHhH{n:02}": entry for n in range(10, 40)}}).encode(),
        "a.txt": "".join(
            f"clips/{n}.mp4 {n % 3}\nhttps://host/{n}.mp4 {n},1\nsJbkXcHhH{n:02}\n" for n in range(20)
        ).encode(),
        "a.parquet": table.getvalue().to_pybytes(),
    }


def own_archives() -> dict[str, bytes]:
    """Name -> bytes of an archive of every kind, an archive inside each."""
    files = {
        "a/1.mp4": bytes(range(256)) * 40,
        "a/1.json": b'{"label": "x", "url": "u"}',
        "a/1.cls": b"3",
        "n.md": b"-",
    }
    files["inner.zip"] = make_zip({"b/2.mp4": b"two" * 99}, compression=zipfile.ZIP_DEFLATED)
    tars = {f"a.tar{f'.{kind}' if kind else ''}": make_tar(files, compression=kind) for kind in ("", "gz", "bz2", "xz")}
    return {
        "a.zip": make_zip(files, compression=zipfile.ZIP_DEFLATED),
        "b.zip": make_zip(files),
        "a.rar": make_rar(files),
        **tars,
    }


class InputFuzz:
    """Lists and archives to harm."""

    def __init__(self) -> None:
        self.lists, self.archives = sorted(own_lists().items()), sorted(own_archives().items())
        self.counts: Counter[str] = Counter()

    def case(self, seed: int) -> tuple[str, bytes, str] | None:
        """Harms some lists and an archive; returns name, bytes and fault of the first that is misread."""
        rng = random.Random(seed)
        sources = [rng.choice(self.lists) for _ in range(LISTS_A_CASE)] + [rng.choice(self.archives)]
        for number, (name, data) in enumerate(sources):
            broken = harmed(data, seed + number)
            read = read_list if list_suffix(name) else read_archive
            if fault := self._fault(name, broken, read):
                return f"{seed}-{number}-{name}", broken, fault
        return None

    def _fault(self, name: str, data: bytes, read: Callable[[Path], object]) -> str:
        results: list[object] = []
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / name
            path.write_bytes(data)
            for _ in range(2):
                try:
                    results.append(read(path))
                    kind = "read"
                except SourceError as error:
                    results.append(str(error))
                    kind = "refused"
                    if "\n" in str(error):
                        return f"a reason of several lines: {error}"
                except Exception as error:  # noqa: BLE001
                    return f"{type(error).__name__}: {error}"
        self.counts[f"{name.partition('.')[2]} {kind}"] += 1
        return "" if results[0] == results[1] else "read twice, differs"


def read_list(path: Path) -> list[ListRow]:
    """The rows of a list, each of which has a name or says why not."""
    rows = list(iter_rows(str(path)))
    assert all(row.uri and row.line > 0 for row in rows)
    for row in rows:
        (row.label or "").encode(), row.problem.encode("utf-8", "surrogatepass")
    return rows


def read_archive(path: Path) -> list[tuple[str, int]]:
    """The paths and sizes of an archive's members."""
    sidecars, members, left_out = Sidecars(), [], Counter[str]()
    for member in iter_isolated_members(path, is_video_or_sidecar, LIMITS, kept={}, left_out=left_out):
        data = b"".join(member.chunks)
        if not has_video_suffix(member.path):
            sidecars.add(member.path, data)
        members.append((member.path, len(data)))
    sidecars.marks([name for name, _ in members])
    return members
