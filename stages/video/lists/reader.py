"""Reads lists of videos, whatever wrote them, a row at a time.

    for row in iter_rows("kinetics_700_train.csv", ListRules(), note=context.log):
        ...                                # row.uri, row.start_s, row.end_s, row.label, row.part, row.problem

| suffix | what it may be |
|---|---|
| .csv, .tsv | columns by name (`rows.COLUMNS`), separated by comma, semicolon or tab; Kinetics' as they are |
| .jsonl, .ndjson | an object with these names, or a text, a line |
| .json | ActivityNet's, Kinetics' or Sports-1M's, or a list of objects |
| .parquet | columns by name; text may be bytes |
| .txt | a path, URL or YouTube id a line; Sports-1M's `URL labels`; `path label` of TSN, mmaction and others |

A line that cannot be used is a row with a `problem`, which has the line's number; a list is refused where it cannot be
read at all, or where no line of it names a video. Memory does not grow with the list, .json apart.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import SourceError
from pipeline.core.files import absolute, is_url
from stages.video.fetch import check_file, fetched
from stages.video.lists.published import Note, PlainLines, json_entries
from stages.video.lists.rows import COLUMNS, STRANGERS, ListRow, ListRules, RowBuilder, WrongLine, without_query
from stages.video.lists.suffixes import has_video_suffix, list_suffix
from stages.video.lists.text_lines import MAX_LINE_CHARS, TOO_LONG, iter_lines

MAX_LIST_BYTES: Final = 64 << 30
"""Bytes of a list that is fetched."""
SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
LIKELY_NAMES: Final = frozenset(
    {"path", "paths", "file", "filename", "file_name", "filepath", "video", "video_path", "name", "clip", "link", "src"}
)
"""Names of columns that may name videos. None is taken for granted: the hint is to rename it."""
LONG: Final = f"has more than {MAX_LINE_CHARS} characters"
MAX_NOTES: Final = 20
PARQUET_ROWS: Final = 4096
"""Rows of a Parquet file in memory at a time."""


def discard_note(sentence: str) -> None:
    """Drops what is to be said of a list."""


def iter_rows(uri: str, rules: ListRules | None = STRANGERS, *, note: Note = discard_note) -> Iterator[ListRow]:
    """Yields the rows of the list at `uri`, a local path or URL, in its order; those that cannot be used included.

    rules: what it may name; None for a list that a stage wrote, which may name anything.
    note: called with a sentence on what is not used or is read in another way than a user may expect, once each.

    Raises:
        SourceError: it cannot be reached or read, has no column that names videos, or no line that names a video.
    """
    shown = without_query(uri)
    said: set[str] = set()

    def note_once(sentence: str) -> None:
        if sentence not in said and len(said) < MAX_NOTES:
            said.add(sentence)
            note(f"{shown}: {sentence}")

    builder = RowBuilder(uri if is_url(uri) and not uri.startswith("file:") else absolute(uri), rules)
    first_problem, is_usable = "", False
    with _local_list(uri) as path:
        try:
            for row in _rows(path, list_suffix(uri), builder, note_once):
                is_usable = is_usable or not row.problem
                first_problem = first_problem or row.problem
                yield row
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())  # Arrow's words may take several lines
            raise SourceError(f"cannot read the list {shown!r}: {reason}") from error
    if builder.num_without_label:
        note_once(f"labels that stand for none, such as None or NA, and are none: {builder.num_without_label}")
    if not is_usable and not builder.num_refused:
        raise SourceError(f"no line of the list {shown!r} can be used: {first_problem or 'it is empty'}")


@contextmanager
def _local_list(uri: str) -> Iterator[Path]:
    try:
        if "://" not in uri or os.path.lexists(uri):
            check_file(uri)
            yield Path(uri)
        else:
            with fetched(uri, max_bytes=MAX_LIST_BYTES) as path:
                yield path
    except OSError as error:
        reason = f"{without_query(uri)!r}: {error.strerror or error}"
        if is_url(uri):
            raise SourceError(f"cannot reach {reason}; check the URL, the region and the credentials") from error
        raise SourceError(f"cannot read the list {reason}; check its name and permissions") from error


def _rows(path: Path, suffix: str, builder: RowBuilder, note: Note) -> Iterator[ListRow]:
    if suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, suffix, builder, note)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_line_rows(path, builder, note)
    elif suffix == ".json":
        columns = _Columns(note)
        for number, entry in enumerate(json_entries(path, builder.list_uri), start=1):
            yield _json_row(number, entry, builder, columns)
    elif suffix == ".parquet":
        yield from _parquet_rows(path, builder, note)
    else:
        yield from _plain_rows(enumerate(iter_lines(path), start=1), builder, PlainLines(builder, note))


def _plain_rows(lines: Iterable[tuple[int, str]], builder: RowBuilder, plain: PlainLines) -> Iterator[ListRow]:
    for number, line in lines:
        if line.startswith(TOO_LONG):
            yield builder.wrong(number, LONG)
        elif text := line.strip():
            try:
                yield builder.row(number, plain.values(text))
            except WrongLine as error:
                yield builder.wrong(number, str(error))


def _csv_rows(path: Path, suffix: str, builder: RowBuilder, note: Note) -> Iterator[ListRow]:
    numbered = ((number, line) for number, line in enumerate(iter_lines(path), start=1))
    first, header_line = next(((number, line) for number, line in numbered if line.strip()), (1, ""))
    separator = _separator(header_line, suffix)
    if separator is None:
        plain = PlainLines(builder, note)
        if plain.path_and_label(header_line.strip()) is None:
            raise SourceError(f"cannot read the list {builder.list_uri!r}: {_header_rule(header_line)}")
        yield from _plain_rows(itertools.chain([(first, header_line)], numbered), builder, plain)
        return
    if separator != (usual := "\t" if suffix == ".tsv" else ","):
        note(f"columns are separated by {SEPARATORS[separator]}, not by {SEPARATORS[usual]}")
    header = next(csv.reader([header_line], delimiter=separator, skipinitialspace=True))
    places = {column: header.index(name) for column, name in _Columns(note).matching(header).items()}
    table = csv.reader((line for _, line in numbered), delimiter=separator, skipinitialspace=True, strict=True)
    while True:
        number = first + table.line_num + 1
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            num_lines = first + table.line_num - number + 1
            through = f" (through line {number + num_lines - 1}: is a quotation mark missing?)" if num_lines > 1 else ""
            yield builder.wrong(number, f"{error}{through}")
            continue
        if cells and cells[0].startswith(TOO_LONG):
            yield builder.wrong(number, LONG)
        elif any(cells[len(header) :]):
            rule = f"quote a value that holds {separator!r}"
            yield builder.wrong(number, f"has {len(cells)} cells, and the header {len(header)}; {rule}")
        elif any(cells):
            values = {column: cells[place] for column, place in places.items() if place < len(cells)}
            yield builder.row(number, values)


def _separator(header: str, suffix: str) -> str | None:
    """Returns the separator with which the header has a column that names videos."""
    for separator in sorted(SEPARATORS, key=lambda mark: mark != ("\t" if suffix == ".tsv" else ",")):
        try:
            names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:
            continue
        if any(_plain_name(name) in (*COLUMNS["uri"], *COLUMNS["youtube_id"]) for name in names):
            return separator
    return None


def _header_rule(header: str) -> str:
    names = list(filter(None, re.split(r"[,;|\t]", header.strip())))
    likely = [name.strip() for name in names if _plain_name(name) in LIKELY_NAMES]
    if likely:
        return f"it has no column 'uri'; rename its column {likely[0]!r} to uri"
    if names and ("://" in names[0] or has_video_suffix(names[0].strip())):
        return "it has no header; put a line with the names of its columns first, such as uri,label"
    return f"its columns are {header.strip()[:100]!r}; one must be 'uri' (or 'youtube_id', as Kinetics has it)"


def _plain_name(name: str) -> str:
    return name.strip().lstrip("\ufeff").strip().casefold()


class _Columns:
    """The names of a list's columns, and which of them are used."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._names: Sequence[str] = ()
        self._matching: dict[str, str] = {}

    def matching(self, names: Sequence[str]) -> dict[str, str]:
        """Returns name in `rows.COLUMNS` -> name in the list, and notes which names of the list are not used."""
        if names != self._names:
            self._names, self._matching = names, self._match(names)
        return self._matching

    def _match(self, names: Sequence[str]) -> dict[str, str]:
        plain = {_plain_name(name): name for name in reversed(names)}
        matching = {
            column: next(plain[alias] for alias in aliases if alias in plain)
            for column, aliases in COLUMNS.items()
            if any(alias in plain for alias in aliases)
        }
        unused = [name.strip() for name in plain.values() if name.strip() and name not in matching.values()]
        if unused:
            self._note(f"columns that are not used: {', '.join(sorted(unused))[:300]}")
        if len(plain) < len(names):
            self._note("two columns have one name; the first counts")
        return matching


