"""The pairs of settings of two stages that a recipe checks when its plan is built, before the first frame is decoded.

Each message names the flags of both. What only the data can say (how long strangers' videos are, how their manifest
names parts) is left to the stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from pipeline.core.errors import ConfigError
from pipeline.engine.plan import Node
from stages.datasets.official.action_sets import ActionSetConfig
from stages.datasets.synthetic_clips import MOTIONS, PARTS, SynthesizeConfig
from stages.finetune import FinetuneConfig
from stages.pretrain import PretrainConfig
from stages.video.decode import DecodeConfig
from stages.video.listing import SourceListing


def check_loss(config: PretrainConfig) -> None:
    """Raises ConfigError where a model of percepts has a loss for frames in [0, 1], and its percepts are not."""
    if config.model.loss == "bernoulli" and config.transform.kind != "squashed":
        raise ConfigError(
            f"--pretrain.loss bernoulli is for frames in [0, 1], and --pretrain.transform.kind is "
            f"{config.transform.kind}: give --pretrain.transform.kind squashed, or --pretrain.loss gaussian"
        )


def check_alike(arms: Mapping[str, FinetuneConfig]) -> None:
    """Raises ConfigError for arms that would learn from different clips: their differences could not be paired.

    arms: name of the flag -> its arm.
    """
    values = {flag: (arm.part, arm.seed, arm.num_samplings, arm.num_full_samplings) for flag, arm in arms.items()}
    for place, name in enumerate(("part", "seed", "num-samplings", "num-full-samplings")):
        if len({of_arm[place] for of_arm in values.values()}) > 1:
            given = ", ".join(f"--{flag}.{name} {of_arm[place]}" for flag, of_arm in values.items())
            raise ConfigError(f"{given}: arms that are compared learn from the same clips, so give all of them one")
    held_out = {flag: arm.selection.validation_fraction * arm.selection.is_on for flag, arm in arms.items()}
    if len(set(held_out.values())) > 1:
        given = ", ".join(f"{share:g} for --{flag}" for flag, share in held_out.items())
        raise ConfigError(
            f"the arms hold out different shares of the clips to select settings on ({given}): give each the same "
            "selection.validation-fraction and something to select, or none"
        )


def sized(arm: FinetuneConfig, size: tuple[int, int], flag: str, default: FinetuneConfig) -> FinetuneConfig:
    """Returns an arm with the units and layers of the encoder that it starts from, or is compared with.

    Raises:
        ConfigError: the arm was given another size than the encoder's.
    """
    own, unset = ((config.classifier.num_units, config.classifier.num_layers) for config in (arm, default))
    if own not in (unset, size):
        raise ConfigError(
            f"--{flag}.num-units {own[0]} and --{flag}.num-layers {own[1]} are not the size of the encoder that it "
            f"starts from, {size[0]} units in {size[1]} layers: leave them out, or give the encoder's by "
            "--pretrain.num-units and --pretrain.num-layers"
        )
    return replace(arm, classifier=replace(arm.classifier, num_units=size[0], num_layers=size[1]))


def check_corpus(
    corpus: SynthesizeConfig, decode: DecodeConfig, pretrain: PretrainConfig | None, arms: Mapping[str, FinetuneConfig]
) -> None:
    """Checks the made corpus against what learns from it: parts, lengths of windows, and labelled clips.

    Raises:
        ConfigError: a part is none of the corpus, its clips are shorter than a window, or a class has too few clips.
    """
    of_windows = {f"--{flag}.num-frames {arm.num_frames}": (arm.num_frames, "labelled") for flag, arm in arms.items()}
    if pretrain is not None:
        model = pretrain.model
        flags = f"--pretrain.num-frames-in {model.num_frames_in} and --pretrain.num-frames-out {model.num_frames_out}"
        of_windows[f"pretraining by {flags}"] = (model.num_frames, "unlabelled")
        of_windows[f"the forecast by {flags}"] = (model.num_frames_in + model.num_frames_out, "labelled")
        _check_parts("pretrain.parts", pretrain.parts, PARTS)
        _check_validation(corpus, pretrain)
    for what, (num_frames, kind) in of_windows.items():
        there = int(getattr(corpus, f"{kind}_frames"))
        flag = f"--corpus.{kind}-frames {there}"
        if decode.rate_fps is not None and decode.rate_fps < corpus.fps:
            there = ceil(there * decode.rate_fps / corpus.fps)
            flag += f" at --extract.decode.rate-fps {decode.rate_fps:g}"
        if num_frames > there:
            raise ConfigError(f"{what} needs clips of {num_frames} frames, and {flag} gives {there}: change either")
    num_clips = corpus.num_train // len(MOTIONS)
    for flag, arm in arms.items():
        _check_parts(f"{flag}.part", [arm.part], ("train",))
        is_chosen = arm.selection.is_on
        if is_chosen and not arm.selection.validation_fraction:
            raise ConfigError(
                f"--{flag}.selection chooses settings on clips that are held out, and none are: give "
                f"--{flag}.selection.validation-fraction"
            )
        left = num_clips - int(num_clips * arm.selection.validation_fraction * is_chosen)
        if max(arm.labels_per_class) > left and not arm.allow_fewer:
            raise ConfigError(
                f"--{flag}.labels-per-class {max(arm.labels_per_class)} is more than the {left} clips of a class that "
                f"--corpus.num-train {corpus.num_train} leaves to learn from: ask for fewer labels, or make more clips"
            )


def _check_validation(corpus: SynthesizeConfig, pretrain: PretrainConfig) -> None:
    """Raises ConfigError where the clips to validate on are all that there are to learn from."""
    num_clips = {part: int(getattr(corpus, f"num_{part}")) for part in PARTS}
    there, share = sum(num_clips[part] for part in pretrain.parts), pretrain.validation_fraction
    if _num_held_out(share, there) >= there:
        given = ", ".join(f"--corpus.num-{part} {num_clips[part]}" for part in pretrain.parts)
        raise ConfigError(
            f"{given}: --pretrain.validation-fraction {share:g} of them leaves no clip to learn from: make more clips, "
            "or hold out less"
        )


def _num_held_out(share: float, num_groups: int) -> int:
    """Returns the number of groups that `hold_out_groups` would hold out; it needs torch, and a plan does not."""
    return max(1, round(share * num_groups))


def check_labels(
    data: ActionSetConfig, splits: Sequence[int], counts: Sequence[int], validation_fraction: float, flag: str
) -> None:
    """Raises ConfigError for a label count that a class of the official training lists does not reach.

    validation_fraction: the share of a class's training clips that is held out.
    """
    for split in splits:
        clips = Counter(clip.label for clip in data.read_clips() if clip.subsets[split - 1] == "train")
        label, num_clips = min(clips.items(), key=lambda item: item[1])
        left = num_clips - int(num_clips * validation_fraction)
        if max(counts, default=0) > left:
            raise ConfigError(
                f"--{flag} {max(counts)} is more than the {left} clips of class {label!r} that split {split} has to "
                "learn from: give less, or --allow-missing to learn from what there is"
            )


def check_selection(arms: Mapping[str, FinetuneConfig], validation_fraction: float) -> None:
    """Raises ConfigError for an arm that selects settings on clips that are held out, where none are."""
    for flag, arm in arms.items():
        if arm.selection.is_on and not validation_fraction and not arm.allow_fewer:
            raise ConfigError(
                f"--{flag}.selection chooses settings on clips that are held out, and --validation-fraction 0 holds "
                "out none: give a share, or one candidate of each setting and --selection.num-checks 1"
            )


def check_held_out(index: Node, held_out: float, validation_fraction: float) -> None:
    """Raises ConfigError where no video is left to learn from, however the videos are grouped.

    Where a list names parts, or some videos come out of archives, nothing is said here.
    """
    listing = index.listing
    if not isinstance(listing, SourceListing) or listing.has_parts or index.parents:
        return
    there = listing.estimate.num_videos or 0
    left = there - _num_held_out(held_out, there) if held_out else there
    if left <= _num_held_out(validation_fraction, left):
        raise ConfigError(
            f"--held-out {held_out:g} of {there} videos, and --pretrain.validation-fraction {validation_fraction:g} of "
            "what is left, leave none to learn from: give more videos, or hold out less"
        )


def check_enough(index: Node, *, has_test: bool, without_test: str = "") -> None:
    """Raises ConfigError where fewer videos were listed than there are parts: to learn from, to validate on, held out.

    index: the node of ingest; where some of its videos come out of archives, their number is not known.
    without_test: the flags that hold no videos out; empty: the recipe always does.
    """
    needed = 3 if has_test else 2
    num_videos = None if index.listing is None or index.parents else index.listing.estimate.num_videos
    if num_videos is not None and num_videos < needed:
        how = "one each to learn from, to validate on and to be held out" if has_test else "one to validate on as well"
        raise ConfigError(
            f"--videos names {num_videos} video{'s' * (num_videos != 1)}, and {needed} are needed ({how}): give more, "
            "longer ones cut in pieces will do"
            + (f"; {without_test} takes one less" if without_test and num_videos == 2 else "")
        )


def check_patches(num_frames: int, pretrain: PretrainConfig) -> None:
    """Raises ConfigError for patches shorter than what a model reads and predicts, and for a loss of other frames."""
    model = pretrain.model
    if model.loss == "bernoulli":
        raise ConfigError(
            "--pretrain.loss bernoulli is for frames in [0, 1], and patches are standardised: give --pretrain.loss "
            "gaussian"
        )
    needed = model.num_frames_in + model.num_frames_out
    if num_frames < needed:
        raise ConfigError(
            f"--cut.num-frames {num_frames} is less than the {needed} that --pretrain.num-frames-in "
            f"{model.num_frames_in} and --pretrain.num-frames-out {model.num_frames_out} take: cut longer patches"
        )


def _check_parts(flag: str, parts: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [part for part in parts if part not in known]:
        raise ConfigError(
            f"--{flag} names {unknown[0]!r}, of which the corpus has nothing to learn from; give {' or '.join(known)}"
        )
