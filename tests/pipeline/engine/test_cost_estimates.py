"""The bill of an extraction: by hand, from each source of a rate, and on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, SourceError, UsageError
from pipeline.core.stage import Estimate, Resources
from pipeline.engine.cost_estimates import CostOptions, Rate, bill, bill_lines, calibrate, rates
from pipeline.engine.store import Manifest, Store
from pipeline.run import main
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig
from tests.pipeline.small_store import CONFIG, encode_clips

HOURS = CostOptions(plan_hours=300)


def test_by_hand() -> None:
    options = replace(
        HOURS, gpu_frames_per_s=3000, price_per_gpu_hour=2, price_per_core_hour=0.05, price_per_tb_month=20
    )
    assert options.assumed is not None
    assert options.assumed.num_frames == 300 * 3600 * 30
    estimate = Estimate(num_frames=32_400_000, num_bytes=32_400_000 * 8209)
    decoder, convnet = Rate(frames_per_s=500, source="given"), Rate(frames_per_s=3000, source="given")
    on_gpus = bill(ExtractConfig(), estimate, options, (decoder, convnet))
    assert (on_gpus.gpu_hours, on_gpus.core_hours, on_gpus.cores_per_gpu) == (3.0, 18.0, 6.0)
    assert on_gpus.price == pytest.approx(3 * 2 + 18 * 0.05 + 0.2659716 * 20)
    assert on_gpus.seconds(Resources(num_workers=2, gpus_per_worker=1)) == 9 * 3600  # two cores decode for nine hours
    assert on_gpus.seconds(Resources(num_workers=2, gpus_per_worker=1, cpus_per_worker=16)) == 1.5 * 3600
    lines = bill_lines(on_gpus, options)
    assert lines[0] == "300 hours at 30 frames/s: 32,400,000 frames, about 97.2 GB of compressed video"
    assert "extract: 3.0 GPU-hours, 18.0 core-hours, 266.0 GB of percepts" in lines
    assert lines[-1] == "price: 12.22, the first month of storage included"
    # Without GPUs both are the cores' work; with GPUs and no price for them there is no price.
    on_cores = bill(ExtractConfig(), estimate, replace(options, gpu_frames_per_s=None), (decoder, convnet))
    assert (on_cores.gpu_hours, on_cores.core_hours) == (0.0, 21.0)
    assert bill(ExtractConfig(), estimate, replace(options, price_per_gpu_hour=None), (decoder, convnet)).price is None


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
    decoder, convnet = rates(config, replace(HOURS, gpu_frames_per_s=2000, decode_frames_per_s=900), store, ())
    assert (decoder, convnet) == (Rate(frames_per_s=900, source="given"), Rate(frames_per_s=2000, source="given"))
    unknown = replace(config, convnet=ConvnetConfig(name="efficientnet_lite2"))
    with pytest.raises(ConfigError, match="efficientnet_lite2 was never measured: give --gpu-frames-per-s"):
        bill(unknown, Estimate(num_frames=1), HOURS, rates(unknown, HOURS, store, ()))


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
    (clip, _) = encode_clips(tmp_path, 2)
    arguments = ["youtube", "--videos", clip, "--store", str(tmp_path / "store"), "--plan"]
    assert main([*arguments, "--plan-hours", "300", "--gpu-frames-per-s", "2000", "--price-per-gpu-hour", "2"]) == 0
    out = capsys.readouterr().out
    assert "32,400,000" in out
    assert "83.5 GB" in out
    assert "extract: 4.5 GPU-hours, 7.2 core-hours" in out
    assert "price: 9.00" in out
    assert main(arguments) == 0
    assert "GPU-hours" not in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"--plan-hours is 0\.0; give a number above 0"):
        main([*arguments, "--plan-hours", "0"])
