"""From a frame with depth to a `Keyframe`: where hygiene decides which cells memory may ever show.

Depth at a cell is that of the pixel under its centre, never an average: an average across an edge is a point that
exists nowhere. Unknown depth stays unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError, refuse
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.patches import Keyframe, Origin


@dataclass(frozen=True)
class LiftingConfig:
    """Depth hygiene.

    Attributes:
        near: Depths below this share of the frame's median are invalid.
        flying_ratio: A cell is a flying one, and invalid, if its depth lies between two opposite neighbours' and is
            more than this factor away from both: the blend of a front and a back surface. 0 switches the test off.
        edge_ratio: Cells at which max/min depth over a 3x3 stencil exceeds this are invalid, on both sides of the
            edge. 0 (default) keeps them: with a z-buffer and an agreement test at read-back they do no harm, and
            dropping them costs coverage. Use 1.3 for depth whose edges are soft.
        edge_spacing: Spacing of both stencils, in pixels.
        confidence_percentile: Cells below this percentile of the frame's confidence are invalid; no effect where the
            confidence is constant. 0 (default) keeps them: what a good source of depth believes least are edges, and
            pictures consist of these. Raise it for depth whose errors lie far from edges.
    """

    near: float = 0.01
    flying_ratio: float = 1.05
    edge_ratio: float = 0.0
    edge_spacing: int = 1
    confidence_percentile: float = 0.0

    def __post_init__(self) -> None:
        refuse(
            (self.near < 0, f"near = {self.near}: expected at least 0"),
            (0 < self.flying_ratio < 1, f"flying_ratio = {self.flying_ratio}: expected 0 (off) or at least 1"),
            (0 < self.edge_ratio <= 1, f"edge_ratio = {self.edge_ratio}: expected 0 (off) or more than 1"),
            (self.edge_spacing < 1, f"edge_spacing = {self.edge_spacing}: expected at least 1 pixel"),
            (
                not 0 <= self.confidence_percentile < 100,
                f"confidence_percentile = {self.confidence_percentile}: expected 0 to 100",
            ),
        )


def lift(
    latents: Float[Tensor, "c h w"],
    depth: Float[Tensor, "H W"],
    camera: Cameras,
    grid: TokenGrid,
    *,
    confidence: Float[Tensor, "H W"] | None = None,
    exclude: Bool[Tensor, "H W"] | None = None,
    frame: int = 0,
    time: float = 0.0,
    origin: Origin = "observed",
    config: LiftingConfig | None = None,
) -> Keyframe:
    """Give every latent cell of a frame its depth, and decide which cells may be read (method: lifting, hygiene).

    Tensors may come from any device; the keyframe lies on the CPU, as all of memory does.

    Args:
        latents: Image-mode latent of the frame.
        depth: z-depth of every pixel, world units; 0, negative or non-finite = unknown.
        camera: The frame's camera at image size.
        grid: Ties pixels to cells; its size must be the image's.
        confidence: Of the depth, any scale; larger is better. What is no finite number says nothing and counts 0.
        exclude: Pixels that must not be remembered (sky, moving things).

    Raises:
        GeometryError: if depth, camera and grid disagree about the size of the image, or `time` is not finite.
    """
    config = config or LiftingConfig()
    latents, depth = latents.cpu(), depth.cpu()  # memory is kept there, wherever models run
    confidence = None if confidence is None else confidence.cpu()
    exclude = None if exclude is None else exclude.cpu()
    size = (grid.height, grid.width)
    for name, found in [("depth", tuple(depth.shape)), ("camera", (camera.height, camera.width))]:
        if found != size:
            raise GeometryError(f"{name} is {found[1]}x{found[0]}, expected the grid's {size[1]}x{size[0]} (WxH)")
    known = depth.isfinite() & (depth > 0)
    clean = torch.where(known, depth, torch.zeros_like(depth))
    at = _Centers(grid)
    cells = at(clean)
    valid = at(known)
    if bool(known.any()):
        valid &= cells > config.near * clean[known].median()
    if config.flying_ratio:
        valid &= ~_flying(clean, at, config.flying_ratio, config.edge_spacing)
    if config.edge_ratio:
        valid &= ~_edge(clean, at, config.edge_ratio, config.edge_spacing)
    if exclude is not None:
        valid &= ~at(exclude)
    sure = torch.ones_like(cells)
    if confidence is not None:
        confidence = torch.where(confidence.isfinite(), confidence, torch.zeros_like(confidence))
        sure = at(confidence)
        if config.confidence_percentile and bool(known.any()):
            # torch's quantile takes no more than 16 million values
            valid &= sure >= np.quantile(confidence[known].float().numpy(), config.confidence_percentile / 100)
    return Keyframe(
        latents=latents,
        depth=cells,
        valid=valid,
        confidence=sure.to(cells.dtype),
        camera=camera.to(dtype=torch.float64, device="cpu"),
        stride=grid.stride,
        patch=grid.patch,
        frame=frame,
        time=time,
        origin=origin,
    )


class _Centers:
    """Looks at an image under the cells' centres, or beside them; what lies outside repeats the border."""

    def __init__(self, grid: TokenGrid) -> None:
        h, w = grid.cells
        self.rows, self.cols = (torch.arange(n) * grid.stride + grid.stride // 2 for n in (h, w))

    def __call__(self, image: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
        """`out[i, j] = image[rows[i] + dy, cols[j] + dx]`."""
        H, W = image.shape
        return image[(self.rows + dy).clamp(0, H - 1)[:, None], (self.cols + dx).clamp(0, W - 1)]


def _flying(depth: Float[Tensor, "H W"], at: _Centers, ratio: float, spacing: int) -> Bool[Tensor, "h w"]:
    """Strictly between a nearer and a farther opposite neighbour, away from both by more than `ratio`.

    A slanted plane also lies between its neighbours, but evenly (linear in inverse depth): it is exempt as long as
    its inverse depth is within a tenth of the neighbours' mean.
    """
    here = at(depth)
    inverse, out = 1 / here.clamp(min=1e-12), torch.zeros_like(here, dtype=torch.bool)
    for dy, dx in [(0, spacing), (spacing, 0)]:
        a, b = at(depth, dy, dx), at(depth, -dy, -dx)
        near, far = torch.minimum(a, b), torch.maximum(a, b)
        known = (near > 0) & (here > 0)
        between = (here > ratio * near) & (here * ratio < far)
        mean = (1 / a.clamp(min=1e-12) + 1 / b.clamp(min=1e-12)) / 2
        plane = (inverse - mean).abs() < 0.1 * inverse
        out |= known & between & ~plane
    return out


def _edge(depth: Float[Tensor, "H W"], at: _Centers, ratio: float, spacing: int) -> Bool[Tensor, "h w"]:
    """max/min over the known depths of a 3x3 stencil exceeds `ratio`."""
    stack = torch.stack([at(depth, dy, dx) for dy in (-spacing, 0, spacing) for dx in (-spacing, 0, spacing)])
    far = stack.amax(0)
    near = torch.where(stack > 0, stack, torch.inf).amin(0)
    return (near < torch.inf) & (far > ratio * near)
