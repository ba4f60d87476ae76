"""extract and standardize on real encoded video: pay once, resume, close the account, same bytes however it is run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError, SourceError, WorkerDied
from pipeline.core.files import join, list_files, read_bytes, remove
from pipeline.core.stage import Context, Estimate, Resources
from pipeline.core.workers import ClusterNode, Workers
from stages.convnets import convnet as convnets
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig, extract
from stages.extraction import decode_queue, shard_extractor
from stages.extraction.shard_plan import PLAN_FILE, cut_into_shards
from stages.ingest import IngestConfig, ingest
from stages.percepts import open_store
from stages.percepts.artifacts import Percepts
from stages.percepts.node_cache import NodeCache
from stages.percepts.shards import read_references
from stages.standardize import StandardizeConfig, standardize
from stages.video.artifacts import Index
from stages.video.decode import DecodeConfig, VideoDecoder

CONFIG = ExtractConfig(
    convnet=ConvnetConfig(layer="blocks.2", grid=2, input_px=48),
    decode=DecodeConfig(short_side_px=48, crop_px=48),
    shard_frames=40,
)


def encode(path: Path, num_frames: int, seed: int) -> None:
    """An H.264 video of 64x48 pixels."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        texture = rng.integers(0, 256, (48, 128, 3), dtype=np.uint8)
        for number in range(num_frames):
            image = np.ascontiguousarray(np.roll(texture, number, axis=1)[:, :64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine videos of 10 to 26 frames, and one file that is none."""
    root = tmp_path_factory.mktemp("clips")
    for number in range(9):
        encode(root / f"{number}.mp4", 10 + 2 * number, seed=number)
    (root / "broken.mp4").write_bytes(b"no video at all")
    return root


def index_of(directory: Path, videos: Sequence[Path]) -> Index:
    return ingest(IngestConfig(videos=tuple(str(video) for video in videos)), Context.for_test(directory / "ingest"))


def context_of(store: Path | str, name: str, **changes: Any) -> Context:
    return Context.for_test(store, uri=join(str(store), "extract", name), **changes)


def all_bytes(store: str) -> dict[str, str]:
    """sha256 of every file below a store."""
    return {name: hashlib.sha256(read_bytes(join(store, name))).hexdigest() for name in list_files(store)}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that are decoded from now on."""
    names: list[str] = []

    class Counted(VideoDecoder):
        def __init__(self, path: Path, *args: Any, **kwargs: Any) -> None:
            names.append(Path(path).name)
            super().__init__(path, *args, **kwargs)

    monkeypatch.setattr(decode_queue, "VideoDecoder", Counted)
    return names


def test_percepts_are_those_of_decoder_and_convnet(clips: Path, tmp_path: Path) -> None:
    index = index_of(tmp_path, [clips])
    context = context_of(tmp_path, "a")
    store = extract(CONFIG, context, index=index).open()
    convnet = convnets.build(CONFIG.convnet)
    records = [record for record in index.records() if record.verdict != "rejected"]
    assert store.videos == tuple(record.sha256 for record in records)
    for record in records:
        chunks = list(VideoDecoder(record.uri, CONFIG.decode))
        expected = np.concatenate([convnet(chunk.frames_NHWC) for chunk in chunks])
        assert store.percepts(record.sha256).tobytes() == expected.tobytes()
        np.testing.assert_array_equal(store.rows(record.sha256).frame_N, np.arange(len(expected)))
        pts = np.concatenate([chunk.pts_us_N for chunk in chunks])
        np.testing.assert_array_equal(store.rows(record.sha256).pts_us_N, pts)
    assert context.facts["num_frames"] == sum(range(10, 28, 2)) == store.num_rows
    assert (context.facts["num_videos_ok"], context.facts["num_videos_rejected"]) == (9, 1)


def test_the_ledger_closes(clips: Path, tmp_path: Path, shared_data: Path) -> None:
    videos = [clips, shared_data / "odd" / "mp4parse_no_timescale.mp4", shared_data / "odd" / "decord_corrupted.mp4"]
    percepts = extract(CONFIG, context_of(tmp_path, "a"), index=index_of(tmp_path, videos))
    store = percepts.open()
    records = percepts.records()
    assert {record.verdict for record in records} == {"ok", "partial", "rejected"}
    for record in records:
        assert record.frames_decoded is not None
        rows = len(store.percepts(record.sha256)) if record.sha256 in store.videos else 0
        assert rows == record.frames_decoded
    partial = next(record for record in records if record.verdict == "partial")
    assert partial.reason
    assert partial.frames_missing
    assert store.rows(partial.sha256).segment_N.max() > 0


def test_shards_json_names_what_is_there(clips: Path, tmp_path: Path) -> None:
    percepts = extract(CONFIG, context_of(tmp_path, "a"), index=index_of(tmp_path, [clips]))
    references = read_references(percepts.uri)
    assert len(references) > 2
    for shard in references:
        data = (tmp_path / shard.path).read_bytes()
        assert (shard.sha256, shard.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert shard.rows == pq.read_metadata(tmp_path / shard.path).num_rows
        assert shard.path.startswith("percepts/")
    assert sum(len(shard.videos) for shard in references) == 9


def test_growing_an_index_extracts_what_is_new(clips: Path, tmp_path: Path, decoded: list[str]) -> None:
    old = [clips / f"{number}.mp4" for number in range(5)]
    extract(CONFIG, context_of(tmp_path, "a"), index=index_of(tmp_path / "a", old))
    assert sorted(decoded) == [f"{number}.mp4" for number in range(5)]
    decoded.clear()
    # A copy has other names and the same bytes.
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((clips / "1.mp4").read_bytes())
    grown = index_of(tmp_path / "b", [copy, *old, clips / "7.mp4", clips / "8.mp4"])
    percepts = extract(CONFIG, context_of(tmp_path, "b"), index=grown)
    assert sorted(decoded) == ["7.mp4", "8.mp4"]
    # Another layer is another fingerprint, and touches nothing of the old one.
    before = all_bytes(str(tmp_path))
    decoded.clear()
    other = replace(CONFIG, convnet=replace(CONFIG.convnet, layer="stem"))
    extract(other, context_of(tmp_path, "c"), index=grown)
    assert len(decoded) == 7
    assert before.items() <= all_bytes(str(tmp_path)).items()
    fresh = extract(CONFIG, context_of(tmp_path / "fresh", "b"), index=grown)
    one, two = percepts.open(), fresh.open()
    assert one.videos == two.videos
    assert np.concatenate(list(one.pieces())).tobytes() == np.concatenate(list(two.pieces())).tobytes()
    assert "same bytes as" in percepts.records()[2].reason


class Dies(Workers):
    """A pool whose driver is lost after some shards, in the middle of the next one."""

    def map(self, factory: Callable[[], Any], items: Sequence[Any], **settings: Any) -> Iterator[tuple[int, Any]]:
        for position, result in super().map(factory, items, **settings):
            yield position, result
            if position == 1:
                raise KeyboardInterrupt


def test_killed_and_begun_again_ends_with_the_same_bytes(
    clips: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(tmp_path, [clips])
    extract(CONFIG, context_of(tmp_path / "whole", "a"), index=index)
    decoded.clear()
    with pytest.raises(KeyboardInterrupt):
        extract(CONFIG, context_of(tmp_path / "killed", "a", workers=Dies()), index=index)
    finished = set(decoded)
    assert 0 < len(finished) < 9
    decoded.clear()
    # Now in the middle of a file: after its first row group, before its sidecar.
    original = shard_extractor.ShardWriter.write

    def dies(self: Any, *args: Any) -> None:
        original(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_extractor.ShardWriter, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            extract(CONFIG, context_of(tmp_path / "killed", "a"), index=index)
    decoded.clear()
    extract(CONFIG, context_of(tmp_path / "killed", "a"), index=index)
    assert finished.isdisjoint(decoded)
    assert all_bytes(str(tmp_path / "killed")) == all_bytes(str(tmp_path / "whole"))


class Backwards(Workers):
    """A pool that takes items in reverse order, each in a worker of its own."""

    def map(self, factory: Callable[[], Any], items: Sequence[Any], **settings: Any) -> Iterator[tuple[int, Any]]:
        for position in reversed(range(len(items))):
            yield position, factory()(items[position])


def test_bytes_do_not_depend_on_workers(clips: Path, tmp_path: Path) -> None:
    index = index_of(tmp_path, [clips])
    extract(CONFIG, context_of(tmp_path / "one", "a"), index=index)
    extract(CONFIG, context_of(tmp_path / "two", "a", workers=Backwards()), index=index)
    assert all_bytes(str(tmp_path / "one")) == all_bytes(str(tmp_path / "two"))


def test_percepts_do_not_depend_on_shard_boundaries(clips: Path, tmp_path: Path) -> None:
    index = index_of(tmp_path, [clips])
    scans = []
    for shard_frames in (1, 40, 1000):
        config = replace(CONFIG, shard_frames=shard_frames)
        percepts = extract(config, context_of(tmp_path / str(shard_frames), "a"), index=index)
        scans.append(np.concatenate(list(percepts.open().pieces())).tobytes())
    assert scans[0] == scans[1] == scans[2]


def test_decoding_in_isolated_processes_gives_the_same_bytes(clips: Path, tmp_path: Path) -> None:
    class Replaceable(Workers):
        """A pool in which every item is a second try."""

        def map(self, factory: Callable[[], Any], items: Sequence[Any], **settings: Any) -> Iterator[tuple[int, Any]]:
            return super().map(factory, [settings["on_retry"](item) for item in items], num_workers=1)

    index = index_of(tmp_path, [clips])
    extract(CONFIG, context_of(tmp_path / "one", "a"), index=index)
    extract(CONFIG, context_of(tmp_path / "two", "a", workers=Replaceable()), index=index)
    assert all_bytes(str(tmp_path / "one")) == all_bytes(str(tmp_path / "two"))


def elsewhere(context: Context, num_decoders: int) -> Context:
    """The same context on two workers' cores, with decoders that are processes of their own."""

    class Cores(Workers):
        def nodes(self) -> tuple[ClusterNode, ...]:
            return (ClusterNode(num_cpus=8),)

    return replace(context, workers=Cores(), resources=Resources(decoders_per_gpu=num_decoders))


def test_bytes_do_not_depend_on_decoders_or_on_the_order_of_their_frames(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard of nine videos: decoded one by one; side by side; with room for few rows that wait; elsewhere."""
    index = index_of(tmp_path, [clips])
    config = replace(CONFIG, shard_frames=1000)
    extract(config, context_of(tmp_path / "one", "a"), index=index)
    expected = all_bytes(str(tmp_path / "one"))
    context = context_of(tmp_path / "many", "a")
    extract(config, elsewhere(context, 5), index=index)
    assert context.facts["num_decoders"] == 5
    assert all_bytes(str(tmp_path / "many")) == expected
    with monkeypatch.context() as patch:
        patch.setattr("stages.extraction.ordered_rows.MAX_BUFFERED_BYTES", 1)
        extract(config, elsewhere(context_of(tmp_path / "few", "a"), 5), index=index)
    assert all_bytes(str(tmp_path / "few")) == expected


def test_a_video_on_which_processes_die_elsewhere_is_decoded_here(clips: Path, tmp_path: Path) -> None:
    class Lost(Workers):
        def nodes(self) -> tuple[ClusterNode, ...]:
            return (ClusterNode(num_cpus=8),)

        def stream(self, function: Callable[[Any], Iterator[Any]], item: Any, *, ahead: int) -> Any:
            events = function(item)
            if item.uri.endswith(("3.mp4", "4.mp4")):
                if item.uri.endswith("4.mp4"):
                    yield next(events)
                raise WorkerDied("processes died")
            yield from events

    index = index_of(tmp_path, [clips])
    extract(CONFIG, context_of(tmp_path / "here", "a"), index=index)
    resources = Resources(decoders_per_gpu=2)
    extract(CONFIG, context_of(tmp_path / "there", "a", workers=Lost(), resources=resources), index=index)
    assert all_bytes(str(tmp_path / "here")) == all_bytes(str(tmp_path / "there"))


def test_a_video_rejected_after_frames_came_out(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class GivesUp(VideoDecoder):
        @property
        def report(self) -> Any:
            if not str(self.path).endswith("4.mp4"):
                return super().report
            return replace(super().report, frames_decoded=0, frames_missing=18, verdict="rejected", reason="too slow")

    monkeypatch.setattr(decode_queue, "VideoDecoder", GivesUp)
    percepts = extract(CONFIG, context_of(tmp_path, "a"), index=index_of(tmp_path, [clips]))
    record = next(record for record in percepts.records() if record.uri.endswith("4.mp4"))
    assert (record.verdict, record.reason, record.frames_missing) == ("rejected", "too slow", 18)
    assert percepts.open().num_rows == sum(range(10, 28, 2)) - 18


def test_a_video_that_changed_since_it_was_indexed(clips: Path, tmp_path: Path, decoded: list[str]) -> None:
    moved, gone, kept = (tmp_path / name for name in ("moved.mp4", "gone.mp4", "kept.mp4"))
    for number, path in enumerate((moved, gone, kept)):
        path.write_bytes((clips / f"{number}.mp4").read_bytes())
    index = index_of(tmp_path, [moved, gone, kept])
    original = moved.read_bytes()
    moved.write_bytes((clips / "5.mp4").read_bytes())
    gone.unlink()
    percepts = extract(CONFIG, context_of(tmp_path, "a"), index=index)
    assert [record.verdict for record in percepts.records()] == ["rejected", "rejected", "ok"]
    assert percepts.records()[0].reason.startswith("its bytes have changed since it was indexed")
    assert percepts.records()[1].reason.startswith("cannot be read: No such file")
    # Not the bytes' fault: the next artifact tries again, and only these.
    moved.write_bytes(original)
    gone.write_bytes((clips / "1.mp4").read_bytes())
    decoded.clear()
    again = extract(CONFIG, context_of(tmp_path, "b"), index=index)
    assert sorted(decoded) == ["gone.mp4", "moved.mp4"]
    assert [record.verdict for record in again.records()] == ["ok", "ok", "ok"]


def test_a_plan_that_counts_on_a_lost_shard_is_made_again(clips: Path, tmp_path: Path) -> None:
    index = index_of(tmp_path, [clips])
    extract(CONFIG, context_of(tmp_path, "a"), index=index)
    second = extract(CONFIG, context_of(tmp_path, "b"), index=index)
    lost = read_references(second.uri)[0].path.removesuffix(".parquet")
    for suffix in (".json", ".parquet"):
        remove(join(str(tmp_path), lost + suffix))
    assert extract(CONFIG, context_of(tmp_path, "b"), index=index).open().num_rows == sum(range(10, 28, 2))


def test_s3(s3_bucket: str, clips: Path, tmp_path: Path) -> None:
    index = index_of(tmp_path, [clips / "0.mp4", clips / "5.mp4"])
    here = extract(CONFIG, context_of(tmp_path, "a"), index=index)
    there = extract(CONFIG, context_of(f"{s3_bucket}/store", "a"), index=index)
    assert [shard.sha256 for shard in read_references(here.uri)] == [
        shard.sha256 for shard in read_references(there.uri)
    ]
    store = open_store(there.uri, cache=NodeCache(tmp_path / "cache"))
    assert np.concatenate(list(store.pieces())).tobytes() == np.concatenate(list(here.open().pieces())).tobytes()


def test_no_frame_at_all_is_an_error(clips: Path, tmp_path: Path) -> None:
    index = index_of(tmp_path, [clips / "broken.mp4"])
    for _ in range(2):  # the second time by the plan that was written down
        with pytest.raises(SourceError, match="no video of the index gave a frame"):
            extract(CONFIG, context_of(tmp_path, "a"), index=index)


def test_config_and_plan() -> None:
    with pytest.raises(ConfigError, match=r"crops to 224 px and the convnet takes 96 px; set decode\.crop_px"):
        ExtractConfig(convnet=ConvnetConfig(input_px=96))
    with pytest.raises(ConfigError, match="shard_frames is 0; it must be at least 1"):
        ExtractConfig(shard_frames=0)
    assert cut_into_shards([10, 50, 5, 5, 200, 1], 40) == [2, 5, 6]
    assert cut_into_shards([10, 50, 5], 5) == [1, 2, 3]
    assert cut_into_shards([], 5) == []
    assert extract.estimate is not None
    estimate = extract.estimate(CONFIG, {"index": Estimate(num_frames=1000)})
    assert (estimate.num_frames, estimate.num_bytes) == (1000, 1000 * (2 * 96 + 17))
    assert extract.snapshot is not None
    assert extract.snapshot(CONFIG) != extract.snapshot(replace(CONFIG, convnet=replace(CONFIG.convnet, grid=1)))


@pytest.fixture
def labelled(clips: Path, tmp_path: Path) -> Percepts:
    """Videos 0 to 2 of part unlabelled, 3 to 5 of part train."""
    manifest = tmp_path / "videos.csv"
    rows = [f"{clips / f'{n}.mp4'},{'unlabelled' if n < 3 else 'train'}" for n in range(6)]
    manifest.write_text("\n".join(["uri,part", *rows]) + "\n")
    return extract(CONFIG, context_of(tmp_path, "a"), index=index_of(tmp_path, [manifest]))


def test_statistics_equal_numpys(labelled: Percepts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.standardize.BLOCK_ROWS", 7)
    statistics = standardize(StandardizeConfig(parts=("unlabelled",)), context_of(tmp_path, "s"), percepts=labelled)
    moments = statistics.moments()
    rows = np.concatenate(list(labelled.open(parts=["unlabelled"]).pieces())).astype(np.float64)
    assert moments.num_rows == len(rows) == 10 + 12 + 14
    np.testing.assert_allclose(moments.mean_D, rows.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(moments.std_D, rows.std(0), rtol=1e-6, atol=1e-7)
    everything = standardize(StandardizeConfig(), context_of(tmp_path, "t"), percepts=labelled).moments()
    assert everything.num_rows == 10 + 12 + 14 + 16 + 18 + 20


def test_a_part_that_is_not_there(labelled: Percepts) -> None:
    with pytest.raises(SourceError, match="no video with frames is of part tset; parts here: train, unlabelled"):
        labelled.open(parts=["tset"])
    plan = pq.read_table(labelled.path(PLAN_FILE)).to_pydict()
    assert len(plan["video"]) == len(set(plan["video"])) == 6
    assert not any(plan["is_stored"])
