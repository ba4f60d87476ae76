"""What a command leaves behind, ended well, by Ctrl-C or by a signal: no process, no port, no file in /tmp."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest

from tests.pipeline.left_behind import NOTHING, Machine, machine_apart
from tests.pipeline.small_store import encode_clips

SMALL = (
    *("--extract.convnet.name", "pixels", "--extract.convnet.layer", "gray", "--extract.convnet.grid", "2"),
    *("--extract.convnet.input-px", "32", "--extract.decode.crop-px", "32", "--extract.decode.short-side-px", "32"),
    *("--pretrain.num-units", "6", "--pretrain.num-frames-in", "4", "--pretrain.num-frames-out", "3"),
    *("--pretrain.batch-size", "4", "--pretrain.window-stride", "1", "--pretrain.validation-fraction", "0.4"),
    *("--workers", "1", "--held-out", "0"),
)
TIMEOUT_S = 800


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine with four clips; the second test finds percepts of them in the store of the first."""
    with machine_apart() as made:
        encode_clips(made.data, 4)
        yield made


def arguments_of(machine: Machine) -> tuple[list[str], list[str]]:
    """The words of a run of the recipe, and those that name its store."""
    data = machine.inside / "data"
    store = ["--store", str(data / "store")]
    return ["youtube", "--videos", *(str(data / f"{number}.mp4") for number in range(4)), *SMALL, *store], store


@pytest.mark.ray
def test_commands_leave_no_process_no_port_and_no_file(machine: Machine) -> None:
    run, store = arguments_of(machine)
    commands = (
        ("plan", *run),
        ("run", *run, "--num-cpus", "1", "--pretrain.num-steps", "20"),
        ("ledger", *store),
        ("verify", *store),
        ("status", *store),
        ("prune", "--keep", "1", *store),
        ("compact", *store),
    )
    for command in commands:
        process = machine.start(*command)
        said, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, said
        assert machine.left_after_a_while() == NOTHING, command

    pages = [machine.start("ui", *store, "--port", "0", "--no-browser") for _ in range(2)]
    addresses = [page.stdout.readline() for page in pages if page.stdout is not None]
    during = machine.left()
    for address in addresses:
        assert re.findall(r":(\d+)/", address)[0] in " ".join(during["ports"]), address
    for page, number in zip(pages, (signal.SIGINT, signal.SIGTERM), strict=True):
        page.send_signal(number)
    for page in pages:
        said, _ = page.communicate(timeout=TIMEOUT_S)
        assert (page.returncode, said) == (130, "")
    assert machine.left_after_a_while() == NOTHING


@pytest.mark.ray
def test_a_run_on_ray_that_is_interrupted_ends_all_that_it_began(machine: Machine) -> None:
    run, _ = arguments_of(machine)
    process = machine.start("run", *run, "--no-tracking", "--pretrain.num-steps", "1000000", "--num-cpus", "1")
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("pretrain") and "steps" in line:
            break
    during = machine.left()
    assert len(during["processes"]) > 3, "".join(said)
    assert during["ports"]
    assert during["files"], "Ray's own are not seen"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, "".join(said) + rest
    assert machine.left_after_a_while() == NOTHING
