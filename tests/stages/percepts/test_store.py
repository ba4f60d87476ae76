"""The Parquet store: pyarrow, pandas and DuckDB read what we write, and we map exactly what pyarrow reads."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import CorruptArtifact, SourceError, StoreError
from pipeline.core.files import open_atomic
from stages.percepts import Windows, open_store
from stages.percepts.node_cache import NodeCache
from stages.percepts.schema import ROW_GROUP_ROWS, Extractor, read_extractor
from stages.percepts.writer import Compression, ShardWriter
from tests.stages.percepts.made_store import DIM, EXTRACTOR, shard_bytes, values, video_name, write_shard

SEGMENTS = {3: [1500], 1: [700, 1200], 2: [2000]}


def as_pyarrow_reads(path: Path) -> npt.NDArray[np.float16]:
    column = pq.read_table(path)["percept"]
    return np.frombuffer(b"".join(value.as_py() for value in column), "<f2").reshape(len(column), -1)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_arrays_equal_what_pyarrow_reads(tmp_path: Path, compression: Compression) -> None:
    path = tmp_path / "a.parquet"
    write_shard(str(path), SEGMENTS, compression=compression)
    store = open_store(str(path))
    assert store.videos == (video_name(1), video_name(2), video_name(3))
    assert (store.dim, store.num_rows, store.extractor) == (DIM, 5400, EXTRACTOR)
    written = np.concatenate([store.percepts(video_name(video)) for video in SEGMENTS])
    assert written.tobytes() == as_pyarrow_reads(path).tobytes()
    for video, lengths in SEGMENTS.items():
        np.testing.assert_array_equal(store.percepts(video_name(video)), values(video, sum(lengths)))
    np.testing.assert_array_equal(store.rows(video_name(1)).segment_N, np.repeat([0, 1], [700, 1200]))
    assert store.rows(video_name(1)).frame_N[-1] == 1900
    assert store.rows(video_name(1)).pts_us_N[-1] == 1900 * 40_000


def test_uncompressed_percepts_are_mapped_and_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(str(path), SEGMENTS)
    store = open_store(str(path))
    assert str(path) in Path("/proc/self/maps").read_text()
    assert str(path) not in open_files()
    views = list(store.pieces())
    assert all(np.shares_memory(view, store.files[0].percepts.data) for view in views)
    # Rows 0 to 5399 of the file in groups of 2048 (bounds 2048, 4096) and videos (1500, 3400): no further cuts.
    assert [len(view) for view in views] == [548, 1352, 696, 1304, 1500]
    expected = [values(video, num_rows) for video, num_rows in ((1, 1900), (2, 2000), (3, 1500))]
    np.testing.assert_array_equal(np.concatenate(views), np.concatenate(expected))


def open_files() -> set[str]:
    """Paths behind this process's file descriptors."""
    links = [Path(link) for link in Path("/proc/self/fd").iterdir()]
    return {str(link.readlink()) for link in links if link.is_symlink()}


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_was_opened_outlives_its_file(tmp_path: Path, compression: Compression) -> None:
    path = tmp_path / "a.parquet"
    write_shard(str(path), SEGMENTS, compression=compression)
    store = open_store(str(path))
    path.unlink()
    np.testing.assert_array_equal(store.percepts(video_name(2)), values(2, 2000))


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 2000), max_size=6).map(sorted))
def test_bytes_do_not_depend_on_how_rows_arrive(cuts: list[int]) -> None:
    assert shard_bytes(SEGMENTS, cuts=cuts) == shard_bytes(SEGMENTS)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.dictionaries(st.integers(0, 50), st.lists(st.integers(1, 3000), min_size=1, max_size=3), max_size=4),
    compressed=st.booleans(),
)
def test_any_shape_of_file_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[int, list[int]], compressed: bool
) -> None:
    path = tmp_path_factory.mktemp("store") / "a.parquet"
    write_shard(str(path), rows, compression="zstd" if compressed else "none")
    store = open_store(str(path))
    assert store.num_rows == sum(sum(lengths) for lengths in rows.values())
    assert len(store.videos) == len(rows)
    for video, lengths in rows.items():
        np.testing.assert_array_equal(store.percepts(video_name(video)), values(video, sum(lengths)))
        segment_N = np.repeat(np.arange(len(lengths)), lengths)
        found = store.rows(video_name(video))
        np.testing.assert_array_equal(found.segment_N, segment_N)
        np.testing.assert_array_equal(found.frame_N, np.arange(sum(lengths)) + segment_N)
        np.testing.assert_array_equal(found.pts_us_N, found.frame_N * 40_000)
        np.testing.assert_array_equal(store.segment_of_rows(video_name(video)), segment_N)
    order = [video_name(video) for video in sorted(rows, reverse=True)]
    segments = store.select(order).segments()
    assert segments.num_rows_S.tolist() == [length for video in sorted(rows, reverse=True) for length in rows[video]]
    assert segments.video_S.tolist() == [n for n, video in enumerate(sorted(rows, reverse=True)) for _ in rows[video]]


