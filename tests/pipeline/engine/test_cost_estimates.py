"""The bill of a plan: by hand, from each source of a rate, and on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, SourceError, UsageError
from pipeline.core.printable import human_seconds
from pipeline.core.rates import GROUP_START_S, WORKER_START_S
from pipeline.core.stage import Estimate, Resources
from pipeline.engine.bill import Total, bill, bill_lines
from pipeline.engine.cost_estimates import Rate, calibrate, rates
from pipeline.engine.cost_options import CostOptions
from pipeline.engine.store import Manifest, Store
from pipeline.run import main
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig
from tests.pipeline.small_store import CONFIG, encode_clips

HOURS = CostOptions(plan_hours=300)


def test_by_hand() -> None:
    assert HOURS.assumed is not None
    assert HOURS.assumed.num_frames == 300 * 3600 * 30
    estimate = Estimate(num_frames=32_400_000, num_bytes=32_400_000 * 8209)
    pair = Rate(frames_per_s=500, source="given"), Rate(frames_per_s=3000, source="given")
    two = Resources(num_workers=2, gpus_per_worker=1)
    on_gpus = bill(ExtractConfig(), estimate, pair, two)
    assert (on_gpus.gpu_hours, on_gpus.core_hours, on_gpus.cores_per_gpu) == (3.0, 18.0, 6.0)
    assert on_gpus.seconds(two) == 1.5 * 3600
    lines = bill_lines(on_gpus, HOURS)
    assert "never waits" in lines[-1]
    # Two cores decode for nine hours what a GPU computes in three, and the GPU is paid for as long.
    starved = bill(ExtractConfig(), estimate, pair, replace(two, decoders_per_gpu=2))
    assert (starved.gpu_hours, starved.core_hours, starved.seconds(two)) == (9.0, 18.0, 4.5 * 3600)
    assert "with 2 (--decoders-per-gpu) it waits for 67% of its hours" in bill_lines(starved, HOURS)[-1]
    assert lines[0] == "300 hours at 30 frames/s: 32,400,000 frames, about 97.2 GB of compressed video"
    assert "extract: 3.0 GPU-hours, 18.0 core-hours, 266.0 GB of percepts" in lines
    # Without GPUs both are the cores' work.
    on_cores = bill(ExtractConfig(), estimate, pair, Resources(num_workers=3))
    assert (on_cores.gpu_hours, on_cores.core_hours) == (0.0, 21.0)
    assert on_cores.seconds(Resources(num_workers=3)) == 7 * 3600


def test_a_price_has_what_it_needs_and_names_what_it_leaves_out() -> None:
    total = Total().plus(3.0, 18.0, 10**12)
    all_prices = CostOptions(price_per_gpu_hour=2, price_per_core_hour=0.05, price_per_tb_month=20)
    assert total.price(all_prices) == pytest.approx(3 * 2 + 18 * 0.05 + 20)
    assert "price: 26.90, the first month of storage included" in total.lines(all_prices)
    gpus_alone = total.lines(CostOptions(price_per_gpu_hour=2))
    assert "price: 6.00" in gpus_alone
    assert "cores (--price-per-core-hour)" in gpus_alone[-1]
    assert "storage (--price-per-tb-month)" in gpus_alone[-1]
    for options in (CostOptions(price_per_core_hour=0.05), CostOptions(price_per_tb_month=20)):
        assert "no price: it needs --price-per-gpu-hour" in total.lines(options)
    on_cores = Total(unknown=("evaluate",)).plus(0.0, 21.0, 0)
    assert "no price: it needs --price-per-core-hour" in on_cores.lines(CostOptions(price_per_gpu_hour=2))
    assert "the time of evaluate, not known yet" in on_cores.lines(CostOptions(price_per_core_hour=1))[-1]


def test_where_a_rate_comes_from(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    config = ExtractConfig()
    decoder, convnet = rates(config, HOURS, store, ())
    assert decoder.source == "tests/RESULTS.md"
    assert convnet is not None
    assert convnet.source == "tests/RESULTS.md"
    facts: dict[str, int | float | str] = {"frames_per_s": 210.0, "num_cores": 3.0, "num_gpus": 0.0}
    same = {"convnet": {"name": "efficientnet_lite0", "input_px": 224}}
    for key, config_dict, known in (("a", same, facts), ("b", {"convnet": {"name": "vgg16"}}, facts), ("c", same, {})):
        store.commit(
            Manifest(
                stage="extract", version=1, key=key, name="x", recipe="r", config=config_dict, inputs={}, facts=known
            )
        )
    _, convnet = rates(config, HOURS, store, ())
    assert convnet == Rate(frames_per_s=70.0, source="the last extraction of this store, a")
    given = replace(HOURS, gpu_frames_per_s=2000, decode_frames_per_s=900)
    decoder, convnet = rates(config, given, store, (), on_gpus=True)
    assert (decoder, convnet) == (Rate(frames_per_s=900, source="given"), Rate(frames_per_s=2000, source="given"))
    unknown = replace(config, convnet=ConvnetConfig(name="efficientnet_lite2"))
    with pytest.raises(ConfigError, match="efficientnet_lite2 was never measured: give --gpu-frames-per-s"):
        bill(unknown, Estimate(num_frames=1), rates(unknown, HOURS, store, ()), Resources())
    decoder, convnet = rates(config, HOURS, store, (), on_gpus=True)
    assert convnet is not None
    assert convnet.source.startswith("default: an H100")
    assert decoder.frames_per_s == convnet.frames_per_s / 15  # else it would not have been that fast
    on_gpus: dict[str, int | float | str] = {"frames_per_s": 9000.0, "num_gpus": 2.0, "num_workers": 2}
    on_gpus |= {"num_decoders": 3, "num_cores": 8.0}
    store.commit(
        Manifest(stage="extract", version=1, key="d", name="x", recipe="r", config=same, inputs={}, facts=on_gpus)
    )
    decoder, convnet = rates(config, HOURS, store, (), on_gpus=True)
    source = "the last extraction of this store, d"
    assert convnet == Rate(frames_per_s=4500.0, source=source, num_decoders=3.0)
    assert decoder == Rate(frames_per_s=1500.0, source=source)


def test_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.cost_estimates.CALIBRATION_S", 0.05)
    clips = encode_clips(tmp_path, 2)
    decoder, convnet = calibrate(CONFIG, clips)
    assert decoder.frames_per_s > 0
    assert convnet.frames_per_s > 0
    assert decoder.source.startswith("measured here, ")
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError, match="none of the first could be decoded"):
        calibrate(CONFIG, [str(tmp_path / "none.mp4")])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["youtube", "--videos", *encode_clips(tmp_path, 3), "--store", str(tmp_path / "store"), "--plan"]

    def said(*more: str) -> str:
        assert main([*arguments, *more]) == 0
        return capsys.readouterr().out

    hours = ("--plan-hours", "300", "--price-per-gpu-hour", "2")
    out = said(*hours, "--gpu-frames-per-s", "2000")
    assert "32,400,000" in out
    assert "83.5 GB" in out
    assert "not known" not in out, "probing so many videos is foreseen, too"
    assert "extract: 4.5 GPU-hours, 6.4 core-hours" in out
    # 3.85 million windows eight times, 5.64 GFLOP each: 0.12 hours of an H100.
    assert "about 8 passes over 3,847,500 sequences" in out
    assert "residual and autoregressive with fewer than 100 videos (few_videos)" in out
    assert "pretrain composite: 0.1 GPU-hours on 1 GPU (default: 390 TFLOP/s" in out
    assert "price: 9.25" in out
    few_decoders = said(*hours, "--gpu-frames-per-s", "2000", "--decoders-per-gpu", "1")  # 6.4 hours for 4.5
    assert "extract: 6.4 GPU-hours, 6.4 core-hours" in few_decoders
    assert "price: 13.06" in few_decoders
    # A rate that nobody gave is the default of an H100, and says so: never a price of nothing.
    default = said(*hours)
    assert "convnet 21,080 frames/s a GPU (default: an H100" in default
    assert "price: 1.10" in default
    few = said("--price-per-gpu-hour", "2")  # three clips of less than a second
    assert "price: less than 0.01" in few
    layers = ("--pretrain.num-layers", "2", "--gpus-per-worker", "1", "--workers")
    seconds = [said(*hours, *layers, num).partition("pretrain composite")[2].splitlines()[0] for num in ("1", "8")]
    computing_s = 19 * 60 + 22.2  # on one GPU
    assert f" {human_seconds(WORKER_START_S + computing_s)} " in seconds[0]
    assert f" {human_seconds(WORKER_START_S + GROUP_START_S + computing_s / 8)} " in seconds[1]
    assert "GPU-hours" not in said()
    with pytest.raises(UsageError, match="pixels was never measured on a GPU: give --gpu-frames-per-s"):
        main(
            [
                *arguments,
                "--price-per-gpu-hour",
                "2",
                "--extract.convnet.name",
                "pixels",
                "--extract.convnet.layer",
                "rgb",
            ]
        )
    with pytest.raises(UsageError, match=r"--plan-hours is 0\.0; give a number above 0"):
        main([*arguments, "--plan-hours", "0"])


def test_a_download_waits_without_a_gpu_and_without_a_bill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """30 hours of Sports-1M, of which a guest of YouTube waits almost three days for the servers."""
    links = tmp_path / "train_partition.txt"
    links.write_text("".join(f"http://www.youtube.com/watch?v={n:011d} {n % 487}\n" for n in range(16_000)))
    plan = ["youtube", "--plan", "--links", str(links), "--hours", "30", "--clip-seconds", "10"]
    prices = ["--price-per-gpu-hour", "2.5", "--gpus-per-worker", "1", "--store", str(tmp_path / "store")]
    assert main([*plan, *prices]) == 0
    lines = capsys.readouterr().out.splitlines()
    (waiting,) = [line for line in lines if "in which no GPU is reserved" in line]
    assert [line for line in lines if "download-" in line and "2.7 days" in line], "and so says the plan's column"
    assert waiting == "download: 2.7 days of waiting for servers, in which no GPU is reserved"
    (price,) = [line for line in lines if line.startswith("price: ")]
    assert 0.05 < float(price.removeprefix("price: ")) < 1.0


@pytest.mark.parametrize(
    ("flags", "said"), [((), "up to 16,000 links"), (("--clip-seconds", "10"), "about 15,429 links")]
)
def test_a_plan_of_hours_counts_the_videos_that_make_them(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the links: of 30 hours in all that were listed, each would have had seven seconds, and no window."""
    links = tmp_path / "links.txt"
    links.write_text("".join(f"https://host/{n}.mp4\n" for n in range(16_000)))
    plan = ["youtube", "--plan", "--links", str(links), "--hours", "30", "--store", str(tmp_path / "store")]
    assert main([*plan, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("download: ") and said in line]
    (learned,) = [line for line in lines if line.startswith("pretrain composite: about ")]
    assert int(learned.split(" over ")[1].split()[0].replace(",", "")) > 100_000
