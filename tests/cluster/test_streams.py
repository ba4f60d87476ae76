"""Streams from helper processes on real Ray: order, bounded numbers, deaths; and percepts decoded by them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.session import Session
from pipeline.core.errors import WorkerDied
from pipeline.core.events import Event, Log
from pipeline.core.files import list_files
from pipeline.core.stage import Context, Resources
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig, ingest
from stages.video.artifacts import Index
from stages.video.decode import DecodeConfig
from tests.cluster.tasks import value_of
from tests.stages.video.clips import encode, moving_square


def numbers(directory: str, item: str) -> Iterator[Any]:
    """0 to 5, with the process that they come from; what happens on the way is the item's name."""
    for number in range(6):
        Path(directory, f"{item}-{number}").touch()
        if number == 3 and item in ("dies once", "dies"):
            flag = Path(directory, f"{item} died")
            if item == "dies" or not flag.exists():
                flag.touch()
                os._exit(1)
        if number == 3 and item == "raises":
            raise ValueError("three")
        yield number, os.getpid(), np.full(200_000, number, np.uint8)


def take(directory: str, item: str) -> tuple[list[int], list[str], bool]:
    """In a Ray task: the numbers, the lines of the log, and whether another process gave them."""
    from cluster.workers import RayWorkers

    events: list[Event] = []
    taken = []
    elsewhere = True
    for number, pid, array in RayWorkers(source="x", emit=events.append).stream(
        partial(numbers, directory), item, ahead=2
    ):
        assert array.min() == array.max() == number
        elsewhere &= pid != os.getpid()
        taken.append(number)
        if item == "slow":
            time.sleep(0.3)
            assert len(list(Path(directory).glob("slow-*"))) <= number + 1 + 2 + 1
    return taken, [event.line for event in events if isinstance(event, Log)], elsewhere


@pytest.mark.ray
@pytest.mark.parametrize("item", ["sound", "slow", "dies once"])
def test_values_come_once_and_in_order_from_another_process(tmp_path: Path, ray_session: Session, item: str) -> None:
    taken, lines, elsewhere = value_of(ray_session, "x", take, str(tmp_path), item)
    assert taken == list(range(6))
    assert elsewhere
    assert lines == (["a process died on dies once; trying it once more on a new one"] if item == "dies once" else [])


@pytest.mark.ray
def test_a_second_death_and_an_exception_come_through(tmp_path: Path, ray_session: Session) -> None:
    with pytest.raises(WorkerDied, match="2 processes died on dies"):
        value_of(ray_session, "x", take, str(tmp_path), "dies")
    with pytest.raises(ValueError, match=r"^three$"):
        value_of(ray_session, "x", take, str(tmp_path), "raises")


CONFIG = ExtractConfig(
    convnet=ConvnetConfig(layer="stem", grid=2, input_px=32),
    decode=DecodeConfig(short_side_px=32, crop_px=32),
    shard_frames=1000,
)


def extract_elsewhere(store: str) -> dict[str, Any]:
    from cluster.workers import RayWorkers

    resources = Resources(num_workers=1, decoders_per_gpu=1)
    context = Context.for_test(store, uri=f"{store}/extract", workers=RayWorkers(source="x"), resources=resources)
    extract(CONFIG, context, index=Index(f"{store}/ingest"))
    return context.facts


@pytest.mark.ray
def test_percepts_of_frames_decoded_elsewhere_have_the_same_bytes(tmp_path: Path, ray_session: Session) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(4):
        encode(tmp_path / "videos" / f"{number}.mp4", moving_square(70 + 10 * number))
    stores = [tmp_path / "here", tmp_path / "there"]
    for store in stores:
        ingest(
            IngestConfig(videos=(str(tmp_path / "videos"),)),
            Context.for_test(store, uri=f"{store}/ingest"),
        )
    extract(CONFIG, Context.for_test(stores[0], uri=f"{stores[0]}/extract"), index=Index(f"{stores[0]}/ingest"))
    facts = value_of(ray_session, "x", extract_elsewhere, str(stores[1]))
    assert facts["num_frames"] == 70 + 80 + 90 + 100
    here, there = ({name: (store / name).read_bytes() for name in list_files(str(store))} for store in stores)
    assert here == there
