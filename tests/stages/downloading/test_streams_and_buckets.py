"""Links to streams in pieces (HLS, DASH), which yt-dlp fetches and PyAV cuts, and to objects of a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import av
import pytest
import s3fs

from pipeline.core.network import PROCESS_LIMITER
from stages.download import DownloadConfig, download
from tests.conftest import ROOT
from tests.stages.downloading.hostile_server import hostile_server
from tests.stages.downloading.test_hostile_links import context
from tests.stages.loopback_server import LoopbackServer, running

WEB = ROOT.parent / "shared/data/web"
VIDEO = WEB / "moviepy_sintel_5s.mp4"
pytestmark = pytest.mark.skipif(not WEB.is_dir(), reason="no ../shared/data/web")


class _Files(SimpleHTTPRequestHandler):
    server: FileServer

    def log_message(self, format: str, *args: object) -> None:
        self.server.paths.append(self.path)


class FileServer(LoopbackServer):
    """Serves a folder; what was asked for is in `paths`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(partial(_Files, directory=str(folder)))  # type: ignore[arg-type]
        self.paths: list[str] = []


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[FileServer]:
    """The same video as HLS, with pieces of MPEG-TS, as HLS with encrypted pieces, and as DASH, with pieces of MP4."""
    folder = tmp_path / "site"
    (folder / "locked").mkdir(parents=True)
    (folder / "locked/key").write_bytes(bytes(range(16)))
    (tmp_path / "key_info").write_text(f"key\n{folder / 'locked/key'}\n")
    hls = {"hls_time": "1", "hls_list_size": "0"}
    forms = {
        "hls/index.m3u8": hls,
        "locked/index.m3u8": hls | {"hls_key_info_file": str(tmp_path / "key_info")},
        "dash/manifest.mpd": {"seg_duration": "1"},
    }
    for name, options in forms.items():
        (folder / name).parent.mkdir(exist_ok=True)
        form = "dash" if name.startswith("dash") else "hls"
        with (
            av.open(str(VIDEO)) as source,
            av.open(str(folder / name), "w", format=form, options=options) as target,
        ):
            encoder = target.add_stream("libx264", rate=24, options={"g": "24", "preset": "ultrafast"})
            encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
            for frame in source.decode(video=0):
                target.mux(encoder.encode(frame.reformat(width=64, height=48, format="yuv420p")))
            target.mux(encoder.encode(None))
    with running(FileServer(folder)) as server:
        yield server


def test_streams_in_pieces_are_fetched_whole_and_cut_without_ffmpegs_program(
    streams: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    uris = [f"{streams.url}/hls/index.m3u8", f"{streams.url}/dash/manifest.mpd"]
    links = tmp_path / "links.csv"
    links.write_text("uri,start,end\n" + "".join(f"{uri},,\n{uri},1.5,3.5\n" for uri in uris))
    permits: list[str] = []
    ask = PROCESS_LIMITER.permit
    monkeypatch.setattr(PROCESS_LIMITER, "permit", lambda *given: permits.append(given[1]) or ask(*given))
    downloads = download(DownloadConfig(links=(str(links),)), context(tmp_path, "x"))
    assert [(record.status, record.reason) for record in downloads.iter_links()] == [("downloaded", "")] * 4
    spans = [(record.uri, record.start_s, record.end_s) for record in downloads.iter_links()]
    assert spans == [(uri, *span) for uri in uris for span in ((None, None), (1.5, 3.5))]
    with av.open(str(VIDEO)) as source:
        num_frames = sum(1 for _ in source.decode(video=0))
    whole, clip, other, other_clip = downloads.iter_records()
    assert [whole.frames_expected, other.frames_expected] == [num_frames] * 2
    assert [clip.duration_us, other_clip.duration_us] == [pytest.approx(2e6, abs=1e5)] * 2
    assert len(permits) == len(streams.paths) > 4 * 6, "a permit for each list and each piece"


def test_encrypted_pieces_are_those_that_were_encrypted(streams: FileServer, tmp_path: Path) -> None:
    """AES-128 with a key that the list names; what no key can be had of is a row."""
    (tmp_path / "site/locked/no_key.m3u8").write_text(
        (tmp_path / "site/locked/index.m3u8").read_text().replace('URI="key"', 'URI="other_key"')
    )
    links = tmp_path / "links.txt"
    names = ("hls/index.m3u8", "locked/index.m3u8", "locked/no_key.m3u8")
    links.write_text("".join(f"{streams.url}/{name}\n" for name in names))
    plain, locked, without_key = download(DownloadConfig(links=(str(links),)), context(tmp_path, "x")).iter_links()
    assert (plain.status, locked.status, without_key.status) == ("downloaded", "duplicate", "gone")
    assert locked.sha256 == plain.sha256
    assert "/locked/key" in streams.paths
    assert "404" in without_key.reason


def test_yt_dlp_takes_a_permit_for_every_request_redirects_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    permits: list[str] = []
    ask = PROCESS_LIMITER.permit
    monkeypatch.setattr(PROCESS_LIMITER, "permit", lambda *given: permits.append(given[1]) or ask(*given))
    with hostile_server({"a.mp4": VIDEO.read_bytes()}) as server:
        links = tmp_path / "links.txt"
        links.write_text(f"{server.url}/toapage/a.mp4\n")
        downloads = download(DownloadConfig(links=(str(links),)), context(tmp_path, "x"))
    assert [record.status for record in downloads.iter_links()] == ["downloaded"]
    paths = server.paths()
    assert paths[:4] == ["/toapage/a.mp4", "/page/a.mp4"] * 2, "our own look at it, and yt-dlp's"
    assert len(permits) == len(paths)


def test_links_to_a_bucket_are_fetched_cut_and_accounted_for(s3_bucket: str, tmp_path: Path) -> None:
    s3fs.S3FileSystem().put(str(VIDEO), f"{s3_bucket}/videos/a.mp4")
    links = tmp_path / "links.csv"
    links.write_text(f"uri,start,end,label\n{s3_bucket}/videos/a.mp4,1,3,film\n{s3_bucket}/videos/b.mp4,1,3,film\n")
    downloads = download(DownloadConfig(links=(str(links),)), context(tmp_path, "bucket"))
    there, missing = downloads.iter_links()
    assert (there.status, there.start_s, there.end_s, there.label) == ("downloaded", 1.0, 3.0, "film")
    assert there.bytes_fetched == VIDEO.stat().st_size
    assert missing.status == "gone"
    (record,) = downloads.iter_records()
    assert record.uri == f"{tmp_path}/store/downloaded/clips/{record.sha256[:2]}/{record.sha256}.mp4"
