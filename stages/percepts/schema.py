"""The Parquet format of percepts: one row a frame.

| column | type | |
|---|---|---|
| video | dictionary<int32, string> | sha256 of the video file, hex |
| frame | int32 | number of the frame in its video, as the decoder counts |
| pts_us | int64 | presentation time, microseconds |
| segment | int32 | rises by one behind every gap: frames of one segment follow each other |
| percept | fixed_size_binary(2 * D) | D little-endian float16 |

A video's rows lie together, in frame order, in one file. Row groups hold ROW_GROUP_ROWS rows (the last one fewer) and
every column of a row group is one page, so that the percepts of an uncompressed group are one plain (rows, D) array
in the file, to be mapped and not read. No column holds nulls.

The file's metadata has the key `percepts`: JSON with `format` (a number), `dim` (D), `dtype` ("float16-le"),
`fingerprint` (64 hex digits) and `extractor` (what the fingerprint is the sha256 of).
"""

import json
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipeline.core.errors import CorruptArtifact, StoreError
from pipeline.core.files import sha256_bytes

FORMAT: Final = 1
ROW_GROUP_ROWS: Final = 2048
METADATA_KEY: Final = b"percepts"
DTYPE: Final = "float16-le"
COLUMNS: Final = ("video", "frame", "pts_us", "segment", "percept")


@dataclass(frozen=True)
class Extractor:
    """The extractor of percepts: every setting that decides their values, as JSON values, and their dimension D."""

    settings: dict[str, Any]
    dim: int

    @property
    def fingerprint(self) -> str:
        """sha256 of the settings, 64 hex digits."""
        return sha256_bytes(json.dumps(self.settings, sort_keys=True, ensure_ascii=False).encode())

    def metadata(self) -> dict[bytes, bytes]:
        """Returns the key-value metadata of a file."""
        value = {
            "format": FORMAT,
            "dim": self.dim,
            "dtype": DTYPE,
            "fingerprint": self.fingerprint,
            "extractor": self.settings,
        }
        return {METADATA_KEY: json.dumps(value, sort_keys=True, ensure_ascii=False).encode()}

    def arrow_schema(self) -> pa.Schema:
        """Returns the columns of a file, with its metadata."""
        types = (pa.dictionary(pa.int32(), pa.string()), pa.int32(), pa.int64(), pa.int32(), pa.binary(2 * self.dim))
        columns = [pa.field(name, dtype, nullable=False) for name, dtype in zip(COLUMNS, types, strict=True)]
        return pa.schema(columns, metadata=self.metadata())


def read_extractor(metadata: dict[bytes, bytes] | None, uri: str) -> Extractor:
    """Returns the extractor named in a file's metadata.

    Raises:
        CorruptArtifact: this is not a file of percepts.
        StoreError: a newer version of percepts wrote it.
    """
    if metadata is None or METADATA_KEY not in metadata:
        raise CorruptArtifact(f"{uri} holds no percepts: its metadata has no key {METADATA_KEY.decode()!r}")
    value = json.loads(metadata[METADATA_KEY])
    if value["format"] > FORMAT:
        raise StoreError(
            f"{uri} has percept format {value['format']}, this version reads up to {FORMAT}; upgrade percepts"
        )
    extractor = Extractor(settings=value["extractor"], dim=value["dim"])
    if value["dtype"] != DTYPE or value["fingerprint"] != extractor.fingerprint:
        raise CorruptArtifact(f"{uri} holds {value['dtype']} percepts whose fingerprint does not fit its extractor")
    return extractor
