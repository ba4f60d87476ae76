"""Models that are named on the command line: another kind than is asked for is one line and exit status 2, at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.commands.table import main
from pipeline.core.errors import SourceError
from pipeline.options.command_line import run_command
from stages.models import load_encoder
from stages.models.composite import Composite
from stages.models.config import MODEL_FILE, CompositeSpec
from stages.models.pretrained import Pretrained
from stages.models.weights import write_tensors
from tests.pipeline.small_store import encode_clips

PLAN = ("--in-process", "--no-tracking", "--workers", "1")
WANT_ENCODERS = (
    ("plan", "embed", "--encoder"),
    ("plan", "actions", "--folder-labels", "--encoder"),
    ("plan", "youtube", "--warm-start"),
    ("plan", "demo", "--encoder"),
    ("predict",),
)
WANT_CLASSIFIERS = (("plan", "classify", "--classifier"), ("classify",))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return encode_clips(tmp_path_factory.mktemp("clips"), 3)


def refusal(words: tuple[str, ...], clips: list[str], store: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line that a command ends with."""
    of_videos = [] if "demo" in words else ["--videos", *clips] if words[0] == "plan" else clips[:1]
    options = [*PLAN, "--store", str(store)] if words[0] == "plan" else []
    with pytest.raises(SystemExit) as ended:
        run_command(partial(main, [*words, *of_videos, *options]))
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1), said
    assert not (store / "ingest").exists()
    return said


def test_another_kind_of_model_is_a_mistake_of_the_command(
    tmp_path: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    classifier, encoder, foreign = (str(tmp_path / name) for name in ("classifier", "encoder", "foreign"))
    write_tensors(f"{classifier}/{MODEL_FILE}", {"x": torch.zeros(1)}, {"class": "TrainedClassifiers"})
    torch.manual_seed(0)
    of_pixels = Composite(CompositeSpec(dim=4096, num_units=4, num_frames_in=2, num_frames_out=1))
    Pretrained(of_pixels).save(f"{encoder}/{MODEL_FILE}")
    Path(foreign).mkdir()
    save_file({"weight": torch.zeros(1)}, Path(foreign, MODEL_FILE))
    for words in WANT_ENCODERS:
        assert "kind classifier, not encoder" in refusal((*words, classifier), clips, tmp_path, capsys)
        assert "another program" in refusal((*words, foreign), clips, tmp_path, capsys)
        if words[0] == "plan":
            assert "pixels" in refusal((*words, encoder), clips, tmp_path, capsys)
    for words in WANT_CLASSIFIERS:
        assert "kind encoder, not classifier" in refusal((*words, encoder), clips, tmp_path, capsys)
        assert "another program" in refusal((*words, foreign), clips, tmp_path, capsys)
    with pytest.raises(SourceError, match="kind classifier, not encoder"):
        load_encoder(classifier)
