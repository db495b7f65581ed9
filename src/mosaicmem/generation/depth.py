"""Depth of new frames, at the scale of memory.

Depth is never invented. Without an estimator it is what memory itself renders, and holes stay unknown; with one, its
depth is scaled to agree with memory where both know, so that new patches land where old ones lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.depth.alignment import ScaleAlignment, align_scale
from mosaicmem.depth.estimator import DepthEstimator
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.mosaic import Mosaic


@dataclass(frozen=True)
class WindowDepth:
    """Depth of some frames.

    Attributes:
        depth: `[l H W]` z-depth, 0 = unknown.
        confidence: `[l H W]`, or None where no estimator gave one.
        scale: The last factor that observed memory agreed to; None if there never was one.
        source: `memory` (rendered), `estimated` (aligned to memory), `carried` (previous scale) or `none`.
    """

    depth: Float[Tensor, "l H W"]
    confidence: Float[Tensor, "l H W"] | None
    scale: float | None
    source: str


def depth_of(
    estimator: DepthEstimator | None,
    frames: Float[Tensor, "l 3 H W"],
    mosaic: Mosaic,
    previous: float | None,
    observed: Bool[Tensor, " g"] | None = None,
) -> WindowDepth:
    """Depth of frames seen by the mosaic's cameras: the estimator's, aligned to memory; else what memory renders.

    One scale serves all frames of a call. An estimator whose every answer has a scale of its own (`scale_source`
    "median") may jump from call to call. Any other is asked to agree with memory that was observed. Where none is in
    view it is aligned to memory that was generated, near the scale last agreed to, and that is not moved: a depth that
    follows the depth of earlier guesses shrinks or grows without end.

    Args:
        previous: The scale of the call before.
        observed: Which groups of the mosaic's store were observed; None takes all for observed.
    """
    rendered = cells_to_pixels(torch.where(mosaic.good, mosaic.depth, 0), mosaic.grid)
    if not len(frames):
        return WindowDepth(rendered, None, previous, "none")
    if estimator is None:
        return WindowDepth(rendered, None, previous, "memory" if bool(mosaic.good.any()) else "none")
    estimate = estimator.estimate(frames, mosaic.cameras)

    def aligned(stored: Tensor, relative: bool = False) -> ScaleAlignment:
        return align_scale(
            estimate.depth.flatten(0, 1).float(),
            stored.flatten(0, 1),
            confidence=estimate.confidence.flatten(0, 1),
            previous=previous,
            relative=relative,
        )

    relative = estimate.info.scale_source == "median"
    trusted = mosaic.good
    if observed is not None and len(observed) and not relative:
        trusted = trusted & observed[mosaic.source.clamp(min=0)]
    found = aligned(cells_to_pixels(torch.where(trusted, mosaic.depth, 0), mosaic.grid), relative)
    scale = previous if found.source == "carried" else found.scale
    if found.source == "carried" and trusted is not mosaic.good:
        found = aligned(rendered)
        scale = found.scale if previous is None and found.source != "carried" else previous
    source = "carried" if found.source == "carried" else "estimated"
    return WindowDepth(found.apply(estimate.depth.float()), estimate.confidence, scale, source)


def cells_to_pixels(cells: Float[Tensor, "l h w"], grid: TokenGrid) -> Float[Tensor, "l H W"]:
    """Every pixel takes the value of its cell, float32."""
    s = grid.stride
    return cells.float().repeat_interleave(s, 1).repeat_interleave(s, 2)