def _json_line_rows(path: Path, builder: RowBuilder, note: Note) -> Iterator[ListRow]:
    columns = _Columns(note)
    for number, line in enumerate(iter_lines(path), start=1):
        if line.startswith(TOO_LONG):
            yield builder.wrong(number, LONG)
        elif line.strip():
            try:
                yield _json_row(number, json.loads(line), builder, columns)
            except (ValueError, RecursionError) as error:
                yield builder.wrong(number, f"is not JSON: {error}")


def _json_row(number: int, entry: Any, builder: RowBuilder, columns: _Columns) -> ListRow:
    if isinstance(entry, str):
        return builder.row(number, {"uri": entry})
    if not isinstance(entry, Mapping):
        return builder.wrong(number, f"is {entry!r:.40}, and not a JSON object with a uri")
    names = columns.matching(list(entry))
    return builder.row(number, {column: entry.get(name) for column, name in names.items()})


def _parquet_rows(path: Path, builder: RowBuilder, note: Note) -> Iterator[ListRow]:
    with pq.ParquetFile(path) as file:
        columns = _Columns(note).matching(file.schema_arrow.names)
        if not columns.keys() & {"uri", "youtube_id"}:
            rule = _header_rule(",".join(file.schema_arrow.names))
            raise SourceError(f"cannot read the list {builder.list_uri!r}: {rule}")
        number = 0
        for batch in file.iter_batches(PARQUET_ROWS, columns=list(columns.values()), use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield builder.row(number, {column: row.get(name) for column, name in columns.items()})
