"""Lists as people and other tools write them, against what their lines say."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError, SourceError
from stages.video.lists.reader import iter_rows
from stages.video.lists.rows import ListRow, ListRules
from stages.video.lists.seen import SeenTexts
from stages.video.lists.suffixes import list_suffix

WATCH = "https://www.youtube.com/watch?v="


def read(path: Path, **settings: Any) -> tuple[list[ListRow], list[str]]:
    notes: list[str] = []
    rows = list(iter_rows(str(path), **settings, note=notes.append))
    return rows, [note.removeprefix(f"{path}: ") for note in notes]


def written(folder: Path, name: str, text: str | bytes) -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


def facts(row: ListRow, folder: Path) -> tuple[Any, ...]:
    return row.uri.removeprefix(f"{folder}/"), row.label, row.part, row.problem


CLIP = "my clip #1 100%.webm"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bom_crlf.csv", [(CLIP, "walk", None, ""), ("a.gif", "run", None, "")]),
        ("cr_only.csv", [("a.gif", "run", None, "")]),
        ("dup.csv", [("a.gif", "walk", None, ""), ("a.gif", "run", None, ""), ("a.gif", "sit", None, "")]),
        ("kinetics.csv", [(f"{WATCH}0347ZoDXyP0", "abseiling", "train", "")]),
        ("mmaction.txt", [("a.gif", "3", None, ""), (CLIP, "4", None, "")]),
        ("nan.jsonl", [("a.gif", None, None, "")]),
        ("nul_bytes.txt", [("a.gif", None, None, ""), ("nul_bytes.txt:2", None, None, "line 2: holds a NUL byte")]),
        ("quoted_newline.csv", [("line\nbreak.webm", "x", None, "")]),
        ("semicolon.csv", [(CLIP, "walk", None, "")]),
        ("spaced_header.csv", [("a.gif", "run", "test", "")]),
        ("utf16.csv", [(CLIP, "walk", None, "")]),
    ],
)
def test_reported_lists(shared_data: Path, name: str, expected: list[tuple[Any, ...]]) -> None:
    folder = (shared_data / "reported/manifests").absolute()
    rows, _ = read(folder / name)
    assert [facts(row, folder) for row in rows] == expected


def test_what_is_read_in_another_way_is_said(tmp_path: Path) -> None:
    _, notes = read(written(tmp_path, "a.csv", "URI ;Label;colour;label\nx.mp4;run;red;sit\n"))
    assert notes == [
        "columns are separated by semicolon, not by comma",
        "columns that are not used: colour",
        "two columns have one name; the first counts",
    ]
    rows, notes = read(written(tmp_path, "b.txt", "clips/x.mp4 120 7\nhttps://x/y.mp4\nz 1.avi\n"))
    assert [(row.uri.removeprefix(f"{tmp_path}/"), row.label) for row in rows] == [
        ("clips/x.mp4", "7"),
        ("https://x/y.mp4", None),
        ("z 1.avi", None),
    ]
    assert len(notes) == 1
    assert "'path label'" in notes[0]
    assert "uri,label" in notes[0]
    written(tmp_path, "x.mp4 3", b"")
    rows, notes = read(written(tmp_path, "c.txt", "x.mp4 3\n"))
    assert (rows[0].uri, rows[0].label, notes) == (str(tmp_path / "x.mp4 3"), None, [])
    rows, _ = read(written(tmp_path, "slowfast.csv", "x.mp4 3\ny.mp4 4\n"))
    assert [row.label for row in rows] == [None, "4"]
    rows, _ = read(written(tmp_path, "two.csv", "y.mp4,3\nz.mp4,4\n"))
    assert [row.label for row in rows] == ["3", "4"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_column_in_every_format(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"uri": "a.mp4", "start": 1.5, "end": 3.0, "label": 1.0, "part": "train", "group": "g", "licence": "CC BY"},
        {"uri": "b.mp4", "start": None, "end": None, "label": None, "part": None, "group": None, "licence": None},
        {"uri": f"{WATCH}0347ZoDXyP0", "start": 0.0, "end": 9.0, "label": 2.0, "part": "x", "group": "", "licence": ""},
    ]
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row).replace("null", "NaN") + "\n" for row in rows))
    else:
        mark = "," if kind == "csv" else "\t"
        lines = [list(rows[0]), *([("nan" if value is None else str(value)) for value in row.values()] for row in rows)]
        path.write_text("".join(mark.join(cells) + "\n" for cells in lines))
    listed, notes = read(path)
    assert notes == []
    first = 1 if kind in ("jsonl", "parquet") else 2
    a, b, c = (str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), f"{WATCH}0347ZoDXyP0")
    assert listed == [
        ListRow(uri=a, line=first, start_s=1.5, end_s=3.0, label="1", part="train", group="g", licence="CC BY"),
        ListRow(uri=b, line=first + 1),
        ListRow(uri=c, line=first + 2, start_s=0.0, end_s=9.0, label="2", part="x"),
    ]


def test_binary_columns_of_parquet_are_decoded(tmp_path: Path) -> None:
    table = pa.table({"uri": [b"a.mp4", "\u00fc.mp4".encode(), b"\xff.mp4"], "label": [b"run", b"\xff", None]})
    pq.write_table(table, tmp_path / "list.parquet")
    rows, _ = read(tmp_path / "list.parquet")
    assert [row.problem for row in rows] == [
        "",
        "line 2: the value of 'label' is not UTF-8; save the list as UTF-8",
        "",
    ]
    assert rows[0] == ListRow(uri=str(tmp_path / "a.mp4"), line=1, label="run")
    assert rows[2].uri == str(tmp_path / "\udcff.mp4")  # such a file may be there


@pytest.mark.parametrize(
    ("name", "text", "problems"),
    [
        (
            "a.csv",
            'uri,label\nok.mp4,a\nmy, clip.mp4,run\n,x\nok.mp4,"a"b\n',
            {3: "3 cells", 4: "names no", 5: "expected"},
        ),
        ("b.csv", 'uri,label\nok.mp4,a\nx.mp4,"run\ny.mp4,sit\n', {3: "unexpected end of data"}),
        (
            "c.csv",
            "\n\nuri,start,end\nok.mp4,1,2\n\nx.mp4,3,2\ny.mp4,soon,\n",
            {6: "ends at 2 s", 7: "'soon'; give sec"},
        ),
        ("d.csv", "youtube_id,label\n0347ZoDXyP0,a\n0347,b\n", {3: "'0347' is no YouTube id"}),
        (
            "e.jsonl",
            '{"uri": "ok.mp4"}\n{"uri": \n[1]\n{"label": 1}\n"x.mp4"\n',
            {2: "not JSON", 3: "[1]", 4: "names no"},
        ),
        ("f.txt", "ok.mp4\nnope://x/y.mp4\nzip://a.avi::s3://b/c.zip\n", {2: "scheme 'nope'", 3: "scheme 'zip'"}),
        ("g.txt", b"ok.mp4\n" + b"x" * (3 << 20) + b"\ny.mp4\n", {2: "more than 1048576 characters"}),
        ("h.txt", "ok.mp4\nfile:///a%00b.mp4\nhttp://x::s3://y\n", {2: "NUL", 3: "chains file systems"}),
        ("i.jsonl", '{"uri": "ok.mp4"}\n{"uri": "\\ud800.mp4"}\n' + "[" * 9999 + "\n", {2: "no text", 3: "not JSON"}),
    ],
)
def test_wrong_lines_have_their_numbers(tmp_path: Path, name: str, text: str | bytes, problems: dict[int, str]) -> None:
    path = written(tmp_path, name, text)
    rows, _ = read(path)
    wrong = {row.line: row for row in rows if row.problem}
    assert wrong.keys() == problems.keys()
    for line, problem in problems.items():
        assert wrong[line].problem.startswith(f"line {line}: ")
        assert problem in wrong[line].problem
        assert wrong[line].uri == f"{path}:{line}"


LABELS = ["NaN", "None", "null", "NA", "n/a", "", "none", "Nancy", "1.0", "TRUE", "two  words"]


def test_words_for_none_are_no_labels(tmp_path: Path) -> None:
    """Those that pandas reads as missing; any other word is a label, and how many were none is said."""
    rows, notes = read(written(tmp_path, "l.csv", "uri,label\n" + "".join(f"a.mp4,{label}\n" for label in LABELS)))
    assert [row.label for row in rows] == [*[None] * 6, "none", "Nancy", "1", "TRUE", "two  words"]
    assert notes == ["labels that stand for none, such as None or NA, and are none: 4"]
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(tmp_path / "l.csv", dtype=str, skipinitialspace=True)
    assert [row.label is None for row in rows] == frame["label"].isna().tolist()


def test_parts_are_known_in_any_case(tmp_path: Path) -> None:
    rows, _ = read(written(tmp_path, "l.csv", "uri,part\na.mp4,Test\nb.mp4,TRAIN\nc.mp4,Mine\n"))
    assert [row.part for row in rows] == ["test", "train", "Mine"]


def test_a_file_uri_of_another_machine_is_no_file_of_this_one(tmp_path: Path) -> None:
    rows, _ = read(written(tmp_path, "l.txt", "file://nas/films/a.mp4\nfile://localhost/b.mp4\nfile:///c.mp4\n"))
    assert "names a file of the machine 'nas'" in rows[0].problem
    assert [row.uri for row in rows[1:]] == ["/b.mp4", "/c.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("a.csv", "path,label\nx.mp4,run\n", "rename its column 'path' to uri"),
        ("b.csv", "x.mp4,run\ny.mp4,sit\n", "has no header; put a line with the names of its columns first, such as"),
        ("c.csv", "colour\nred\n", "its columns are 'colour'; one must be 'uri'"),
        ("d.csv", "uri\n", "no line of the list .* can be used: it is empty"),
        ("e.txt", "", "can be used: it is empty"),
        ("f.txt", "\0\n", "can be used: line 1: holds a NUL byte"),
        ("g.json", "{", "cannot read the list"),
        ("h.json", '{"a": 1}', "is no list of videos"),
        ("i.parquet", "PAR1", "cannot read the list"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path: Path, name: str, text: str, rule: str) -> None:
    with pytest.raises(SourceError, match=rule):
        read(written(tmp_path, name, text))


def test_local_files_by_uri_and_outside_of_what_is_allowed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    name = "my clip 100%.mp4"
    for folder in (inside, outside):
        written(folder, name, b"")
    lines = [(folder / name).as_uri() for folder in (inside, outside)] + ["../out/x.mp4", "link/x.mp4", name]
    path = written(inside, "a.txt", "\n".join(lines))
    rows, _ = read(path)
    assert [row.uri for row in rows][:2] == [str(inside / name), str(outside / name)]
    assert not any(row.problem for row in rows)
    rows, _ = read(path, rules=ListRules(allow_root=(str(inside),)))
    assert [bool(row.problem) for row in rows] == [False, True, True, True, False]
    assert rows[1].problem.startswith("line 2: ")
    assert "(--allow-root)" in rows[1].problem
    with pytest.raises(ConfigError, match="give the scheme alone"):
        ListRules(allow_scheme=("webdav://",))


def test_lists_of_other_machines_name_no_files_of_this_one() -> None:
    import fsspec

    text = b"x.mp4\n/etc/passwd\nfile:///etc/passwd\n../other/x.mp4\ns3://b/x.mp4\nwebdav://h/x.mp4\n"
    fsspec.filesystem("memory").pipe_file("/bucket/lists/a.txt", text)
    rows = list(iter_rows("memory://bucket/lists/a.txt"))
    assert [row.line for row in rows if row.problem] == [2, 3, 6]
    assert rows[0].uri in ("memory://bucket/lists/x.mp4", "memory:///bucket/lists/x.mp4")
    rows = list(iter_rows("memory://bucket/lists/a.txt", ListRules(allow_root=("/etc",), allow_scheme=("webdav",))))
    assert not any(row.problem for row in rows)


def test_published_lists(tmp_path: Path) -> None:
    kinetics = (
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        '"brushing, teeth",---QUuC4vJs,84,94,validate,0\ntestifying,-0-ZKnU3-Gk,12,22,train,1\n'
    )
    rows, notes = read(written(tmp_path, "kinetics_700_val.csv", kinetics))
    assert notes == []
    assert rows == [
        ListRow(
            uri=f"{WATCH}---QUuC4vJs",
            line=2,
            start_s=84.0,
            end_s=94.0,
            label="brushing, teeth",
            part="validation",
            group="---QUuC4vJs",
        ),
        ListRow(
            uri=f"{WATCH}-0-ZKnU3-Gk",
            line=3,
            start_s=12.0,
            end_s=22.0,
            label="testifying",
            part="train",
            group="-0-ZKnU3-Gk",
            licence="creative commons",
        ),
    ]
    rows, _ = read(written(tmp_path, "test.csv", "youtube_id,time_start,time_end,split\n---QUuC4vJs,84,94,test\n"))
    assert (rows[0].label, rows[0].part) == (None, "test")
    activitynet = {
        "database": {
            "sJbkXcHhHkA": {
                "duration": 115.38,
                "subset": "training",
                "resolution": "320x240",
                "url": f"{WATCH}sJbkXcHhHkA",
                "annotations": [
                    {"segment": [6.1, 52.6], "label": "Applying sunscreen"},
                    {"segment": [60, 70], "label": "Walking the dog"},
                ],
            },
            "QOlSCBRmfWY": {"duration": 82.7, "subset": "testing", "url": f"{WATCH}QOlSCBRmfWY", "annotations": []},
        },
        "taxonomy": [{"nodeId": 269, "nodeName": "Vacuuming floor"}],
        "version": "VERSION 1.3",
    }
    rows, _ = read(written(tmp_path, "activity_net.v1-3.min.json", json.dumps(activitynet)))
    assert [(row.uri[-11:], row.start_s, row.end_s, row.label, row.part, row.group) for row in rows] == [
        ("sJbkXcHhHkA", 6.1, 52.6, "Applying sunscreen", "train", "sJbkXcHhHkA"),
        ("sJbkXcHhHkA", 60.0, 70.0, "Walking the dog", "train", "sJbkXcHhHkA"),
        ("QOlSCBRmfWY", None, None, None, "test", "QOlSCBRmfWY"),
    ]
    kinetics_json = {
        "---QUuC4vJs": {
            "annotations": {"label": "testifying", "segment": [84.0, 94.0]},
            "duration": 10.0,
            "subset": "validate",
            "url": f"{WATCH}---QUuC4vJs",
        }
    }
    rows, _ = read(written(tmp_path, "kinetics700_validate.json", json.dumps(kinetics_json)))
    assert [(row.uri[-11:], row.start_s, row.label, row.part) for row in rows] == [
        ("---QUuC4vJs", 84.0, "testifying", "validation")
    ]
    rows, _ = read(written(tmp_path, "ids.txt", "sJbkXcHhHkA\n-0-ZKnU3-Gk\n"))
    assert [row.uri for row in rows] == [f"{WATCH}sJbkXcHhHkA", f"{WATCH}-0-ZKnU3-Gk"]


def test_sports_1m_has_its_labels_beside_it_or_above(tmp_path: Path) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    text = f"{WATCH}2nXMmZt0Bl4 1\n{WATCH}sJbkXcHhHkA 0,2\n{WATCH}QOlSCBRmfWY 3\n"
    path = written(folder, "train_partition.txt", text)
    rows, notes = read(path)
    assert [(row.uri, row.label, row.part) for row in rows][:2] == [
        (f"{WATCH}2nXMmZt0Bl4", "1", "train"),
        (f"{WATCH}sJbkXcHhHkA", "0,2", "train"),
    ]
    assert "labels are numbers: there is no labels.txt beside the list" in notes[0]
    written(tmp_path, "labels.txt", "aikido\nbowling\nroad cycling\n")
    rows, notes = read(path)
    assert [row.label for row in rows] == ["bowling", "aikido,road cycling", None]
    assert rows[2].problem == "line 3: has the label 3; labels.txt has 3 lines, counted from 0"
    entry = {"id": "NRNiLmiHdjg", "duration": 102, "label487": [0], "source487": "train", "height": 360}
    rows, _ = read(written(tmp_path, "sports1m_train.json", json.dumps([entry])))
    assert (rows[0].uri, rows[0].label, rows[0].part) == (f"{WATCH}NRNiLmiHdjg", "0", "train")


def test_a_signature_is_no_part_of_a_lists_name() -> None:
    assert list_suffix("https://host/list.csv?X-Amz-Signature=a.b") == ".csv"
    assert list_suffix("https://host/list?file=a.csv") == ""
    assert list_suffix("s3://bucket/what?.CSV") == ".csv"


def test_memory_does_not_grow_with_a_list(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with open(path, "w") as file:
        file.write("uri,label\n")
        file.writelines(f"https://host/{number}.mp4,{'walk' * 1000}\n" for number in range(4_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in iter_rows(str(path))) == 4_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 2 * peak < path.stat().st_size


def test_seen_texts_against_a_set() -> None:
    seen, expected = SeenTexts(), set()
    for number in range(40_000):
        text = f"https://host/{number * 7919 % 30_000}.mp4"
        assert (text in seen) == (text in expected)
        assert seen.add(text) == (text not in expected)
        expected.add(text)
    assert seen.add("\udcff")
    assert not seen.add("\udcff")
