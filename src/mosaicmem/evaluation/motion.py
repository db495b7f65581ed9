"""Do things that should move still move, in frames whose camera moves too?

Flow cannot say: it sees the camera first. The procedural truth can be filmed twice along the same path, once as it is
and once with time stopped at the last observation. The difference of the two is the motion of things and nothing else,
and a generated video is measured by how much of that difference it shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.worlds.episodes import movers
from mosaicmem.worlds.film import film
from mosaicmem.worlds.scene import Scene


@dataclass(frozen=True)
class MotionTruth:
    """One path, filmed twice.

    Attributes:
        truth: `[n 3 H W]` frames as time goes on, in [-1, 1].
        static: `[n 3 H W]` the same cameras with time stopped.
        arrived: `[n H W]` pixels that show a moving thing in `truth`.
        left: `[n H W]` pixels that show one in `static`.
    """

    truth: Float[Tensor, "n 3 H W"]
    static: Float[Tensor, "n 3 H W"]
    arrived: Bool[Tensor, "n H W"]
    left: Bool[Tensor, "n H W"]

    @property
    def mask(self) -> Bool[Tensor, "n H W"]:
        """Pixels where a moving thing is, or would be had time stopped."""
        return self.arrived | self.left


@dataclass(frozen=True)
class MotionScore:
    """Sums over pixels of movers; add them up over frames and videos, then ask.

    Attributes:
        shown: `sum <generated - static, truth - static>`.
        true_energy: `sum |truth - static|^2`.
        generated_energy: `sum |generated - static|^2`.
        pixels: Pixels in the sums.
    """

    shown: float = 0.0
    true_energy: float = 0.0
    generated_energy: float = 0.0
    pixels: int = 0

    def merge(self, other: MotionScore) -> MotionScore:
        """The score of both parts together."""
        return MotionScore(
            self.shown + other.shown,
            self.true_energy + other.true_energy,
            self.generated_energy + other.generated_energy,
            self.pixels + other.pixels,
        )

    def compute(self) -> dict[str, float]:
        """Three numbers, NaN where nothing truly moves.

        `motion_share`: the part of the true change that is shown; 1 moves as truth does, 0 is frozen.
        `motion_amplitude`: change of any kind, right or wrong, over the true amount: above `motion_share` it is error.
        `motion_direction`: cosine between shown and true change: whether what moves moves rightly.
        """
        if self.true_energy <= 0:
            return dict.fromkeys(("motion_share", "motion_amplitude", "motion_direction"), math.nan) | {
                "motion_pixels": self.pixels
            }
        both = math.sqrt(self.true_energy * self.generated_energy)
        return {
            "motion_share": self.shown / self.true_energy,
            "motion_amplitude": math.sqrt(self.generated_energy / self.true_energy),
            "motion_direction": self.shown / both if both > 0 else 0.0,
            "motion_pixels": self.pixels,
        }


def motion_truth(
    scene: Scene, cameras: Cameras, times: Float[Tensor, " n"], stopped_at: float, *, finer: int = 2
) -> MotionTruth:
    """Film a path as time goes on, and with everything that moves stopped at `stopped_at` (seconds).

    A light that goes out changes every pixel and belongs to both films: lights keep their own time.
    """
    moving = film(scene, cameras, times, finer=finer)
    stopped = scene.solids.moved(stopped_at)
    stopped = replace(stopped, law=torch.zeros_like(stopped.law)).sorted()
    frozen = film(replace(scene, solids=stopped), cameras, times, finer=finer)
    ids = movers(scene)
    return MotionTruth(
        moving.rgb, frozen.rgb, torch.isin(moving.object_id, ids), torch.isin(frozen.object_id, ids)
    )  # fmt: skip


def motion_score(
    generated: Float[Tensor, "n 3 H W"],
    truth: Float[Tensor, "n 3 H W"],
    mover_mask: Bool[Tensor, "n H W"],
    static_truth: Float[Tensor, "n 3 H W"],
) -> MotionScore:
    """How much of the true motion a video shows.

    Projects `generated - static_truth` on `truth - static_truth` within the mask, over all frames at once. Give
    `MotionTruth.mask` for the score. A thing that merely vanished also "shows" the half of its motion in which it
    leaves: the score over `arrived & ~left` is 0 or less for it, so report that one beside.
    """
    keep = mover_mask[:, None].expand_as(truth)
    change = (generated.double() - static_truth.double())[keep]
    true_change = (truth.double() - static_truth.double())[keep]
    return MotionScore(
        float((change * true_change).sum()),
        float(true_change.square().sum()),
        float(change.square().sum()),
        int(mover_mask.sum()),
    )
