"""One flipped bit at a time in every kind of file of a finished small demo, each followed by the same command.

    python -m tests.bit_flips                         # every kind once; prints a line a try, and JSON at last
    python -m tests.bit_flips --seed 7                # other files and bits
    python -m tests.bit_flips --only percepts/ runs   # the kinds whose name holds one of these

The times of a flipped file stay as they were, as where a disk rots. Each flip is tried twice: with everything made, and
with all that was made of the flipped file removed, so that it is read again. The run must end with the outputs and the
tables of before, or with one line that names the file and a remedy; after `verify --repair` it must then make the
outputs of before. Exit status 1 if one does neither.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.store import MANIFEST
from tests.pipeline.small_demo import SMALL_DEMO

OBSERVERS = ("mlartifacts", "mlflow.db", "probed", "reports", "runs", "tracking")
"""What a run writes beside its outputs: times and names of runs are in them."""
PLAN_FILE = "plan.parquet"
"""An extraction's: it says what was to do, which is nothing where all shards are there."""
IMPORTED_ONCE = (
    *("pipeline.engine.tracking.tracker", "pipeline.reporting.report"),
    *("stages.evaluate", "stages.finetune", "stages.pretrain", "stages.visualize"),
)
"""What every run imports, so that forked processes have it."""
REMEDIES = ("verify", "remove", "write", "upgrade")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of a command."""

    status: int
    tables: str
    errors: tuple[str, ...]


def percepts(*arguments: str, main: Callable[[list[str]], object] | None = None) -> Ended:
    """Runs a `percepts` command in a process of its own, forked from this one, which has imported what it needs."""
    from pipeline.commands import table
    from pipeline.options.command_line import run_command

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            status = 1
            try:
                run_command(lambda: (main or table.main)(list(arguments)))  # type: ignore[arg-type,return-value]
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            except Exception:
                traceback.print_exc()  # a bug of the command: its traceback is what is reported
                raise
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        errors.seek(0)
        shown, lines = out.read(), errors.read().strip().splitlines()
    tables = shown[shown.find("\nAccuracy,") :].partition("\npercepts ui")[0]
    return Ended(status=status, tables=tables, errors=tuple(lines))


def stop_after_a_checkpoint(arguments: list[str]) -> None:
    """Runs a command, and leaves it as by Ctrl-C once two checkpoints are written."""
    from pipeline.commands.table import main
    from stages.pretraining import checkpoints

    write, num_written = checkpoints.write_checkpoint, itertools.count(1)

    def write_and_stop(*arguments: Any, **others: Any) -> None:
        write(*arguments, **others)
        if next(num_written) == 2:
            raise KeyboardInterrupt

    checkpoints.write_checkpoint = write_and_stop
    main(arguments)


def kind_of(name: str) -> str:
    """Returns a file's name without digests, times and numbers; manifests, and MLflow's files, are a kind each."""
    if name.startswith("mlartifacts/"):
        return "mlartifacts/..."
    if name.endswith(f"/{MANIFEST}"):
        return f".../{MANIFEST}"
    name = re.sub(r"\d{8}T\d{6}-[0-9a-f]{8}", "TIME", name)
    return re.sub(r"\d+", "#", re.sub(r"[0-9a-f]{16,}", "KEY", re.sub("(test|train|unlabelled)-", "", name)))


def outputs(store: Path) -> dict[str, str]:
    """Returns the sha256 of every file that holds a result, by name."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file()
        and path.name not in (MANIFEST, PLAN_FILE)
        and not path.relative_to(store).parts[0].startswith(OBSERVERS)
    }


