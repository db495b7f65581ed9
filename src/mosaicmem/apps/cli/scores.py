"""How far a recalled frame is from the real one, on the pixels that memory serves, and how far its VAE alone is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.apps.cli.views import View
from mosaicmem.evaluation.metrics import psnr, ssim_state
from mosaicmem.models.synthetic import PixelShuffleVAE
from mosaicmem.models.vae import VAE


@dataclass(frozen=True)
class FrameScore:
    """Of one frame: `coverage` in [0, 1], `psnr` in dB and `ssim` on covered pixels, None where not measurable.

    `vae_psnr` and `vae_ssim` are those of the real frame encoded and decoded again, on the same pixels: what the VAE
    would leave if memory were perfect. None for a lossless VAE.
    """

    frame: int
    coverage: float
    psnr: float | None = None
    ssim: float | None = None
    vae_psnr: float | None = None
    vae_ssim: float | None = None

    def record(self, compared: bool) -> dict[str, Any]:
        """As it stands in report.json."""
        base: dict[str, Any] = {"frame": self.frame, "coverage": self.coverage}
        if not compared:
            return base
        base |= {"psnr": self.psnr, "ssim": self.ssim}
        return base if self.vae_psnr is None else {**base, "vae_psnr": self.vae_psnr, "vae_ssim": self.vae_ssim}


def score(frame: int, view: View, truth: Float[Tensor, "3 H W"] | None, vae: VAE) -> FrameScore:
    """Compare a view with the real frame, and the real frame with what a lossy `vae` makes of it."""
    if truth is None:
        return FrameScore(frame, view.coverage)
    found = FrameScore(frame, view.coverage, *_fidelity(view.frame, truth, view.good))
    if isinstance(vae, PixelShuffleVAE):
        return found
    again = vae.decode_image(vae.encode_image(truth[None]))[0]
    vae_psnr, vae_ssim = _fidelity(again, truth, view.good)
    return replace(found, vae_psnr=vae_psnr, vae_ssim=vae_ssim)


def _fidelity(
    frame: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], good: Bool[Tensor, "H W"]
) -> tuple[float | None, float | None]:
    pair, mask = (frame.clamp(-1, 1)[None], truth[None]), good[None]
    large_enough = min(truth.shape[-2:]) >= 11  # the window of SSIM
    return _number(float(psnr(*pair, mask))), _number(ssim_state(*pair, mask).compute()) if large_enough else None


def means(scores: Sequence[FrameScore]) -> dict[str, float | None]:
    """Means over frames; a frame where a number could not be measured is left out of that mean."""
    out: dict[str, float | None] = {}
    for name in ("coverage", "psnr", "ssim", "vae_psnr", "vae_ssim"):
        values = [v for s in scores if (v := getattr(s, name)) is not None]
        if values or not name.startswith("vae"):
            out[name] = sum(values) / len(values) if values else None
    return out


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
