"""Embeddings of a collection, against those of single windows by the encoder itself; read by pandas and DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import pytest
import torch

import stages.serving.parts
from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.stage import Context
from stages.embed import EmbedConfig, embed
from stages.models.artifacts import Encoder
from stages.models.composite import Composite
from stages.models.config import MODEL_FILE, CompositeSpec
from stages.models.pretrained import Pretrained
from stages.percepts.schema import Extractor
from stages.percepts.takedowns import Takedown, write_takedown
from stages.serving.artifacts import Embeddings
from stages.serving.parts import Part
from tests.stages.made_percepts import DIM, EXTRACTOR, circle, make_percepts, name_of

NUM_FRAMES, LENGTH, UNITS, LAYERS = 24, 6, 16, 2
NUM_VIDEOS = 9
NUM_VALUES = 2 * LAYERS * UNITS

Rows = list[dict[str, Any]]


def make_encoder(directory: Path, extractor: Extractor | None = EXTRACTOR) -> Encoder:
    torch.manual_seed(3)
    config = CompositeSpec(dim=DIM, num_units=UNITS, num_layers=LAYERS, num_frames_in=LENGTH, num_frames_out=4)
    Pretrained(Composite(config), extractor=extractor).save(str(directory / MODEL_FILE))
    return Encoder(str(directory))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("store")
    percepts, _ = make_percepts(directory, {"unlabelled": NUM_VIDEOS}, num_frames=NUM_FRAMES)
    return {"percepts": percepts, "encoder": make_encoder(directory / "encoder")}


def expected(encoder: Encoder, video: int, stride: int) -> npt.NDArray[np.float32]:
    """(windows, R), a window at a time."""
    frames = circle(video, NUM_FRAMES).astype(np.float32)
    windows = [frames[None, start : start + LENGTH] for start in range(0, NUM_FRAMES - LENGTH + 1, stride)]
    pretrained = Pretrained.load(encoder.uri)
    return np.concatenate([pretrained.represent(window) for window in windows])


def take_down(store: Path, video: int) -> None:
    at = "2026-11-27T00:00:00+00:00"
    write_takedown(str(store), Takedown(video=name_of(video), at=at, reason="", uris=(), seen_by=()))


def rows_of(embeddings: Embeddings) -> Rows:
    rows: Rows = embeddings.table().to_pylist()
    return rows


@pytest.mark.parametrize("stride", [None, 5])
def test_windows_are_embedded_as_the_encoder_embeds_them(
    tmp_path: Path, inputs: dict[str, Any], stride: int | None
) -> None:
    rows = rows_of(embed(EmbedConfig(window_stride=stride), Context.for_test(tmp_path), **inputs))
    step, place = stride or LENGTH, 0
    for video in range(NUM_VIDEOS):
        for window, embedding in enumerate(expected(inputs["encoder"], video, step)):
            row = rows[place]
            assert (row["video"], row["window"], row["first_frame"]) == (name_of(video), window, window * step)
            assert row["uri"].endswith(f"/{video}.mp4")
            assert row["label"] is None
            assert (row["start_us"], row["end_us"]) == (window * step * 40_000, (window * step + LENGTH - 1) * 40_000)
            np.testing.assert_allclose(row["embedding"], embedding, rtol=1e-5, atol=1e-6)
            place += 1
    assert place == len(rows)


def test_a_video_is_the_mean_of_its_windows(tmp_path: Path, inputs: dict[str, Any]) -> None:
    rows = rows_of(embed(EmbedConfig(per="video", window_stride=2), Context.for_test(tmp_path), **inputs))
    assert [row["video"] for row in rows] == [name_of(video) for video in range(NUM_VIDEOS)]
    for video, row in enumerate(rows):
        embedding_WR = expected(inputs["encoder"], video, 2)
        assert row["num_windows"] == len(embedding_WR)
        np.testing.assert_allclose(row["embedding"], embedding_WR.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bounds", [{"PART_BYTES": 4 * NUM_VALUES * 5, "WINDOWS_A_VIDEO": 1}, {"PART_WINDOWS": 5}])
@pytest.mark.parametrize("per", ["window", "video"])
def test_many_files_hold_the_rows_of_one(
    tmp_path: Path, inputs: dict[str, Any], per: Any, bounds: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed(EmbedConfig(per=per), Context.for_test(tmp_path / "whole"), **inputs)
    for name, number in bounds.items():
        monkeypatch.setattr(stages.serving.parts, name, number)
    cut = embed(EmbedConfig(per=per), Context.for_test(tmp_path / "cut"), **inputs)
    assert (len(whole.files()), len(cut.files())) == (1, 5)  # four windows a video, two videos a file
    for one, other in zip(rows_of(whole), rows_of(cut), strict=True):
        np.testing.assert_allclose(one.pop("embedding"), other.pop("embedding"), rtol=1e-5, atol=1e-6)
        assert one == other


def test_what_was_written_is_not_made_again_and_is_used_for_the_same_windows_alone(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.serving.parts, "PART_BYTES", 4 * NUM_VALUES * 5)
    first = embed(EmbedConfig(), Context.for_test(tmp_path), **inputs)
    before = {uri: Path(uri).read_bytes() for uri in first.files()}
    kept, lost = first.files()[0], first.files()[-1]
    stamp = Path(kept).stat().st_mtime_ns
    Path(lost).unlink()  # as if the run had been killed before its last part
    again = embed(EmbedConfig(), Context.for_test(tmp_path), **inputs)
    assert {uri: Path(uri).read_bytes() for uri in again.files()} == before
    assert Path(kept).stat().st_mtime_ns == stamp
    other = embed(EmbedConfig(window_stride=3), Context.for_test(tmp_path), **inputs)
    assert not set(other.files()) & set(before)


def test_a_video_that_was_taken_down_has_no_embedding(tmp_path: Path) -> None:
    percepts, _ = make_percepts(tmp_path, {"unlabelled": 3}, num_frames=NUM_FRAMES)
    inputs = {"percepts": percepts, "encoder": make_encoder(tmp_path / "encoder")}
    context = Context.for_test(tmp_path)
    assert {row["video"] for row in rows_of(embed(EmbedConfig(), context, **inputs))} == set(map(name_of, range(3)))
    take_down(tmp_path, 1)
    left = embed(EmbedConfig(), context, **inputs)  # a run that was interrupted by a takedown, and goes on
    assert {row["video"] for row in rows_of(left)} == {name_of(0), name_of(2)}


def test_a_takedown_between_cutting_and_writing_shifts_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find fewer videos than the parts were cut of, and would write those of other numbers."""
    percepts, _ = make_percepts(tmp_path, {"unlabelled": 3}, num_frames=NUM_FRAMES)
    inputs = {"percepts": percepts, "encoder": make_encoder(tmp_path / "encoder")}

    def cut_parts(*given: Any, **named: Any) -> list[Part]:
        parts = stages.serving.parts.cut_parts(*given, **named)
        take_down(tmp_path, 1)
        return parts

    with monkeypatch.context() as patch:
        patch.setattr("stages.embed.cut_parts", cut_parts)
        with pytest.raises(SourceError, match="1 of 3 videos were taken down"):
            embed(EmbedConfig(), Context.for_test(tmp_path), **inputs)
    left = embed(EmbedConfig(), Context.for_test(tmp_path), **inputs)
    assert {row["video"] for row in rows_of(left)} == {name_of(0), name_of(2)}


