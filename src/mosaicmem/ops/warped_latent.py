"""Warped Latent: memory re-sampled on the target's grid by a backward bilinear gather.

The paper's `GridSample(P, (u', v'))` needs target-to-source coordinates; they come from the memory's own z-buffered
depth in the target view. Four explicit taps replace `grid_sample` for the sake of one test: a tap counts only if its
depth is that of the surface being read. Without it a gather stretches content into what it uncovers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.geometry.warps import bilinear_taps

TAU = 0.10
W_MIN = 0.5


def gather_cells(
    latents: Float[Tensor, "s c h w"],
    depth: Float[Tensor, "s h w"],
    valid: Bool[Tensor, "s h w"],
    source: Int64[Tensor, "*q"],
    source_cells: Float[Tensor, "*q 2"],
    source_z: Float[Tensor, "*q"],
    tau: float = TAU,
    *,
    slope: Float[Tensor, "s h w 2"] | None = None,
) -> tuple[Float[Tensor, "*q c"], Float[Tensor, "*q"]]:
    """Read latents at real-valued cells from the taps that lie on the expected surface.

    With `tau = inf` and every cell valid, `values * weight` is
    `grid_sample(bilinear, padding_mode="zeros", align_corners=False)`. Differentiable in `latents` only.

    Args:
        latents: Stored latents.
        depth: z-depth at cell centres, world units.
        valid: Cells whose depth and content are known; the others never count, whatever they hold.
        source: Which latent each query reads, -1 for none.
        source_cells: Where, in latent coordinates (x, y), integer at cell centres.
        source_z: z-depth expected there, world units, in the source's camera.
        tau: A tap counts if `|d_tap - z| <= tau z`.
        slope: Change of inverse depth per cell along (x, y), as `geometry.warps.inverse_depth_slopes` finds it. If
            given, a tap's depth is first carried to the query along its own tangent plane, so that steep surfaces do
            not fail the test.

    Returns:
        Mean of the counted taps by bilinear weight, 0 where none counts; and the sum of the counted weights, in
        [0, 1]. A cell is *good* if it is at least `W_MIN`.
    """
    _, c, h, w = latents.shape
    with torch.no_grad():
        index, bilinear = bilinear_taps(source_cells.detach(), w, h)
        tap = source.clamp(min=0)[..., None] * (h * w) + index
        z = source_z.detach()[..., None]
        expected = depth.flatten()[tap].to(z.dtype)
        if slope is not None:
            at = torch.stack([index % w, torch.div(index, w, rounding_mode="floor")], dim=-1).to(z.dtype)
            carried = (slope.reshape(-1, 2)[tap] * (source_cells.detach()[..., None, :] - at)).sum(-1)
            expected = 1 / (1 / expected + carried)  # negative where the plane passes behind the camera: never counted
        difference = expected - z
        counted = valid.flatten()[tap] & (source >= 0)[..., None] & (z > 0) & (difference.abs() <= tau * z)
        bilinear = torch.where(counted, bilinear, 0)
        weight = bilinear.sum(-1)
        share = (bilinear / weight.clamp(min=torch.finfo(weight.dtype).tiny)[..., None]).to(latents.dtype)
        # A tap of weight 0 must not be read at all, since 0 * NaN is NaN: it repeats the heaviest one.
        tap = torch.where(bilinear > 0, tap, tap.gather(-1, bilinear.argmax(-1, keepdim=True)))
    table = latents.permute(0, 2, 3, 1).reshape(-1, c)
    read = F.embedding_bag(tap.reshape(-1, 4), table, mode="sum", per_sample_weights=share.reshape(-1, 4))
    # Where nothing counts, even the heaviest tap is not to be trusted.
    return read.view(*source.shape, c).masked_fill((weight == 0)[..., None], 0), weight


def repeat_nearest_good(
    values: Float[Tensor, "l h w c"], good: Bool[Tensor, "l h w"], patch: int
) -> Float[Tensor, "l h w c"]:
    """Fill the cells of a token that nobody serves with the nearest good cell of the same token, ties row-major.

    Zeros would be read as content. A token without a good cell keeps its values: it is a hole, to be dropped.
    """
    l, h, w, _ = values.shape
    inner = torch.arange(patch * patch, device=values.device)
    at = torch.stack([inner // patch, inner % patch], dim=-1)
    between = (at[:, None] - at[None, :]).square().sum(-1)  # squared distance in cells: an integer, so ties are exact
    tokens = good.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).transpose(2, 3).flatten(3, 4)
    # Distance first, then the row-major index, in one integer.
    rank = torch.where(tokens[..., None, :], between * inner.numel() + inner, torch.iinfo(torch.int64).max)
    nearest = torch.where(tokens.any(-1, keepdim=True), rank.argmin(-1), inner)
    nearest = nearest.unflatten(3, (patch, patch)).transpose(2, 3).reshape(l, h, w)
    row = torch.arange(h, device=values.device)[:, None] // patch * patch + nearest // patch
    column = torch.arange(w, device=values.device) // patch * patch + nearest % patch
    return values[torch.arange(l, device=values.device)[:, None, None], row, column]


def cells_to_tokens(cells: Float[Tensor, "l h w c"], patch: int) -> Float[Tensor, "l m n c p p"]:
    """The `c x p x p` block of each token, in the order a patch embedding reads it."""
    blocks = cells.unflatten(2, (-1, patch)).unflatten(1, (-1, patch))  # l m p n p c
    return blocks.permute(0, 1, 3, 5, 2, 4)
