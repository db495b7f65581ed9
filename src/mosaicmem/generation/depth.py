"""Depth of new frames, at the scale of memory.

Depth is never invented. Without an estimator it is what memory itself renders, and holes stay unknown; with one, its
depth is scaled to agree with memory where both know, so that new patches land where old ones lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.depth.alignment import align_scale
from mosaicmem.depth.estimator import DepthEstimator
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.mosaic import Mosaic


@dataclass(frozen=True)
class WindowDepth:
    """Depth of some frames.

    Attributes:
        depth: `[l H W]` z-depth, 0 = unknown.
        confidence: `[l H W]`, or None where no estimator gave one.
        scale: Factor that the estimate was multiplied by, or the previous one; None if there never was one.
        source: `memory` (rendered), `estimated` (aligned to memory), `carried` (previous scale) or `none`.
    """

    depth: Float[Tensor, "l H W"]
    confidence: Float[Tensor, "l H W"] | None
    scale: float | None
    source: str


def depth_of(
    estimator: DepthEstimator | None, frames: Float[Tensor, "l 3 H W"], mosaic: Mosaic, previous: float | None
) -> WindowDepth:
    """Depth of frames seen by the mosaic's cameras: the estimator's, aligned to memory; else what memory renders.

    One scale serves all frames of a call. An estimator whose every answer has a scale of its own (`scale_source`
    "median") may jump from call to call; any other is held near `previous`.
    """
    rendered = cells_to_pixels(torch.where(mosaic.good, mosaic.depth, 0), mosaic.grid)
    if not len(frames):
        return WindowDepth(rendered, None, previous, "none")
    if estimator is None:
        return WindowDepth(rendered, None, previous, "memory" if bool(mosaic.good.any()) else "none")
    estimate = estimator.estimate(frames, mosaic.cameras)
    found = align_scale(
        estimate.depth.flatten(0, 1).float(),
        rendered.flatten(0, 1),
        confidence=estimate.confidence.flatten(0, 1),
        previous=previous,
        relative=estimate.info.scale_source == "median",
    )
    source = "carried" if found.source == "carried" else "estimated"
    scale = previous if found.source == "carried" else found.scale
    return WindowDepth(found.apply(estimate.depth.float()), estimate.confidence, scale, source)


def cells_to_pixels(cells: Float[Tensor, "l h w"], grid: TokenGrid) -> Float[Tensor, "l H W"]:
    """Every pixel takes the value of its cell, float32."""
    s = grid.stride
    return cells.float().repeat_interleave(s, 1).repeat_interleave(s, 2)
