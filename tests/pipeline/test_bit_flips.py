"""One flipped bit in any file of a finished store: the same outputs, or one line that names the file; never others."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.commands.verify import main as verify
from pipeline.core.errors import CorruptArtifact, PerceptsError
from pipeline.core.events import discard
from pipeline.engine.display import Display
from pipeline.engine.execute import Execution
from pipeline.engine.in_process import InProcessSession, make_in_process
from pipeline.engine.plan import Plan
from pipeline.engine.status import look_up
from pipeline.engine.store import MANIFEST, Store
from pipeline.engine.tracking.no_tracking import NoTracker
from tests.bit_flips import flip
from tests.pipeline.small_store import all_bytes, clips, plan_of

__all__ = ["clips"]

LAST = "standardize"


def run(root: Path, plan: Plan) -> None:
    """Makes what is missing, as `run --in-process` does it."""
    display = Display(plan.recipe, [node.name for node in plan.nodes], Console(quiet=True))
    store = Store.open(str(root), create=True)
    steps = look_up(plan, store)
    execution = Execution(plan.recipe, steps, store, NoTracker, display, make_stage=make_in_process)

    execution.run(lambda: nullcontext(InProcessSession(discard)))


@pytest.fixture(scope="module")
def finished(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "store"
    run(root, plan_of(clips))
    return root


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("has_work_left", [False, True], ids=["complete", "last stage missing"])
def test_a_flipped_bit_is_never_other_numbers(
    finished: Path, clips: list[str], tmp_path: Path, seed: int, has_work_left: bool
) -> None:
    intact, plan = all_bytes(str(finished)), plan_of(clips)
    names = sorted(str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file())
    num_named = 0
    for name in names:
        root = tmp_path / "store"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(finished, root)
        if has_work_left:
            if name.startswith(f"{LAST}/"):
                continue
            shutil.rmtree(root / LAST)
        flip(root / name, seed)
        try:
            run(root, plan)
        except PerceptsError as error:
            num_named += 1
            message = str(error)
            assert "\n" not in message, name
            assert Path(name).stem in message or Path(name).parent.name in message, (name, message)
            assert any(word in message for word in ("verify", "remove", "write", "upgrade")), (name, message)
        else:
            after = all_bytes(str(root))
            assert {other: digest for other, digest in after.items() if other != name} == {
                other: digest for other, digest in intact.items() if other != name
            }, name
    assert num_named >= 3


def test_a_repair_takes_what_was_made_of_the_damaged_and_the_next_run_makes_it_again(
    finished: Path, clips: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, plan = tmp_path / "store", plan_of(clips)
    shutil.copytree(finished, root)
    (index,) = root.glob("ingest/*/index.parquet")
    flip(index, 0)
    with pytest.raises(CorruptArtifact, match=r"index\.parquet is damaged.*percepts verify --repair --store"):
        run(root, plan)
    assert verify(["--store", str(root), "--repair"]) == 0
    out = capsys.readouterr().out
    assert out.count("made of damaged") == 2
    assert not list(root.glob(f"{LAST}/*/{MANIFEST}"))
    assert list(root.glob("percepts/*/*.parquet")), "percepts are paid for once"
    run(root, plan)
    assert all_bytes(str(root)) == all_bytes(str(finished))


def test_a_plan_sees_a_file_that_is_cut_short(finished: Path, clips: list[str], tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(finished, root)
    (path,) = root.glob("standardize/*/statistics.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact, match=r"statistics\.safetensors has \d+ bytes, its manifest says"):
        look_up(plan_of(clips), Store.open(str(root)))
