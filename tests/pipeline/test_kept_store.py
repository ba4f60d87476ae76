"""Stores of other formats: one that was kept from 2026-11-24 is read by today's code, one of the future by no command.

`kept_store/format_1` is what `youtube` made of the four clips beside it at commit 8450c0e, without its report:

    python pipeline/run.py youtube --videos /srv/clips/{0,1,2,3}.mp4 SMALL --pretrain.num-steps 4 --store format_1
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.commands.table import main
from pipeline.core.errors import StoreError
from pipeline.core.files import write_json
from pipeline.engine.store import FORMAT, Store
from stages.models.pretrained import Pretrained

KEPT = Path(__file__).parent / "kept_store"
SMALL = (
    *("--extract.convnet.name", "pixels", "--extract.convnet.layer", "gray", "--extract.convnet.grid", "2"),
    *("--extract.convnet.input-px", "32", "--extract.decode.crop-px", "32", "--extract.decode.short-side-px", "32"),
    *("--pretrain.num-units", "6", "--pretrain.num-frames-in", "4", "--pretrain.num-frames-out", "3"),
    *("--pretrain.batch-size", "4", "--pretrain.window-stride", "1", "--pretrain.validation-fraction", "0.4"),
    *("--pretrain.num-steps", "4", "--workers", "1", "--held-out", "0", "--in-process", "--no-tracking"),
)
NUM_FRAMES = [10, 12, 14, 16]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_store_of_the_first_format_is_read_and_built_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "store"
    shutil.copytree(KEPT / "format_1", root)
    kept, store = files(root), ["--store", str(root)]
    (encoder,) = Store.open(str(root)).manifests("pretrain")

    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments]) == 0
        return capsys.readouterr().out

    said("verify", *store)
    rows = [json.loads(line) for line in said("ledger", "--json", *store).splitlines()]
    assert sorted(row["frames_decoded"] for row in rows) == NUM_FRAMES
    assert Pretrained.load(str(root / "pretrain" / encoder.key)).composite.config.num_units == 6
    assert "nothing has run" in said("status", *store)

    # The same videos elsewhere: their percepts are there, and the model goes on from the one that was kept.
    videos = [str(path) for path in sorted((KEPT / "clips").glob("*.mp4"))]
    warm = ["--warm-start", str(root / "pretrain" / encoder.key)]
    said("run", "youtube", "--videos", *videos, *SMALL, *warm, *store)
    newest = max(Store.open(str(root)).manifests("extract"), key=lambda manifest: manifest.finished_at)
    assert newest.facts["num_frames"] == sum(NUM_FRAMES)
    assert newest.facts["num_frames_extracted"] == 0
    said("verify", *store)
    after = files(root)
    assert {name: after[name] for name in kept} == kept


@pytest.mark.parametrize(
    "command",
    [
        ("run", "demo", "--in-process", "--no-tracking"),
        ("plan", "demo"),
        ("ledger",),
        ("verify",),
        ("verify", "--repair"),
        ("status",),
        ("prune", "--keep", "1", "--remove"),
        ("compact",),
        ("track",),
        ("takedown", "0" * 64),
    ],
    ids=" ".join,
)
def test_a_store_of_a_format_to_come_is_refused_in_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    write_json(str(tmp_path / "store.json"), {"format": FORMAT + 1, "layout": "unknown"})
    before = files(tmp_path)
    with pytest.raises(StoreError, match=rf"has format {FORMAT + 1}, this percepts writes {FORMAT}") as caught:
        main([*command, "--store", str(tmp_path)])
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before
