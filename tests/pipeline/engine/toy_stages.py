"""Three small stages that tests of the pipeline run, in this process and on Ray."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.files import exists, read_json, sha256_bytes, write_bytes, write_json
from pipeline.core.stage import Artifact, Context, Estimate, Listing, stage


@dataclass(frozen=True)
class Numbers(Artifact):
    def values(self) -> list[int]:
        numbers: list[int] = read_json(self.path("numbers.json"))
        return numbers


@dataclass(frozen=True)
class Total(Artifact):
    pass


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    num: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ConfigError(f"num is {self.num}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class SumConfig:
    fail: bool = False
    die_times: int = 0
    scale: float = 1.0


@stage(
    version=1, estimate=lambda config, inputs: Estimate(num_frames=config.num, num_bytes=config.num * 8, seconds=1.0)
)
def count(config: CountConfig, context: Context) -> Numbers:
    write_json(f"{context.uri}/numbers.json", [config.seed + i for i in range(config.num)])
    context.record(num_frames=config.num)
    context.progress(config.num, config.num, "numbers")
    return Numbers(context.uri, context.key)


def _double() -> type[int] | object:
    return lambda value: 2 * value


@stage(version=2)
def double(config: SumConfig, context: Context, *, numbers: Numbers) -> Numbers:
    values = numbers.values()
    results = dict(context.workers.map(_double, values, num_workers=2))  # type: ignore[arg-type]
    write_json(f"{context.uri}/numbers.json", [results[i] for i in range(len(values))])
    context.metrics(1, largest=float(max(results.values())))
    return Numbers(context.uri, context.key)


@stage(version=1)
def add(config: SumConfig, context: Context, *, parts: tuple[Numbers, ...], extra: Numbers | None = None) -> Total:
    if config.fail:
        raise ValueError("asked to fail")
    for death in range(config.die_times):
        mark = f"{context.uri}/died-{death}"
        if not exists(mark):
            write_bytes(mark, b"")
            os.kill(os.getpid(), signal.SIGKILL)
    total = sum(sum(part.values()) for part in parts) + (sum(extra.values()) if extra else 0)
    write_json(f"{context.uri}/total.json", total * config.scale)
    return Total(context.uri, context.key)


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    folder: str


class Names(Listing):
    """The files of a folder."""

    def __init__(self, config: FolderConfig) -> None:
        self.names = sorted(path.name for path in Path(config.folder).iterdir())

    @property
    def digest(self) -> str:
        return sha256_bytes("/".join(self.names).encode())

    @property
    def estimate(self) -> Estimate:
        return Estimate(num_videos=len(self.names))

    def write(self, uri: str) -> None:
        write_json(uri, self.names)


@stage(
    version=1, snapshot=Names, estimate=lambda config, inputs: Estimate(num_frames=10 * inputs["listing"].num_videos)
)
def list_names(config: FolderConfig, context: Context) -> Numbers:
    assert context.listing_uri is not None
    write_json(f"{context.uri}/numbers.json", read_json(context.listing_uri))
    return Numbers(context.uri, context.key)
