"""From a `Mosaic` to what a model is conditioned on: the only joint between memory and models.

Two read-outs of the same mosaic. *Warped Latent* gathers features onto the target's own token grid; *Warped RoPE*
leaves a stored patch as it is and moves its rotary address, fraction included. Both use the same owners, the same
source positions and the same depths. Holes give no token at all: a zero token would still take attention weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from mosaicmem._shapes import Bool, Float, Int, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.geometry.warps import inverse_depth_slopes
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.patches import Group
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.memory.store import PatchStore
from mosaicmem.ops.warped_latent import cells_to_tokens, gather_cells, repeat_nearest_good
from mosaicmem.ops.warped_rope import select_patches, take_patches

Alignment = Literal["rope", "latent", "mixture"]

CENTER_TOLERANCE = 0.20  # cells around a patch centre that differ by more lie on different surfaces


@dataclass(frozen=True)
class MemoryTokens:
    """`L` conditioning tokens, ordered by target token (latent, row, column).

    Attributes:
        features: `[L c*p*p]` one patch each, flattened in the order of the patch embedding's kernel: channel, row,
            column.
        positions: `[L 3]` float64 rotary coordinates (t, y, x) in latents and tokens; fractional for Warped RoPE.
        latent: `[L]` target latent, which is also the token's camera row: memory carries the target's cameras.
        target: `[L 2]` target token (row, column).
        source: `[L]` group of the store that owns the token.
        warped_latent: `[L]` whether the token was read by Warped Latent.
    """

    features: Float[Tensor, "L c"]
    positions: Float[Tensor, "L 3"]
    latent: Int[Tensor, "L"]
    target: Int[Tensor, "L 2"]
    source: Int[Tensor, "L"]
    warped_latent: Bool[Tensor, "L"]

    def __len__(self) -> int:
        return len(self.latent)

    def __getitem__(self, keep: Tensor) -> MemoryTokens:
        """The tokens of an index or a mask."""
        return MemoryTokens(
            self.features[keep],
            self.positions[keep],
            self.latent[keep],
            self.target[keep],
            self.source[keep],
            self.warped_latent[keep],
        )

    @property
    def camera_row(self) -> Int[Tensor, "L"]:
        """Row of the window's per-latent cameras that each token uses: its target latent's."""
        return self.latent

    @property
    def timesteps(self) -> Float[Tensor, "L"]:
        """Noise level of each token: 0, memory is clean."""
        return self.features.new_zeros(len(self))


def canvas(
    store: PatchStore, mosaic: Mosaic, tau: float = RetrievalConfig.tau
) -> tuple[Float[Tensor, "l c h w"], Bool[Tensor, "l h w"]]:
    """Warped Latent as a picture: every good cell read bilinearly from the keyframe that serves it.

    Only taps that lie on the seen surface count (depth within `tau`, as at retrieval), so nothing is stretched into
    what a surface uncovers. Differentiable in the stored latents.

    Returns:
        latents `[l c h w]`, 0 in holes (0 is no content: always use it with the mask), and good `[l h w]`. An empty
        store gives 0 channels.
    """
    l, h, w = mosaic.good.shape
    if not len(store):
        return torch.zeros(l, 0, h, w), mosaic.good
    first = store.group(0).keyframe.latents
    values, weight = torch.zeros(l, h, w, first.shape[0], dtype=first.dtype), torch.zeros(l, h, w, dtype=torch.float64)
    cells = mosaic.grid.pixels_to_cells(mosaic.source_uv)
    for sources in _sources(store, mosaic):
        read, counted = gather_cells(
            sources.latents,
            sources.depth,
            sources.valid,
            sources.local(mosaic.source),
            cells,
            mosaic.source_depth,
            tau,
            slope=inverse_depth_slopes(sources.depth, sources.valid),
        )
        values, weight = values + read, weight + counted
    return values.permute(0, 3, 1, 2), mosaic.good & (weight > 0)


def assemble(
    store: PatchStore,
    mosaic: Mosaic,
    alignment: Alignment = "mixture",
    *,
    first_latent: int = 0,
    probability: float | None = None,
    generator: torch.Generator | None = None,
    tau: float = RetrievalConfig.tau,
) -> MemoryTokens:
    """One token for every covered target token, by Warped RoPE, Warped Latent, or a mixture of both per token.

    Args:
        store, mosaic: The memory and what `retrieve` found in it.
        alignment: `mixture` is Warped Latent where (latent + row + column) is even and Warped RoPE elsewhere.
        first_latent: Latent index of the mosaic's first view; 1 in a window whose latent 0 is a clean anchor.
        probability: For training: each token is Warped Latent with this probability instead of the checkerboard
            (`draw_probability`).
        generator: Source of randomness, needed with `probability`.
        tau: Relative depth agreement of the gather, as at retrieval.

    Raises:
        ConfigError: on an unknown alignment, or `probability` outside [0, 1], without generator or without mixture.
    """
    _check(alignment, probability, generator)
    view, row, column = mosaic.covered.nonzero().unbind(1)
    latent = view + first_latent
    if alignment == "latent":
        gathered = torch.ones_like(latent, dtype=torch.bool)
    elif alignment == "rope":
        gathered = torch.zeros_like(latent, dtype=torch.bool)
    elif probability is None:
        gathered = (latent + row + column) % 2 == 0
    else:
        gathered = torch.rand(len(latent), generator=generator) < probability
    tokens = MemoryTokens(
        features=torch.zeros(len(latent), 0),
        positions=torch.stack([latent, row, column], -1).double(),
        latent=latent,
        target=torch.stack([row, column], -1),
        source=mosaic.owner[view, row, column],
        warped_latent=gathered,
    )
    if not len(tokens):
        channels = store.group(0).keyframe.latents.shape[0] if len(store) else 0
        return replace(tokens, features=torch.zeros(0, channels * mosaic.grid.patch**2))
    picture, good = canvas(store, mosaic, tau)
    cells = repeat_nearest_good(picture.permute(0, 2, 3, 1), good, mosaic.grid.patch)
    blocks = cells_to_tokens(cells, mosaic.grid.patch).flatten(3)
    tokens = replace(tokens, features=blocks[view, row, column])
    return tokens if bool(gathered.all()) else _warp_rope(store, mosaic, tokens, view)


def draw_probability(generator: torch.Generator) -> float:
    """Share of Warped Latent tokens of one training sample: 1, 1/2 or 0 with probabilities 1/4, 1/2, 1/4."""
    return (1.0, 0.5, 0.5, 0.0)[int(torch.randint(4, (), generator=generator))]


def _warp_rope(store: PatchStore, mosaic: Mosaic, tokens: MemoryTokens, view: Tensor) -> MemoryTokens:
    """Replace the tokens that are not `warped_latent` by whole source patches at their landing.

    Tokens whose patch lands nowhere in view, or belongs to another token of the same latent, are dropped.
    """
    patch = mosaic.grid.patch
    row, column = tokens.target.unbind(-1)
    wanted = torch.zeros_like(mosaic.covered)
    wanted[view, row, column] = ~tokens.warped_latent
    features, positions = tokens.features, tokens.positions.clone()
    keep = tokens.warped_latent.clone()
    owner_of_cell = mosaic.owner.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    for sources in _sources(store, mosaic):
        owner = sources.local(mosaic.owner)
        warped = select_patches(
            owner,
            mosaic.good & (mosaic.source == owner_of_cell),
            mosaic.source_uv,
            mosaic.source_depth,
            _center_depths(sources),
            K_src=sources.Ks,
            K_tgt=mosaic.cameras.Ks,
            tgt_from_src=mosaic.cameras.viewmats[:, None] @ sources.world_from_cam,
            grid=mosaic.grid,
            source_grid=sources.grid,
            z_near=RetrievalConfig.near * store.scale,
            wanted=wanted,
        )
        # a patch may hold masked (deleted) content only, although its neighbour was seen through it
        alive = _blocks(sources.valid, patch).any(-1)[warped.group, warped.patch[..., 0], warped.patch[..., 1]]
        chosen = (warped.kept & alive)[view, row, column].nonzero().squeeze(1)
        v, r, c = view[chosen], row[chosen], column[chosen]
        stored = take_patches(sources.latents, warped.group[v, r, c], warped.patch[v, r, c], patch).flatten(1)
        features = features.index_put((chosen,), stored)
        positions[chosen, 1:] = warped.positions[v, r, c, 1:]
        keep[chosen] = True
    return replace(tokens, features=features, positions=positions)[keep]


@dataclass(frozen=True)
class _Sources:
    """The groups of one image size that a mosaic reads, stacked."""

    index: Tensor  # [s] positions in the store, ascending
    latents: Tensor  # [s c h w]
    depth: Tensor  # [s h w]
    valid: Tensor  # [s h w] bool
    Ks: Tensor  # [s 3 3] float64
    world_from_cam: Tensor  # [s 4 4] float64
    grid: TokenGrid

    def local(self, groups: Tensor) -> Tensor:
        """Positions among these sources of store positions, -1 for all others."""
        at = torch.searchsorted(self.index, groups.contiguous()).clamp(max=len(self.index) - 1)
        return torch.where(self.index[at] == groups, at, -1)


def _sources(store: PatchStore, mosaic: Mosaic) -> list[_Sources]:
    by_size: dict[tuple[int, int], list[int]] = {}
    for g in mosaic.source[mosaic.good].unique().tolist():
        camera = store.group(g).keyframe.camera
        by_size.setdefault((camera.width, camera.height), []).append(g)
    return [_stack(store, indices, mosaic.grid) for indices in by_size.values()]


def _stack(store: PatchStore, indices: list[int], grid: TokenGrid) -> _Sources:
    groups: list[Group] = [store.group(g) for g in indices]
    camera = groups[0].keyframe.camera
    return _Sources(
        index=torch.tensor(indices),
        latents=torch.stack([group.keyframe.latents for group in groups]),
        depth=torch.stack([group.keyframe.depth for group in groups]),
        valid=torch.stack([group.valid for group in groups]),
        Ks=torch.cat([group.keyframe.camera.Ks for group in groups]).double(),
        world_from_cam=torch.stack([group.world_from_cam for group in groups]),
        grid=replace(grid, width=camera.width, height=camera.height),
    )


def _blocks(cells: Float[Tensor, "s h w"] | Bool[Tensor, "s h w"], patch: int) -> Tensor:
    """`[s m n p*p]` cells by token, row-major."""
    return cells.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).transpose(2, 3).flatten(3)


def _center_depths(sources: _Sources) -> Float[Tensor, "s m n"]:
    """Depth at every patch centre, 0 where the cells around it are not all valid and of one surface.

    A centre between cells takes the mean inverse depth of those around it, which is exact on a plane.
    """
    p = sources.grid.patch
    middle = slice((p - 1) // 2, p // 2 + 1)
    inner = torch.zeros(p, p, dtype=torch.bool)
    inner[middle, middle] = True
    around = _blocks(torch.where(sources.valid, sources.depth.double(), 0), p)[..., inner.flatten()]
    near, far = around.amin(-1), around.amax(-1)
    one_surface = (near > 0) & (far <= (1 + CENTER_TOLERANCE) * near)
    return torch.where(one_surface, 1 / (1 / around.clamp(min=1e-12)).mean(-1), 0)


def _check(alignment: str, probability: float | None, generator: torch.Generator | None) -> None:
    if alignment not in ("rope", "latent", "mixture"):
        raise ConfigError(f"alignment {alignment!r}: expected rope, latent or mixture")
    if probability is None:
        return
    if alignment != "mixture" or generator is None or not 0 <= probability <= 1:
        raise ConfigError(
            f"probability = {probability} with alignment {alignment!r} and generator {generator}: a random mixture "
            "needs alignment 'mixture', a probability in [0, 1] and a torch.Generator"
        )