def test_an_open_store_holds_nothing_a_row(tmp_path: Path) -> None:
    write_shard(str(tmp_path / "a.parquet"), {1: [200_000], 2: [100_000]})
    open_store(str(tmp_path / "a.parquet"))  # whatever is imported when it is first used
    helds = []
    for _ in range(3):  # threads that earlier tests left allocate, too
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            store = open_store(str(tmp_path / "a.parquet"))
            windows = Windows(store, length=29)
            gc.collect()
            helds.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before)
        finally:
            tracemalloc.stop()
    assert len(windows) == 300_000 - 2 * 28
    assert min(helds) < store.num_rows / 10


def test_row_groups_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(str(path), SEGMENTS)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(3)] == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 1304]
    schema = pq.read_schema(path)
    assert schema.field("video").type == pa.dictionary(pa.int32(), pa.string())
    assert schema.field("percept").type == pa.binary(2 * DIM)
    assert json.loads(schema.metadata[b"percepts"])["fingerprint"] == EXTRACTOR.fingerprint


def test_pandas_and_duckdb_read_the_table(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(str(path), SEGMENTS)
    table = open_store(str(path)).table()
    frame = table.to_pandas()
    np.testing.assert_array_equal(np.stack(frame["percept"][:1900]), values(1, 1900).astype(np.float32))
    query = "select video, count(*), sum(percept[2]) from frames group by video order by video"
    rows = duckdb.connect().register("frames", table).sql(query).fetchall()
    assert [row[:2] for row in rows] == [(video_name(1), 1900), (video_name(2), 2000), (video_name(3), 1500)]
    assert rows[0][2] == pytest.approx(values(1, 1900)[:, 1].astype(np.float32).sum(dtype=np.float64))


def test_duckdb_reads_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(str(path), SEGMENTS)
    query = f"select video, frame, percept from '{path}' where video = '{video_name(2)}' and frame = 77"
    ((video, frame, percept),) = duckdb.connect().sql(query).fetchall()
    assert (video, frame) == (video_name(2), 77)
    np.testing.assert_array_equal(np.frombuffer(percept, "<f2"), values(2, 78)[77])


def test_a_directory_and_a_selection(tmp_path: Path) -> None:
    write_shard(str(tmp_path / "x" / "a.parquet"), {5: [10], 2: [20]})
    write_shard(str(tmp_path / "x" / "b.parquet"), {1: [30], 2: [20]})
    store = open_store(str(tmp_path / "x"))
    assert store.videos == (video_name(1), video_name(2), video_name(5))
    assert store.num_rows == 60
    some = store.select([video_name(5), video_name(99), video_name(1)])
    assert some.videos == (video_name(5), video_name(1))
    assert some.num_rows == 40
    np.testing.assert_array_equal(np.concatenate(list(some.pieces())), np.concatenate([values(5, 10), values(1, 30)]))
    assert some.table().num_rows == 40
    assert store.select([]).table().num_rows == 0


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there are no percepts at"):
        open_store(str(tmp_path))
    path = tmp_path / "a.parquet"
    data = shard_bytes(SEGMENTS)
    path.write_bytes(data[:-9])
    with pytest.raises(CorruptArtifact, match="not a whole Parquet file"):
        open_store(str(path))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(CorruptArtifact, match="holds no percepts"):
        open_store(str(path))
    newer = json.loads(EXTRACTOR.metadata()[b"percepts"]) | {"format": 2}
    with pytest.raises(StoreError, match="percept format 2, this version reads up to 1; upgrade"):
        read_extractor({b"percepts": json.dumps(newer).encode()}, "a.parquet")
    write_shard(str(path), {1: [3]})
    write_shard(str(tmp_path / "b.parquet"), {2: [3]}, extractor=Extractor(settings={"other": 1}, dim=DIM))
    with pytest.raises(CorruptArtifact, match="have different extractors"):
        open_store(str(tmp_path))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_s3(s3_bucket: str, tmp_path: Path, compression: Compression) -> None:
    write_shard(f"{s3_bucket}/store/a.parquet", SEGMENTS, compression=compression)
    cache = NodeCache(tmp_path / "cache")
    store = open_store(f"{s3_bucket}/store", cache=cache)
    np.testing.assert_array_equal(store.percepts(video_name(2)), values(2, 2000))
    cached = sorted(path.name for path in (tmp_path / "cache").iterdir())
    again = open_store(f"{s3_bucket}/store", cache=cache)
    np.testing.assert_array_equal(again.percepts(video_name(1)), values(1, 1900))
    assert cached == sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_a_compressed_file_is_written_out_once_a_node(tmp_path: Path) -> None:
    said: list[str] = []
    cache = NodeCache(tmp_path / "cache", log=said.append)
    write_shard(str(tmp_path / "a.parquet"), SEGMENTS, compression="zstd")
    store = open_store(str(tmp_path / "a.parquet"), cache=cache).select([video_name(2)])
    np.testing.assert_array_equal(store.percepts(video_name(2)), values(2, 2000))
    (plain,) = (tmp_path / "cache").glob("*.f16")
    inode = plain.stat().st_ino
    again = open_store(str(tmp_path / "a.parquet"), cache=cache)
    np.testing.assert_array_equal(again.percepts(video_name(1)), values(1, 1900))
    assert plain.stat().st_ino == inode
    assert not said


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with open_atomic(str(tmp_path / "a.parquet")) as file, ShardWriter(file, EXTRACTOR):
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    gc.collect()
    assert not list(tmp_path.iterdir())
