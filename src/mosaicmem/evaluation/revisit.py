"""Does a place look the same when it is seen again?

Only pixels that both views can see are compared, otherwise new content would be punished. A frozen video wins every
such score, so report it beside the same score of the copied last frame (`copy_last`) and of the run without memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.evaluation.metrics import MeanState, psnr_state, ssim_state
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.geometry.se3 import rotation_angle

_NOTHING = MeanState()


@dataclass(frozen=True)
class RevisitScore:
    """Fidelity over a mask, mergeable over batches.

    Attributes:
        psnr, ssim: States over frames, dB and [-1, 1].
        share: State over frames of the part of the image inside the mask.
    """

    psnr: MeanState = _NOTHING
    ssim: MeanState = _NOTHING
    share: MeanState = _NOTHING

    def merge(self, other: RevisitScore) -> RevisitScore:
        """The score of both batches together."""
        return RevisitScore(self.psnr.merge(other.psnr), self.ssim.merge(other.ssim), self.share.merge(other.share))

    def compute(self) -> dict[str, float]:
        """`psnr`, `ssim`, `share`, and the number of frames behind each mean."""
        return {
            "psnr": self.psnr.compute(),
            "psnr_frames": self.psnr.count,
            "psnr_capped": self.psnr.capped,
            "ssim": self.ssim.compute(),
            "ssim_frames": self.ssim.count,
            "share": self.share.compute(),
        }


def revisit_score(
    frames: Float[Tensor, "n 3 H W"],
    truth: Float[Tensor, "n 3 H W"],
    mask: Bool[Tensor, "n H W"] | None = None,
    data_range: float = 2.0,
) -> RevisitScore:
    """Compare frames with what was (or would truly be) seen there, over the pixels of `mask` (default all)."""
    if mask is None:
        mask = torch.ones(len(frames), *frames.shape[-2:], dtype=torch.bool, device=frames.device)
    share = mask.flatten(1).double().mean(1)
    return RevisitScore(
        psnr_state(frames, truth, mask, data_range),
        ssim_state(frames, truth, mask, data_range),
        MeanState(float(share.sum()), len(share)),
    )


def copy_last(last: Float[Tensor, "3 H W"], n: int) -> Float[Tensor, "n 3 H W"]:
    """The baseline that every table carries: the last known frame, `n` times."""
    return last.expand(n, *last.shape)


def covisible(
    depth: Float[Tensor, "H W"],
    camera: Cameras,
    other_depth: Float[Tensor, "H W"],
    other_camera: Cameras,
    tolerance: float = 0.05,
) -> Bool[Tensor, "H W"]:
    """Pixels of `camera` whose surface `other_camera` sees too.

    The surface point must land inside the other image, in front of the camera, on a pixel whose own depth agrees
    within `tolerance` (relative). Unknown depth (0) on either side is never co-visible.
    """
    height, width = depth.shape
    uv = pixel_centers(width, height, dtype=depth.dtype).reshape(1, -1, 2)
    points = camera.to(dtype=depth.dtype).unproject(uv, depth.reshape(1, -1))
    landed, z, inside = other_camera.to(dtype=depth.dtype).project(points)
    known = depth.reshape(-1).isfinite() & (depth.reshape(-1) > 0) & inside[0]
    u = torch.where(known, landed[0, :, 0], 0).long()
    v = torch.where(known, landed[0, :, 1], 0).long()
    seen = other_depth[v, u]
    agree = seen.isfinite() & (seen > 0) & ((z[0] - seen).abs() < tolerance * seen)
    return (known & agree).reshape(height, width)


def revisit_pairs(
    cameras: Cameras, min_gap: int, max_distance: float, max_angle_degrees: float = 1.0
) -> list[tuple[int, int]]:
    """Pairs `(first, again)` of frames with nearly the same pose, at least `min_gap` frames apart.

    Every later frame is paired with the earliest frame that matches. `max_distance` is in world units; 1 % of the
    scene's size is usual.
    """
    centers, R = cameras.centers, cameras.viewmats[:, :3, :3]
    distance = (centers[:, None] - centers[None]).norm(dim=-1)
    angle = torch.rad2deg(rotation_angle(R[:, None].expand(-1, len(R), -1, -1), R[None].expand(len(R), -1, -1, -1)))
    index = torch.arange(len(R))
    near = (distance <= max_distance) & (angle <= max_angle_degrees) & (index[:, None] - index[None] >= min_gap)
    return [(int(row.long().argmax()), again) for again, row in enumerate(near) if bool(row.any())]
