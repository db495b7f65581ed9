"""From a frame with depth to a `Keyframe`: where hygiene decides which cells memory may ever show.

Depth at a cell is that of the pixel under its centre, never an average: an average across an edge is a point that
exists nowhere. Unknown depth stays unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

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
            confidence is constant.
    """

    near: float = 0.01
    flying_ratio: float = 1.05
    edge_ratio: float = 0.0
    edge_spacing: int = 1
    confidence_percentile: float = 10.0

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
        confidence: Of the depth, any scale; larger is better.
        exclude: Pixels that must not be remembered (sky, moving things).

    Raises:
        GeometryError: if depth, camera and grid disagree about the size of the image.
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
    positive = clean[known]
    usable = known & (clean > config.near * positive.median()) if len(positive) else known
    if config.flying_ratio:
        usable &= ~_flying(clean, config.flying_ratio, config.edge_spacing)
    if config.edge_ratio:
        usable &= ~_edge(clean, config.edge_ratio, config.edge_spacing)
    if exclude is not None:
        usable &= ~exclude
    conf = torch.ones_like(clean) if confidence is None else confidence
    if confidence is not None and config.confidence_percentile and bool(known.any()):
        usable &= conf >= torch.quantile(conf[known].float(), config.confidence_percentile / 100)
    rows, cols = _center_pixels(grid)
    pick = (rows[:, None], cols[None, :])
    valid = usable[pick]
    return Keyframe(
        latents=latents,
        depth=torch.where(known[pick], clean[pick], torch.zeros_like(clean[pick])),
        valid=valid,
        confidence=conf[pick].to(clean.dtype),
        camera=camera.to(dtype=torch.float64, device="cpu"),
        stride=grid.stride,
        patch=grid.patch,
        frame=frame,
        time=time,
        origin=origin,
    )


def _center_pixels(grid: TokenGrid) -> tuple[Tensor, Tensor]:
    h, w = grid.cells
    half = grid.stride // 2
    return torch.arange(h) * grid.stride + half, torch.arange(w) * grid.stride + half


def _shifted(depth: Tensor, dy: int, dx: int) -> Tensor:
    """`out[y, x] = depth[y + dy, x + dx]`, repeating the border."""
    H, W = depth.shape
    rows = (torch.arange(H) + dy).clamp(0, H - 1)
    cols = (torch.arange(W) + dx).clamp(0, W - 1)
    return depth[rows[:, None], cols[None, :]]


def _flying(depth: Tensor, ratio: float, spacing: int) -> Bool[Tensor, "H W"]:
    """Strictly between a nearer and a farther opposite neighbour, away from both by more than `ratio`.

    A slanted plane also lies between its neighbours, but evenly (linear in inverse depth): it is exempt as long as
    its inverse depth is within a tenth of the neighbours' mean.
    """
    out = torch.zeros_like(depth, dtype=torch.bool)
    for dy, dx in [(0, spacing), (spacing, 0)]:
        a, b = _shifted(depth, dy, dx), _shifted(depth, -dy, -dx)
        near, far = torch.minimum(a, b), torch.maximum(a, b)
        known = (near > 0) & (depth > 0)
        between = (depth > ratio * near) & (depth * ratio < far)
        inverse, mean = 1 / depth.clamp(min=1e-12), (1 / a.clamp(min=1e-12) + 1 / b.clamp(min=1e-12)) / 2
        plane = (inverse - mean).abs() < 0.1 * inverse
        out |= known & between & ~plane
    return out


def _edge(depth: Tensor, ratio: float, spacing: int) -> Bool[Tensor, "H W"]:
    """max/min over the known depths of a 3x3 stencil exceeds `ratio`."""
    stack = torch.stack([_shifted(depth, dy, dx) for dy in (-spacing, 0, spacing) for dx in (-spacing, 0, spacing)])
    far = stack.amax(0)
    near = torch.where(stack > 0, stack, torch.inf).amin(0)
    return (near < torch.inf) & (far > ratio * near)
