"""What the frames of one row are worth: every column of the memory benchmark, for one world."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.evaluation.frechet import FEATURES, RandomFeatures, crops_over, take_crops
from mosaicmem.evaluation.metrics import MIN_MASK_SHARE, psnr, ssim_state
from mosaicmem.evaluation.motion import MotionScore, motion_score
from mosaicmem.evaluation.perceptual import perceptual_state
from mosaicmem.evaluation.pose import estimate_poses
from mosaicmem.evaluation.trials import Trial

MIN_POSE_SHARE = 0.5
"""Frames of which less was seen are not asked for their pose: nobody could have told the generator what to show."""
MAX_CROPS = 48  # of one world, for the distance of distributions


@dataclass(frozen=True)
class Scores:
    """One row in one world.

    Attributes:
        values: One number a measure, NaN where it does not apply.
        counts: Frames asked for their pose, those that do not show their place, and those that cannot tell.
        motion: Of things that move, over pixels where they are and where they would be had time stopped.
        places: The same wherever they ever were, except where they would be had time stopped: whether they are shown
            where they are now and nowhere else. What vanished scores 0 here, and what is smeared over its past little.
        features: `[k 64]` of crops that hold what was never seen.
        seconds: A frame, by stage.
    """

    values: dict[str, float]
    counts: dict[str, int]
    motion: MotionScore
    places: MotionScore
    features: Float[Tensor, "k 64"]
    seconds: dict[str, float]


def judge(
    frames: Float[Tensor, "n 3 H W"],
    trial: Trial,
    features: RandomFeatures,
    *,
    seconds: dict[str, float] | None = None,
    pose_frames: int = 4,
) -> Scores:
    """Compare the frames of a row with the truth of its trial.

    Args:
        seconds: Spent by stage on all frames.
        pose_frames: Frames whose pose is estimated, spread evenly.
    """
    values = fidelity(frames, trial, trial.seen, "") | fidelity(frames, trial, trial.unseen, "unseen_")
    pose, counts = _pose(frames, trial, pose_frames)
    motion = places = MotionScore()
    if trial.motion is not None:
        shown, truth = frames[list(trial.judged)], trial.motion
        motion = motion_score(shown, truth.truth, truth.mask, truth.static)
        places = motion_score(shown, truth.truth, trial.swept & ~truth.left, truth.static)
    each = {stage: spent / len(frames) for stage, spent in (seconds or {}).items()}
    return Scores(values | pose, counts, motion, places, unseen_features(frames, trial, features), each)


def fidelity(
    frames: Float[Tensor, "n 3 H W"], trial: Trial, mask: Bool[Tensor, "n H W"], prefix: str
) -> dict[str, float]:
    """PSNR over all frames, SSIM and the perceptual distance over the judged ones, within a mask.

    Frames of which the mask covers less than 20 % are left out of all three.
    """
    truth, chosen = trial.truth.rgb, list(trial.judged)
    enough = mask.flatten(1).double().mean(1) >= MIN_MASK_SHARE
    decibels = psnr(frames, truth, mask).double()[enough]
    few = (frames[chosen], truth[chosen], mask[chosen])
    return {
        f"{prefix}psnr": float(decibels.mean()) if len(decibels) else math.nan,
        f"{prefix}ssim": ssim_state(*few).compute(),
        f"{prefix}perceptual": perceptual_state(*few).compute(),
    }


def unseen_features(
    frames: Float[Tensor, "n 3 H W"], trial: Trial, features: RandomFeatures
) -> Float[Tensor, "k 64"]:  # fmt: skip
    """Features of crops that hold mostly what was never seen, at most `MAX_CROPS`, spread evenly."""
    places = crops_over(trial.unseen)
    if len(places) > MAX_CROPS:
        places = places[torch.linspace(0, len(places) - 1, MAX_CROPS).round().long()]
    return features(take_crops(frames, places)) if len(places) else torch.zeros(0, FEATURES, dtype=torch.float64)


def _pose(frames: Tensor, trial: Trial, count: int) -> tuple[dict[str, float], dict[str, int]]:
    """Distance from the requested pose on frames that show enough of what was seen, and only by what was seen."""
    seen = trial.seen
    fit = (seen.flatten(1).double().mean(1) >= MIN_POSE_SHARE).nonzero().squeeze(-1)
    if len(fit) > count:
        fit = fit[torch.linspace(0, len(fit) - 1, count).round().long()]
    reference = torch.where(seen, trial.truth.depth, 0.0)
    found = estimate_poses(frames[fit], trial.truth.rgb[fit], reference[fit], trial.cameras[fit])
    judged = ~found.failed & ~found.unobservable

    def mean(values: Tensor) -> float:
        return float(values[judged].mean()) if bool(judged.any()) else math.nan

    values = {
        "rotation_degrees": mean(found.rotation_degrees),
        "translation_units": mean(found.scene_units),
        "translation_metres": mean(found.metres),
    }
    counts = {
        "pose_frames": len(fit),
        "pose_failures": int(found.failed.sum()),
        "pose_unobservable": int(found.unobservable.sum()),
    }
    return values, counts
