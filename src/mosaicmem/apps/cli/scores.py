"""How far a recalled frame is from the real one, on the pixels that memory serves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mosaicmem._shapes import Float, Tensor
from mosaicmem.apps.cli.views import View
from mosaicmem.evaluation.metrics import psnr, ssim_state


@dataclass(frozen=True)
class FrameScore:
    """Of one frame: `coverage` in [0, 1], `psnr` in dB and `ssim` on covered pixels, None where not measurable."""

    frame: int
    coverage: float
    psnr: float | None = None
    ssim: float | None = None

    def record(self, compared: bool) -> dict[str, Any]:
        """As it stands in report.json."""
        base: dict[str, Any] = {"frame": self.frame, "coverage": self.coverage}
        return {**base, "psnr": self.psnr, "ssim": self.ssim} if compared else base


def score(frame: int, view: View, truth: Float[Tensor, "3 H W"] | None) -> FrameScore:
    """Compare a view with the real frame."""
    if truth is None:
        return FrameScore(frame, view.coverage)
    pair, mask = (view.frame.clamp(-1, 1)[None], truth[None]), view.good[None]
    large_enough = min(truth.shape[-2:]) >= 11  # the window of SSIM
    return FrameScore(
        frame,
        view.coverage,
        _number(float(psnr(*pair, mask))),
        _number(ssim_state(*pair, mask).compute()) if large_enough else None,
    )


def means(scores: Sequence[FrameScore]) -> dict[str, float | None]:
    """Means over frames; a frame where a number could not be measured is left out of that mean."""
    out: dict[str, float | None] = {}
    for name in ("coverage", "psnr", "ssim"):
        values = [v for s in scores if (v := getattr(s, name)) is not None]
        out[name] = sum(values) / len(values) if values else None
    return out


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
