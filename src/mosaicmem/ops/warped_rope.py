"""Warped RoPE: memory patches keep their features and get new addresses (Eq. 2).

    (u', v') = Pi( K_t T_t A_s K_s^-1 (u, v, D) )        position (l, v' / s - 1/2, u' / s - 1/2)

`l` is the *target* latent and the fraction is kept. `land` is the equation for any source pixels; `select_patches`
picks one source patch for each covered token and lands its centre, in these steps:

1. `mean_source`: where in its source the owner's part of a token lies on average; the patch there is the candidate;
2. `patch_depth`: the patch's own depth if it agrees with what the token read, else what it read;
3. `land`, refusing what is behind the camera or outside the image: nothing is ever clamped into view;
4. `one_per_patch`: a source patch appears once in a target latent;
5. the features are the stored patch, unchanged: `take_patches`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.projection import in_image
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.geometry.warps import nearest_points, warp_pixels

TAU_C = 0.20


@dataclass(frozen=True)
class Landing:
    """Source points seen from a target camera.

    Attributes:
        uv: `[*b n 2]` target pixels (u, v), never clamped; without meaning where `z <= 0`.
        z: `[*b n]` target z-depth, world units.
        tokens: `[*b n 2]` target token coordinates (x, y), integer at token centres.
        valid: `[*b n]` in front of the near plane and inside the image.
    """

    uv: Float[Tensor, "*b n 2"]
    z: Float[Tensor, "*b n"]
    tokens: Float[Tensor, "*b n 2"]
    valid: Bool[Tensor, "*b n"]


@dataclass(frozen=True)
class WarpedPatches:
    """For each target token the source patch that it re-addresses, if any.

    Attributes:
        kept: `[l m n]` tokens that emit a patch. The other fields have no meaning elsewhere.
        group: `[l m n]` source of the patch.
        patch: `[l m n 2]` (row, column) of the patch in its source's token grid.
        positions: `[l m n 3]` where the patch sits, (t, y, x) in target tokens, with fractions.
        z: `[l m n]` z-depth of its centre in the target view, world units.
    """

    kept: Bool[Tensor, "l m n"]
    group: Int64[Tensor, "l m n"]
    patch: Int64[Tensor, "l m n 2"]
    positions: Float[Tensor, "l m n 3"]
    z: Float[Tensor, "l m n"]


def land(
    uv: Float[Tensor, "*b n 2"],
    depth: Float[Tensor, "*b n"],
    *,
    K_src: Float[Tensor, "*b 3 3"],
    K_tgt: Float[Tensor, "*b 3 3"],
    tgt_from_src: Float[Tensor, "*b 4 4"],
    grid: TokenGrid,
    z_near: float,
) -> Landing:
    """Eq. 2: where source pixels at z-depth `depth` appear in the target view.

    Args:
        uv: Source pixels.
        depth: z-depth there, world units; unknown (<= 0 or not finite) lands nowhere.
        K_src, K_tgt: Intrinsics, pixels.
        tgt_from_src: Rigid transform between the cameras.
        grid: Token grid of the target.
        z_near: Nearest depth that counts as in front of the target camera, world units.
    """
    uv_tgt, z = warp_pixels(uv, depth, K_src=K_src, K_tgt=K_tgt, tgt_from_src=tgt_from_src)
    valid = (depth > 0) & depth.isfinite() & (z > z_near) & in_image(uv_tgt, grid.width, grid.height)
    return Landing(uv_tgt, z, grid.pixels_to_tokens(uv_tgt), valid)


def mean_source(
    source_uv: Float[Tensor, "l h w 2"], served: Bool[Tensor, "l h w"], patch: int
) -> Float[Tensor, "l m n 2"]:
    """Mean source pixel of each token's served cells; NaN for a token without any."""
    weight = _by_token(served, patch).to(source_uv.dtype)[..., None]
    uv = torch.where(weight > 0, _by_token(source_uv, patch), 0)
    return (uv * weight).sum(-2) / weight.sum(-2)


