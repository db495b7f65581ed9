"""Per-frame fidelity: PSNR and SSIM, plain and masked, as states that merge.

Numbers over batches of unequal size are averaged by merging states, never by averaging averages. Frames are
`[n 3 H W]`; `data_range` is the distance between black and white (2 for frames in [-1, 1], 1 for [0, 1]).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError

PSNR_CAP = 60.0
MIN_MASK_SHARE = 0.2

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03


@dataclass(frozen=True)
class MeanState:
    """A running mean over frames, with the counts that must be reported beside it.

    Attributes:
        total: Sum of the per-frame values.
        count: Frames in `total`.
        capped: Frames of `total` whose value reached the cap.
        skipped: Frames left out: too little of them was inside the mask.
    """

    total: float = 0.0
    count: int = 0
    capped: int = 0
    skipped: int = 0

    def merge(self, other: MeanState) -> MeanState:
        """The state of both batches together."""
        return MeanState(
            self.total + other.total,
            self.count + other.count,
            self.capped + other.capped,
            self.skipped + other.skipped,
        )

    def compute(self) -> float:
        """The mean, NaN where no frame was counted."""
        return self.total / self.count if self.count else float("nan")


def psnr(
    frames: Float[Tensor, "n 3 H W"],
    truth: Float[Tensor, "n 3 H W"],
    mask: Bool[Tensor, "n H W"] | None = None,
    data_range: float = 2.0,
) -> Float[Tensor, "n"]:
    """`10 log10(range^2 / MSE)` of every frame over its masked pixels, capped at 60 dB; NaN where the mask is empty."""
    error = (frames.double() - truth.double()).square().mean(1)
    keep = torch.ones_like(error) if mask is None else mask.to(error)
    # where, not multiply: a NaN outside the mask must not reach the mean
    mse = torch.where(keep > 0, error, 0).flatten(1).sum(1) / keep.flatten(1).sum(1)
    return (10 * torch.log10(data_range**2 / mse)).clamp(max=PSNR_CAP).to(frames.dtype)


def psnr_state(
    frames: Float[Tensor, "n 3 H W"],
    truth: Float[Tensor, "n 3 H W"],
    mask: Bool[Tensor, "n H W"] | None = None,
    data_range: float = 2.0,
) -> MeanState:
    """`psnr` as a mergeable mean over frames (never PSNR of the mean error). Frames with an empty mask are skipped."""
    values = psnr(frames, truth, mask, data_range).double()
    valid = ~values.isnan()
    return MeanState(
        float(values[valid].sum()), int(valid.sum()), int((values[valid] >= PSNR_CAP).sum()), int((~valid).sum())
    )


def ssim(
    frames: Float[Tensor, "n 3 H W"], truth: Float[Tensor, "n 3 H W"], data_range: float = 2.0
) -> Float[Tensor, "n"]:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5, per RGB channel, then the mean.

    Only windows that lie inside the image count.

    Raises:
        GeometryError: if the frames are smaller than the window.
    """
    height, width = frames.shape[-2:]
    if min(height, width) < _WINDOW:
        raise GeometryError(
            f"SSIM looks at {_WINDOW}x{_WINDOW} windows, the frames are {width}x{height}; expected at least that size"
        )
    a, b = frames.double(), truth.double()
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).flatten(1).mean(1).to(frames.dtype)


def ssim_state(
    frames: Float[Tensor, "n 3 H W"],
    truth: Float[Tensor, "n 3 H W"],
    mask: Bool[Tensor, "n H W"] | None = None,
    data_range: float = 2.0,
) -> MeanState:
    """`ssim` as a mergeable mean over frames.

    With a mask, pixels outside are taken from `truth` in both pictures, so they count as perfect: report the mask share
    beside the number. Frames of which the mask covers less than 20 % are skipped.
    """
    if mask is None:
        keep = torch.ones(len(frames), dtype=torch.bool, device=frames.device)
    else:
        frames = torch.where(mask[:, None], frames, truth)
        keep = mask.flatten(1).float().mean(1) >= MIN_MASK_SHARE
    values = ssim(frames[keep], truth[keep], data_range).double()
    return MeanState(float(values.sum()), len(values), 0, int((~keep).sum()))


def _blur(images: Tensor) -> Tensor:
    """Separable Gaussian of the SSIM window, without padding."""
    x = torch.arange(_WINDOW, dtype=images.dtype, device=images.device) - _WINDOW // 2
    kernel = torch.exp(-(x**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(flat, kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0].unflatten(
        0, images.shape[:2]
    )
