"""Archives against what was put in, and against what their makers might have put in to do harm."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, SourceError
from stages.video.archives import ArchiveLimits, is_archive, iter_members
from tests.conftest import ROOT
from tests.stages.video.made_archives import make_rar, make_tar, make_zip

FILES = {
    "pick/#122_Cleaning_(Up)_[x];&!_pick_f_nm_np1_fr_bad_1.avi": b"first" * 300_000,
    "pick/readme.txt": b"no video",
    "./sub/ü~@+.avi": b"second",
    "empty.avi": b"",
}
EXPECTED = {name.removeprefix("./"): data for name, data in FILES.items() if name.endswith(".avi")}
MAKERS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "a.zip": make_zip,
    "deflated.ZIP": lambda files: make_zip(files, compression=zipfile.ZIP_DEFLATED),
    "a.tar": make_tar,
    "a.tar.gz": lambda files: make_tar(files, compression="gz"),
    "a.tar.bz2": lambda files: make_tar(files, compression="bz2"),
    "a.tar.xz": lambda files: make_tar(files, compression="xz"),
    "a.tgz": lambda files: make_tar(files, compression="gz"),
    "a.rar": make_rar,
}


def is_avi(name: str) -> bool:
    return name.endswith(".avi")


def unpacked(path: Path, limits: ArchiveLimits | None = None) -> dict[str, bytes]:
    return {member.path: b"".join(member.chunks) for member in iter_members(path, is_avi, limits or ArchiveLimits())}


def read_all(path: Path) -> None:
    for member in iter_members(path, lambda name: True, ArchiveLimits()):
        for _ in member.chunks:
            pass


def written(directory: Path, name: str, data: bytes) -> Path:
    (directory / name).write_bytes(data)
    return directory / name


@pytest.mark.parametrize("name", MAKERS)
def test_everything_wanted_comes_out(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, MAKERS[name](FILES))
    assert is_archive(str(path))
    assert unpacked(path) == EXPECTED
    assert [m.path for m in iter_members(path, is_avi, ArchiveLimits())] == list(EXPECTED)  # members may be passed over


def test_archives_in_archives_as_hmdb_is(tmp_path: Path) -> None:
    """A rar of a rar a class; a zip inside one of them is one too deep where max_depth says so."""
    inner = {"wave/x_wave_f_cm_np1_ri_med_0.avi": b"wave", "more.zip": make_zip({"y.avi": b"deep"})}
    outer = {"wave.rar": make_rar(inner), "run.rar": make_rar({"run/z.avi": b"run"})}
    path = written(tmp_path, "hmdb51_org.rar", make_rar(outer))
    assert unpacked(path) == {
        "wave/wave/x_wave_f_cm_np1_ri_med_0.avi": b"wave",
        "wave/more/y.avi": b"deep",
        "run/run/z.avi": b"run",
    }
    with pytest.raises(SourceError, match=r"hmdb51_org.rar/wave.rar: member 'more.zip' .* max_depth is 2"):
        unpacked(path, ArchiveLimits(max_depth=2))


@pytest.mark.parametrize("maker", [make_zip, make_tar, make_rar])
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("../escape.avi", "leads out of its folder"),
        ("a/../../escape.avi", "leads out of its folder"),
        ("/etc/escape.avi", "absolute path"),
        ("C:/escape.avi", "absolute path"),
        ("..\\escape.avi", "leads out of its folder"),
        ("\\\\host\\escape.avi", "absolute path"),
        ("a::b.avi", "no usable name"),
        ("new\nline.avi", "no usable name"),
        (f"{'x' * 2000}.avi", "no usable name"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(
    tmp_path: Path, maker: Callable[[Mapping[str, bytes]], bytes], name: str, rule: str
) -> None:
    """Wherever they stand: nothing behind them comes out. (libarchive and zipfile turn backslashes themselves.)"""
    kind = {make_zip: "a.zip", make_tar: "a.tar", make_rar: "a.rar"}[maker]
    path = written(tmp_path, kind, maker({name: b"x", "good.avi": b"y"}))
    with pytest.raises(SourceError, match=rule):
        unpacked(path)


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        link = tarfile.TarInfo("link.avi")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    hard = io.BytesIO()
    with tarfile.open(fileobj=hard, mode="w") as archive:
        link = tarfile.TarInfo("hard.avi")
        link.type, link.linkname = tarfile.LNKTYPE, "other.avi"
        archive.addfile(link)
    device = io.BytesIO()
    with tarfile.open(fileobj=device, mode="w") as archive:
        pipe = tarfile.TarInfo("pipe.avi")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as made:
        info = zipfile.ZipInfo("link.avi")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(info, "/etc/passwd")
    rar = make_rar({"link.avi": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    for name, data, what in (
        ("soft.tar", sink.getvalue(), "link"),
        ("hard.tar", hard.getvalue(), "link"),
        ("device.tar", device.getvalue(), "device"),
        ("link.zip", zipped.getvalue(), "link"),
        ("link.rar", rar, "link"),
    ):
        with pytest.raises(SourceError, match=f"is a {what}; only plain files and folders"):
            unpacked(written(tmp_path, name, data))


def test_bombs_are_refused_before_they_go_off(tmp_path: Path) -> None:
    zeros = bytes(96 << 20)
    bomb = make_zip({"a.avi": zeros}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    path = written(tmp_path, "bomb.zip", bomb)
    limits = ArchiveLimits(max_ratio=2)
    chunks = (len(chunk) for member in iter_members(path, is_avi, limits) for chunk in member.chunks)
    with pytest.raises(SourceError, match=r"unpacks to more than \d+ bytes .*max_ratio = 2\)"):
        sum(chunks)
    first_64_mib = (len(chunk) for member in iter_members(path, is_avi, limits) for chunk in member.chunks)
    assert sum(itertools.islice(first_64_mib, 64)) == 64 << 20  # it was not one byte too early
    nested = written(tmp_path, "nested.zip", make_zip({"inner.zip": bomb}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(SourceError, match="unpacks to more than"):
        unpacked(nested, limits)
    with pytest.raises(SourceError, match="more than 5 bytes"):
        unpacked(written(tmp_path, "a.tar", make_tar({"a.avi": b"123456"})), ArchiveLimits(max_bytes=5))
    many = written(tmp_path, "many.zip", make_zip({f"{n}.txt": b"" for n in range(11)}))
    with pytest.raises(SourceError, match="more than max_files = 10 members"):
        unpacked(many, ArchiveLimits(max_files=10))
    with pytest.raises(ConfigError, match="at least 1"):
        ArchiveLimits(max_depth=0)


def test_broken_archives_say_so(tmp_path: Path) -> None:
    whole = {name: maker(FILES) for name, maker in MAKERS.items()}
    cases = {f"cut-{name}": data[: len(data) * 2 // 3] for name, data in whole.items()}
    damaged = bytearray(whole["a.zip"])
    damaged[5000] ^= 0xFF  # inside the first file's bytes: its CRC no longer fits
    cases |= {"not.zip": b"<html>404</html>", "not.tar": b"x" * 2000, "not.rar": b"x" * 2000, "crc.zip": bytes(damaged)}
    for name, data in cases.items():
        with pytest.raises(SourceError, match=f"{name} cannot be read: "):
            unpacked(written(tmp_path, name, data))
    with pytest.raises(SourceError, match=r"one volume of several; unpack them \(unrar x\)"):
        unpacked(written(tmp_path, "x.part1.rar", whole["a.rar"]))
    twice = written(tmp_path, "twice.tar", make_tar({"x.avi": b"1", "./x.avi": b"2"}))
    with pytest.raises(SourceError, match=r"member './x.avi' is there twice"):
        unpacked(twice)


@pytest.mark.parametrize(
    "names",
    [
        ("wave/a.avi", "Wave/A.avi"),
        ("a.avi/b.avi", "a.avi"),
        ("a.avi", "a.avi/b.avi"),
        ("\u00e9.avi", "e\u0301.avi"),
    ],
)
def test_two_members_never_land_on_one_path(tmp_path: Path, names: tuple[str, str]) -> None:
    path = written(tmp_path, "a.zip", make_zip(dict.fromkeys(names, b"video")))
    with pytest.raises(SourceError, match=r"a\.zip: two members land on"):
        unpacked(path)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("collide.zip", "two members land on"),
        ("dirfile.zip", "two members land on"),
        ("longcomp.zip", "has 304 bytes, 200 are allowed"),
        ("bzip2_member_bomb.zip", "compressed by method 12"),
    ],
)
def test_reported_archives(shared_data: Path, name: str, rule: str) -> None:
    with pytest.raises(SourceError, match=rule):
        read_all(shared_data / "reported/archives" / name)


def bombs(folder: Path) -> Iterator[Path]:
    """Archives that unfold to 400 MB or more in the memory of a reader that trusts them."""
    zeros, headers = bytes(1 << 20), {}
    kinds = {"pax": tarfile.XHDTYPE, "long": tarfile.GNUTYPE_LONGNAME, "member": tarfile.REGTYPE}
    for name, kind in {**kinds, "unwanted": tarfile.REGTYPE}.items():
        header = tarfile.TarInfo("a.dat" if name == "unwanted" else "a.avi")
        header.type, header.size = kind, 400 << 20
        headers[name] = header.tobuf()
    # Compressed streams may be joined.
    for name, start in headers.items():
        yield written(folder, f"{name}.tar.gz", gzip.compress(start) + 400 * gzip.compress(zeros))
    yield written(folder, "pax.tar.bz2", bz2.compress(headers["pax"]) + 400 * bz2.compress(zeros, 1))
    yield written(folder, "dictionary.tar.xz", xz_with_dictionary_of_1_gib(headers["member"] + zeros))
    names = b"".join(
        struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0) + b"%08d.x" % n
        for n in range(700_000)
    ).replace(b"\x09\x00\x00\x00", b"\x0a\x00\x00\x00")
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 65535, 65535, len(names), 0, 0)
    zip64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 700_000, 700_000, len(names), 0)
    locator = struct.pack("<IIQI", 0x07064B50, 0, len(names), 1)
    yield written(folder, "directory.zip", names + zip64 + locator + end)


def xz_with_dictionary_of_1_gib(data: bytes) -> bytes:
    """Compressed data whose header asks for more memory than it needs: the properties byte, behind its filter's id."""
    made = bytearray(lzma.compress(data, preset=0))
    end = 12 + 4 * (made[12] + 1) - 4
    assert made[14:16] == b"\x21\x01"
    made[16] = 36
    made[end : end + 4] = struct.pack("<I", zlib.crc32(made[12:end]))
    return bytes(made)