def lower_median(values: Float[Tensor, "l h w"], served: Bool[Tensor, "l h w"], patch: int) -> Float[Tensor, "l m n"]:
    """Lower median over each token's served cells: a value that occurs, never a mean across an edge. NaN if none."""
    served = _by_token(served, patch)
    count = served.sum(-1, keepdim=True)
    ordered = torch.where(served, _by_token(values, patch), torch.inf).sort(-1).values
    middle = ordered.gather(-1, (count - 1).clamp(min=0) // 2).squeeze(-1)
    return torch.where(count.squeeze(-1) > 0, middle, torch.nan)


def patch_depth(own: Float[Tensor, "*b"], visible: Float[Tensor, "*b"], tau_c: float = TAU_C) -> Float[Tensor, "*b"]:
    """A patch's own depth where it is known and within `tau_c` of the depth that was read, else the depth read."""
    agrees = own.isfinite() & (own > 0) & ((own / visible - 1).abs() <= tau_c)
    return torch.where(agrees, own, visible)


def one_per_patch(
    candidate: Bool[Tensor, "l m n"], key: Int64[Tensor, "l m n"], distance: Float[Tensor, "l m n"], num_keys: int
) -> Bool[Tensor, "l m n"]:
    """Of the candidates of a latent that share a `key < num_keys`, the one at the least distance, ties row-major."""
    latents, per_latent = candidate.shape[0], candidate[0].numel() if len(candidate) else 0
    offset = torch.arange(latents, device=key.device)[:, None, None] * num_keys
    flat = candidate.flatten().nonzero().squeeze(-1)
    winner = nearest_points(
        (key + offset).flatten()[flat],
        torch.ones_like(distance.flatten()[flat]),
        distance.flatten()[flat],
        latents * num_keys,
    )
    keep = candidate.new_zeros(latents * per_latent)
    keep[flat[winner[winner >= 0]]] = True
    return keep.view(candidate.shape)


def select_patches(
    owner: Int64[Tensor, "l m n"],
    served: Bool[Tensor, "l h w"],
    source_uv: Float[Tensor, "l h w 2"],
    source_depth: Float[Tensor, "l h w"],
    token_depth: Float[Tensor, "s ms ns"],
    *,
    K_src: Float[Tensor, "s 3 3"],
    K_tgt: Float[Tensor, "l 3 3"],
    tgt_from_src: Float[Tensor, "l s 4 4"],
    grid: TokenGrid,
    source_grid: TokenGrid,
    z_near: float,
    tau_c: float = TAU_C,
    wanted: Bool[Tensor, "l m n"] | None = None,
) -> WarpedPatches:
    """The patch that each covered token re-addresses, and its address in the target (steps 1-4).

    Args:
        owner: Source of each token, in `0 .. s - 1`, or -1 for a hole.
        served: Cells that the owner of their token serves; at least one in a token that is to emit a patch.
        source_uv: Where in the owner's image such a cell is read, pixels.
        source_depth: Source z-depth read there, world units.
        token_depth: z-depth at the sources' token centres, world units; 0 or not finite = unknown.
        K_src, K_tgt, tgt_from_src: Cameras of sources and targets; edits of memory are part of `tgt_from_src`.
        grid, source_grid: Token grids of target and sources.
        z_near: Nearest depth in front of the target camera, world units.
        tau_c: Relative agreement asked of a patch's own depth.
        wanted: Tokens that read memory this way; the others leave their patch to those that do. None = all.

    Raises:
        GeometryError: if grids and tensors disagree in size.
    """
    _require_grids(owner, served, token_depth, grid, source_grid)
    dtype = source_uv.dtype
    # Step 1: the source patch under the mean of what the owner serves.
    gbar = mean_source(source_uv, served, grid.patch)
    m, n = source_grid.tokens
    candidate = (owner >= 0) & gbar.isfinite().all(-1) & in_image(gbar, source_grid.width, source_grid.height)
    if wanted is not None:
        candidate = candidate & wanted
    column_row = source_grid.pixels_to_tokens(torch.where(candidate[..., None], gbar, 0)).add(0.5).floor().long()
    column, row = column_row[..., 0].clamp(0, n - 1), column_row[..., 1].clamp(0, m - 1)
    group = owner.clamp(min=0)
    # Step 2: its depth.
    z_p = patch_depth(token_depth[group, row, column].to(dtype), lower_median(source_depth, served, grid.patch), tau_c)
    # Step 3: its landing.
    center = source_grid.token_centers(dtype).to(row.device)[row, column]
    latent = torch.arange(len(owner), device=owner.device)[:, None, None].expand_as(owner)
    landing = land(
        center[..., None, :],
        torch.where(candidate, z_p, 0)[..., None],
        K_src=K_src.to(dtype)[group],
        K_tgt=K_tgt.to(dtype)[latent],
        tgt_from_src=tgt_from_src.to(dtype)[latent, group],
        grid=grid,
        z_near=z_near,
    )
    candidate = candidate & landing.valid.squeeze(-1)
    # Step 4: each source patch once in a latent.
    key = (group * m + row) * n + column
    kept = one_per_patch(candidate, key, (gbar - center).square().sum(-1), token_depth.numel())
    x, y = landing.tokens.squeeze(-2).unbind(-1)
    positions = torch.stack([latent.to(dtype), y, x], dim=-1)
    return WarpedPatches(kept, group, torch.stack([row, column], dim=-1), positions, landing.z.squeeze(-1))


def take_patches(
    latents: Float[Tensor, "s c h w"], group: Int64[Tensor, "t"], patch: Int64[Tensor, "t 2"], size: int
) -> Float[Tensor, "t c p p"]:
    """Stored blocks of `size x size` cells, unchanged (step 5)."""
    blocks = latents.unflatten(3, (-1, size)).unflatten(2, (-1, size))
    return blocks[group, :, patch[:, 0], :, patch[:, 1]]


def _by_token(cells: Tensor, patch: int) -> Tensor:
    """`[l h w ...]` to `[l m n p*p ...]`, the cells of a token row-major."""
    tokens = cells.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).transpose(2, 3)
    return tokens.flatten(3, 4)


def _require_grids(owner: Tensor, served: Tensor, token_depth: Tensor, grid: TokenGrid, source_grid: TokenGrid) -> None:
    for name, found, expected in (
        ("owner", owner.shape[1:], grid.tokens),
        ("served", served.shape[1:], grid.cells),
        ("token_depth", token_depth.shape[1:], source_grid.tokens),
    ):
        if tuple(found) != expected:
            raise GeometryError(f"{name} is {tuple(found)} but its grid is {expected} (rows, columns)")
    if owner.numel() and int(owner.max()) >= len(token_depth):
        raise GeometryError(f"owner names source {int(owner.max())}, but there are {len(token_depth)} sources")