def flip(path: Path, seed: int) -> None:
    """Flips one bit, and puts the times back."""
    data, times = bytearray(path.read_bytes()), path.stat()
    place = random.Random(f"{path.name} {seed}").randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def made_of(store: Path, name: str) -> Iterator[Path]:
    """Yields the directories of all artifacts made of the one that a file is in; of a shard, of its extraction."""
    manifests = {path.parent: json.loads(path.read_text()) for path in store.glob(f"*/*/{MANIFEST}")}
    parts = name.split("/")
    keys = {parts[1]} if len(parts) > 2 else set()
    if parts[0] == "percepts":
        keys = {manifest["key"] for manifest in manifests.values() if manifest["stage"] == "extract"}
    while new := {
        manifest["key"]
        for manifest in manifests.values()
        if manifest["key"] not in keys and keys & set(json.dumps(manifest["inputs"]).split('"'))
    }:
        keys |= new
        yield from (path for path, manifest in manifests.items() if manifest["key"] in new)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A finished small demo, and a copy of it that each attack begins from."""

    store: Path
    intact: Path
    outputs: dict[str, str]
    tables: str

    @classmethod
    def make(cls, folder: Path) -> Demo:
        """Runs the demo, once stopped in its training and gone on; the checkpoint of before is kept in `stopped`."""
        store = folder / "store"
        command = ["run", *SMALL_DEMO, "--store", str(store), "--in-process"]
        percepts(*command, main=stop_after_a_checkpoint)
        shutil.copytree(store, folder / "stopped")
        ended = percepts(*command)
        assert ended.status == 0, ended.errors
        shutil.copytree(store, folder / "intact")
        return cls(store=store, intact=folder / "intact", outputs=outputs(store), tables=ended.tables)

    def attack(self, name: str, seed: int, *, is_last: bool, base: Path | None = None) -> tuple[str, bool]:
        """Flips a bit of a file and runs the same command; returns what became of it, and whether that is right.

        is_last: with everything made; else what was made of the file is removed first.
        """
        shutil.rmtree(self.store)
        shutil.copytree(base or self.intact, self.store)
        for directory in () if is_last else list(made_of(self.store, name)):
            shutil.rmtree(directory)
        flip(self.store / name, seed)
        ended = self._run()
        if ended.status == 0:
            return "same outputs" if self._is_same(ended, name) else "OTHER OUTPUTS", self._is_same(ended, name)
        message = " ".join(ended.errors[-3:])
        file = Path(name)
        is_clear = len(ended.errors) <= 3 and "Traceback" not in message
        is_clear &= any(part in message for part in (file.stem, file.parent.name)) and any(
            word in message for word in REMEDIES
        )
        if not is_clear:
            return f"UNCLEAR: {message}", False
        if "verify --repair" not in message:
            return f"named, by hand: {message}", True
        repaired = percepts("verify", "--repair", "--store", str(self.store))
        again = self._run()
        if again.status or not self._is_same(again):
            return f"named, and NOT MENDED ({repaired.status}, {again.status}): {' '.join(again.errors[-3:])}", False
        return "named, mended", True

    def _run(self) -> Ended:
        return percepts("run", *SMALL_DEMO, "--store", str(self.store), "--in-process")

    def _is_same(self, ended: Ended, but: str = "") -> bool:
        now = outputs(self.store)
        expected = {name: digest for name, digest in self.outputs.items() if name != but}
        return ended.tables == self.tables and expected == {name: d for name, d in now.items() if name != but}


def chosen(root: Path, seed: int) -> list[str]:
    """Returns one file of each kind, by a seeded choice."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()):
        kinds.setdefault(kind_of(name), []).append(name)
    draw = random.Random(seed)
    return [draw.choice(of_kind) for of_kind in kinds.values()]


def main() -> int:
    """Prints a line for each flip, and counts as JSON. Returns the exit status."""
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""])
    options = parser.parse_args()
    counts: dict[str, int] = {}
    num_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        demo, stopped = Demo.make(Path(folder)), Path(folder) / "stopped"
        tries = [
            (name, is_last, demo.intact)
            for name in chosen(demo.intact, options.seed)
            for is_last in (True, False)
            if is_last or any(made_of(demo.intact, name))
        ]
        checkpoints = sorted(stopped.glob("pretrain/*/checkpoints/*"))
        tries += [(str(path.relative_to(stopped)), True, stopped) for path in checkpoints]
        tries = [attack for attack in tries if any(only in kind_of(attack[0]) for only in options.only)]
        for name, is_last, base in tries:
            result, is_right = demo.attack(name, options.seed, is_last=is_last, base=base)
            num_wrong += not is_right
            word = result.partition(":")[0]
            counts[word] = counts.get(word, 0) + 1
            print(f"{kind_of(name)} [{'complete' if is_last else 'read again'}] {result}", flush=True)
    print(json.dumps({"tries": len(tries), "wrong": num_wrong, **counts}))
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