def test_a_takedown_while_the_last_part_is_written_leaves_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    percepts, _ = make_percepts(tmp_path, {"unlabelled": 3}, num_frames=NUM_FRAMES)
    inputs = {"percepts": percepts, "encoder": make_encoder(tmp_path / "encoder")}

    def write_part(*given: Any) -> None:
        stages.serving.parts.write_part(*given)
        take_down(tmp_path, 1)

    context = Context.for_test(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("stages.serving.embedding.write_part", write_part)
        with pytest.raises(SourceError, match="1 of 3 videos were taken down"):
            embed(EmbedConfig(), context, **inputs)
    assert not list(Path(context.uri).rglob("*.parquet"))
    left = embed(EmbedConfig(), context, **inputs)
    assert {row["video"] for row in rows_of(left)} == {name_of(0), name_of(2)}


def test_pandas_and_duckdb_read_the_folder(tmp_path: Path, inputs: dict[str, Any]) -> None:
    duckdb = pytest.importorskip("duckdb")
    embeddings = embed(EmbedConfig(), Context.for_test(tmp_path), **inputs)
    folder = str(Path(embeddings.files()[0]).parent)
    frame = pandas.read_parquet(folder)
    assert np.stack(frame["embedding"]).shape == (NUM_VIDEOS * 4, NUM_VALUES)
    nearest = duckdb.sql(
        f"select b.video from '{folder}/*.parquet' a, '{folder}/*.parquet' b where a.video = '{name_of(2)}' "
        f"and a.window = 0 order by list_cosine_similarity(a.embedding, b.embedding) desc limit 1"
    ).fetchall()
    assert nearest == [(name_of(2),)]


def test_videos_without_a_window_are_counted(tmp_path: Path) -> None:
    percepts, _ = make_percepts(tmp_path, {"unlabelled": 2}, num_frames=LENGTH - 1)
    with pytest.raises(SourceError, match=f"no video has {LENGTH} frames"):
        embed(EmbedConfig(), Context.for_test(tmp_path), percepts=percepts, encoder=make_encoder(tmp_path / "e"))


@pytest.mark.parametrize(
    ("extractor", "word"), [(None, "pixels"), (Extractor(settings={"convnet": {"name": "other"}}, dim=DIM), "convnet")]
)
def test_an_encoder_of_other_frames_is_refused(
    tmp_path: Path, inputs: dict[str, Any], extractor: Extractor | None, word: str
) -> None:
    encoder = make_encoder(tmp_path / "encoder", extractor)
    with pytest.raises(ConfigError, match=word):
        embed(EmbedConfig(), Context.for_test(tmp_path), percepts=inputs["percepts"], encoder=encoder)