READ_ALL = """
import resource, sys
from collections import Counter
from pathlib import Path
from pipeline.core.errors import SourceError
from stages.video.archives import ArchiveLimits
from stages.video.lists.sidecars import is_video_or_sidecar
from stages.video.processes.isolated_archive import iter_isolated_members

def peak_kib():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

for name in sys.argv[1:]:
    before, said, count = peak_kib(), "read", Counter()
    try:
        members = iter_isolated_members(Path(name), is_video_or_sidecar, ArchiveLimits(), kept={}, left_out=count)
        for member in members:
            for chunk in member.chunks:
                pass
    except SourceError as error:
        said = str(error)
    print(Path(name).name, peak_kib(), said, sep="|")
"""
"""The first archive is a small one, and gives the memory of an idle process; peaks are of all processes so far."""


def test_no_archive_takes_more_memory_than_it_may(tmp_path: Path, shared_data: Path) -> None:
    small = written(tmp_path, "small.zip", make_zip({"a.avi": b"video"}))
    reported = sorted((shared_data / "reported/archives").iterdir())
    command = [sys.executable, "-c", READ_ALL, str(small), *map(str, [*bombs(tmp_path), *reported])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = {name: (int(kib), said) for name, kib, said in (line.split("|", 2) for line in done.stdout.splitlines())}
    assert lines["small.zip"][1] == "read"
    idle_kib = lines["small.zip"][0]
    assert max(kib for kib, _ in lines.values()) - idle_kib < 300_000, lines
    rules = {
        "pax.tar.gz": "a header of",
        "long.tar.gz": "a header of",
        "pax.tar.bz2": "a header of",
        "member.tar.gz": "unpacks to more than",
        "unwanted.tar.gz": "unpacks to more than",
        "dictionary.tar.xz": "max_memory_bytes",
        "directory.zip": "max_memory_bytes",
        "bzip2_member_bomb.zip": "compressed by method 12",
    }
    assert {name: rule in lines[name][1] for name, rule in rules.items()} == dict.fromkeys(rules, True), lines


def test_tars_that_were_joined_are_not_half_read(tmp_path: Path) -> None:
    """Where a tar ends by its mark, another may follow; junk behind a compressed one is nothing, as gzip has it."""
    for name, junk in (("a.tar", b""), ("a.tar.gz", b"junk" * 10)):
        with tarfile.open(tmp_path / name, "w:gz" if junk else "w") as made:
            made.addfile(tarfile.TarInfo("a.mp4"), io.BytesIO())
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole + junk)
        assert [m.path for m in iter_members(tmp_path / name, bool, ArchiveLimits())] == ["a.mp4"]
        (tmp_path / name).write_bytes(whole + whole)
        with pytest.raises(SourceError, match=r"goes on behind its end: unpack joined tars"):
            list(iter_members(tmp_path / name, bool, ArchiveLimits()))
