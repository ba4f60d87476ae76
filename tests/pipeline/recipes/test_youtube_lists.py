"""Published lists of YouTube, each in its own format, from the first link to a pretrained encoder.

YouTube is stubbed where yt-dlp would ask it. Cookies and signed addresses are in none of all the files of the run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands.ledger import main as ledger
from pipeline.commands.run import main as run
from pipeline.core.errors import ConfigError
from pipeline.engine.store import Store
from stages.downloading.artifacts import DOWNLOADS_NAME, iter_downloads
from stages.video.ledger import read_records
from tests.pipeline.test_secrets import SMALL
from tests.stages.downloading.stub_youtube import SESSION, SIGNATURE, StubYoutube
from tests.stages.loopback_server import running
from tests.stages.test_extract import encode

KINETICS = """label,youtube_id,time_start,time_end,split,is_cc
"abseiling",AAAAAAAAAA1,1,3,train,1
"playing cards, in bed",AAAAAAAAAA2,0,3,val,0
zumba,AAAAAAAAAA3,0,10,train,0
zumba,AAAAAAAAAA9,0,10,test,0
"""
SPORTS = """http://www.youtube.com/watch?v=AAAAAAAAAA4 0,2
http://www.youtube.com/watch?v=AAAAAAAAAA5 1
http://www.youtube.com/watch?v=AAAAAAAAAA8 1
"""
ACTIVITYNET = """{"version": "VERSION 1.3", "taxonomy": [], "database": {
    "AAAAAAAAAA6": {"duration": 4.0, "subset": "training", "resolution": "64x48",
                    "url": "https://www.youtube.com/watch?v=AAAAAAAAAA6",
                    "annotations": [{"label": "Rowing", "segment": [0.0, 1.9]}, {"label": "Kayak", "segment": [2, 4]}]}
}}
"""
IDS = "AAAAAAAAAA7\nAAAAAAAAAA0\n"
REFUSALS = {
    "AAAAAAAAAA3": "Private video. Sign in if you've been granted access to this video",
    "AAAAAAAAAA8": "Video unavailable. This video has been removed by the uploader",
    "AAAAAAAAAA9": "Sign in to confirm your age. This video may be inappropriate for some users.",
    "AAAAAAAAAA0": "The uploader has not made this video available in your country",
}
EXPECTED = {
    ("AAAAAAAAAA1", "downloaded", "abseiling", "train", "creative commons"),
    ("AAAAAAAAAA2", "downloaded", "playing cards, in bed", "validation", None),
    ("AAAAAAAAAA3", "private", "zumba", "train", None),
    ("AAAAAAAAAA9", "age", "zumba", "test", None),
    ("AAAAAAAAAA4", "downloaded", "rowing,rugby", "train", None),
    ("AAAAAAAAAA5", "downloaded", "chess", "train", None),
    ("AAAAAAAAAA8", "gone", "chess", "train", None),
    ("AAAAAAAAAA6", "downloaded", "Rowing", "train", None),
    ("AAAAAAAAAA6", "downloaded", "Kayak", "train", None),
    ("AAAAAAAAAA7", "downloaded", None, None, None),
    ("AAAAAAAAAA0", "region", None, None, None),
}


def test_a_list_with_nothing_to_learn_from_is_refused_before_anything_is_requested(tmp_path: Path) -> None:
    (tmp_path / "test_partition.txt").write_text(SPORTS)
    with pytest.raises(ConfigError, match="every link is of part test, which nothing is learned from"):
        run(["youtube", "--links", f"{tmp_path}/test_partition.txt", "--store", f"{tmp_path}/s", "--in-process"])


def test_clips_that_are_shorter_than_a_window_are_refused_before_anything_is_requested(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(IDS)
    options = ["--links", f"{tmp_path}/ids.txt", "--clip-seconds", "2", "--preset", "laptop", "--plan"]
    refusal = r"a window is 29 frames long, and a clip of 2 s \(--clip-seconds\) has at most 23 at 10 frames/s"
    with pytest.raises(ConfigError, match=refusal):
        run(["youtube", *options, "--store", f"{tmp_path}/s"])


def test_published_lists_become_an_encoder_and_nothing_private_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "kinetics_700_train.csv").write_text(KINETICS)
    (lists / "train_partition.txt").write_text(SPORTS)
    (lists / "labels.txt").write_text("rowing\nchess\nrugby\n")
    (lists / "activity_net.v1-3.min.json").write_text(ACTIVITYNET)
    (lists / "ids.txt").write_text(IDS)
    videos = {f"AAAAAAAAAA{n}": tmp_path / f"videos/{n}.mp4" for n in (1, 2, 4, 5, 6, 7)}
    for number, path in enumerate(videos.values()):
        encode(path, 100, seed=number)  # 4 s
    names = ("kinetics_700_train.csv", "train_partition.txt", "activity_net.v1-3.min.json", "ids.txt")
    private = tmp_path / "private"
    out = tmp_path / "out"
    with running(StubYoutube(videos, REFUSALS)) as youtube:
        plugins, options = youtube.install(private)
        cookies = (private / "cookies.txt").read_bytes()
        monkeypatch.syspath_prepend(str(plugins))
        command = [
            *("youtube", "--links", *(str(lists / name) for name in names), "--clip-seconds", "1.5"),
            *("--site-interval-s", "0", "--host-interval-s", "0", "--allow-private", "--yt-dlp-options", str(options)),
            *(*SMALL, "--store", str(out / "store")),
        ]
        assert run(command) == 0
        num_asked = len(youtube.paths)
        assert run(command) == 0, "the same again, of which all is there"
        assert len(youtube.paths) == num_asked
    said = capfd.readouterr()
    assert said.out.count("nothing is drawn: clips of links were deleted once their percepts were made") == 1
    assert "can no longer be read" not in said.out

    store = Store.open(str(out / "store"))
    (listed,) = (out / "store").glob(f"download/*/{DOWNLOADS_NAME}")
    records = list(iter_downloads(str(listed)))
    assert {(r.uri.rpartition("=")[2], r.status, r.label, r.part, r.licence) for r in records} == EXPECTED
    assert len(records) == len(EXPECTED)
    spans = [(r.start_s, r.end_s) for r in records if r.start_s is not None and r.end_s is not None]
    assert [end - start for start, end in spans] == [pytest.approx(1.5)] * 7
    (extracted,) = (out / "store").glob("extract/*/ledger.parquet")
    decoded = [record.frames_decoded for record in read_records(str(extracted))]
    assert decoded == [pytest.approx(37.5, abs=3)] * 7
    (num_extracted,) = (m.facts["num_frames_extracted"] for m in store.manifests() if m.stage == "extract")
    assert num_extracted == 0, "percepts were made before the files were deleted"
    assert {"download", "ingest", "extract", "pretrain", "forecast"} <= {m.stage for m in store.manifests()}
    assert not [path for path in (out / "store/downloaded/clips").rglob("*") if path.is_file()]

    assert ledger(["--store", str(out / "store"), "--why"]) == 0
    why = capfd.readouterr().out
    assert all(word in why for word in ("gone", "private", "region", "age"))

    written = {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert any(name.endswith(".db") for name in written), "MLflow's is among them"
    written |= {"stdout": (said.out + why).encode(), "stderr": said.err.encode()}
    for secret in (SESSION, SIGNATURE):
        assert not [name for name, data in written.items() if secret.encode() in data], secret
    assert (private / "cookies.txt").read_bytes() == cookies, "processes that share a file must not write it"
