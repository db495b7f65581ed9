"""Bring new depth to the scale of depth that memory already holds at the same pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.depth.estimator import known_or_zero


@dataclass(frozen=True)
class AlignmentConfig:
    """Thresholds of `align_scale`.

    Attributes:
        confidence_quantile: Cells below this quantile of confidence are left out.
        inlier: Largest `|log ratio - log scale|` of an inlier.
        min_inliers, min_share: Accept from this many inliers and this share of all cells.
        try_affine_above: Spread above which an affine fit of inverse depth is tried: the MAD of the log ratio within
            three times `inlier`. (Within `inlier` itself an even spread has a MAD of half of it: 0.1 at most.)
        affine_gain: Share by which that fit must lower the spread.
        max_step: Largest factor between this scale and the previous one.
    """

    confidence_quantile: float = 0.1
    inlier: float = 0.2
    min_inliers: int = 16
    min_share: float = 0.1
    try_affine_above: float = 0.1
    affine_gain: float = 0.2
    max_step: float = 1.25


@dataclass(frozen=True)
class ScaleAlignment:
    """How new depth becomes depth at memory's scale.

    Attributes:
        scale: Factor of depth; with `inverse`, the median factor that the fit amounts to.
        inliers: Share of all cells that agree with it.
        mad: Median absolute deviation of the log ratio among inliers after alignment: the residual; NaN if carried.
        source: "median", "affine" or "carried" (too little agreed: the previous scale was used).
        inverse: `(alpha, beta)` of `1/d' = alpha/d + beta`, or None.
        clamped: The scale was cut to the largest step from the previous one.
    """

    scale: float
    inliers: float
    mad: float
    source: Literal["median", "affine", "carried"]
    inverse: tuple[float, float] | None = None
    clamped: bool = False

    def apply(self, depth: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Depth at memory's scale; unknown (0) stays unknown."""
        depth = known_or_zero(depth)
        if self.inverse is None:
            return depth * self.scale
        alpha, beta = self.inverse
        inverse = alpha / torch.where(depth > 0, depth, torch.ones_like(depth)) + beta
        return torch.where((depth > 0) & (inverse > 0), 1 / inverse, torch.zeros_like(depth))


def align_scale(
    new: Float[Tensor, "H W"],
    stored: Float[Tensor, "H W"],
    *,
    confidence: Float[Tensor, "H W"] | None = None,
    previous: float | None = None,
    relative: bool = False,
    config: AlignmentConfig = AlignmentConfig(),
) -> ScaleAlignment:
    """Scale that takes `new` depth to `stored` depth at the same pixels, or the previous scale if they cannot say.

    The ratio's median `a` is taken again over its own inliers until it stands still, since outliers that all lie on one
    side pull the first median with them. Where the inliers scatter too much, `1/d' = alpha/d + beta` is fitted by Huber
    reweighting and kept only if it is clearly better and positive everywhere.

    Args:
        new: z-depth of the back end; 0 or non-finite = unknown.
        stored: z-depth that memory holds there: of the same keyframe, or rendered into the view.
        confidence: Of `new`; its lowest tenth is ignored.
        previous: Scale of the previous chunk: what is carried, and what a jump is measured against.
        relative: The back end has a new scale in every call, so jumps are expected and not clamped.

    Never raises for lack of overlap: `source` is then "carried" and `scale` is `previous`, or 1.
    """
    both = _comparable(new, stored, confidence, config)
    log_ratio = (stored[both].double() / new[both].double()).log()
    scale_log, inlier = _consensus(log_ratio, config.inlier)
    count = int(inlier.sum())
    if count < max(config.min_inliers, config.min_share * new.numel()):
        return ScaleAlignment(1.0 if previous is None else previous, count / new.numel(), math.nan, "carried")
    mad = _mad(log_ratio[inlier])
    scale, share = math.exp(scale_log), count / new.numel()
    if not relative and previous is not None:
        low, high = previous / config.max_step, previous * config.max_step
        if not low <= scale <= high:
            return ScaleAlignment(min(max(scale, low), high), share, mad, "median", clamped=True)
    near = (log_ratio - scale_log).abs() < 3 * config.inlier
    spread = _mad(log_ratio[near])
    if spread > config.try_affine_above:
        affine = _affine(new, stored, both, near, spread, config)
        if affine is not None:
            return affine
    return ScaleAlignment(scale, share, mad, "median")


def _comparable(new: Tensor, stored: Tensor, confidence: Tensor | None, config: AlignmentConfig) -> Bool[Tensor, "H W"]:
    both = (known_or_zero(new) > 0) & (known_or_zero(stored) > 0)
    if confidence is not None and bool(both.any()):
        told = confidence[both]
        both &= confidence >= told.kthvalue(1 + int(config.confidence_quantile * (len(told) - 1))).values
    return both


def _consensus(log_ratio: Tensor, width: float) -> tuple[float, Tensor]:
    """Median over its own inliers, from the median of all."""
    inlier = torch.ones_like(log_ratio, dtype=torch.bool)
    center = 0.0
    for _ in range(10):
        if not bool(inlier.any()):
            break
        center = _median(log_ratio[inlier])
        now = (log_ratio - center).abs() < width
        if torch.equal(now, inlier):
            break
        inlier = now
    return center, inlier


def _affine(
    new: Tensor, stored: Tensor, both: Tensor, near: Tensor, spread: float, config: AlignmentConfig
) -> ScaleAlignment | None:
    """Huber fit of inverse depth by five reweightings; None unless it is clearly better, anything agrees with it,
    and it is positive for all new depth."""
    x, y = 1 / new[both].double(), 1 / stored[both].double()
    design = torch.stack([x, torch.ones_like(x)], -1)
    weight = near.double()
    alpha_beta = torch.zeros(2, dtype=torch.float64)
    for _ in range(5):
        root = weight.sqrt()[:, None]
        alpha_beta = torch.linalg.lstsq(root * design, root[:, 0] * y).solution
        residual = (y - design @ alpha_beta).abs()
        width = 1.345 * 1.4826 * _median(residual) + 1e-12
        weight = (width / residual.clamp(min=1e-300)).clamp(max=1.0)
    alpha, beta = alpha_beta.tolist()
    known = known_or_zero(new)
    if bool((alpha / known[known > 0].double() + beta <= 0).any()):
        return None
    log_ratio = (alpha * x + beta).log() - y.log()
    if _mad(log_ratio[near]) > (1 - config.affine_gain) * spread:
        return None
    inlier = log_ratio.abs() < config.inlier
    if not bool(inlier.any()):
        return None
    scale = _median(1 / (alpha * x + beta) * x)
    return ScaleAlignment(scale, int(inlier.sum()) / new.numel(), _mad(log_ratio[inlier]), "affine", (alpha, beta))


def _median(values: Tensor) -> float:
    low, high = (len(values) - 1) // 2, len(values) // 2
    ordered = np.partition(values.numpy(), (low, high))  # a tenth of the time of sorting
    return float((ordered[low] + ordered[high]) / 2)


def _mad(values: Tensor) -> float:
    return _median((values - _median(values)).abs())
