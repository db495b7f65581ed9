"""From a `Mosaic` to what a model is conditioned on: the only joint between memory and models.

Two read-outs of the same mosaic. *Warped Latent* gathers features onto the target's own token grid; *Warped RoPE*
leaves a stored patch as it is and moves its rotary address, fraction included. Both use the same owners, the same
source positions and the same depths. Holes give no token at all: a zero token would still take attention weight.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch

from mosaicmem._shapes import Bool, Float, Int, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.geometry.warps import inverse_depth_slopes
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.patches import Group
from mosaicmem.memory.retrieval import RetrievalConfig, retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.ops.latent_kernel import read_between
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
        subframes: `[L x]` what memory shows at the raw frames of the target latent (see `assemble`), None if that was
            not asked for.
        age: `[L]` seconds between when the owner was seen and the target's frame; negative if it was seen later, None
            if nobody said when the targets are.
    """

    features: Float[Tensor, "L c"]
    positions: Float[Tensor, "L 3"]
    latent: Int[Tensor, "L"]
    target: Int[Tensor, "L 2"]
    source: Int[Tensor, "L"]
    warped_latent: Bool[Tensor, "L"]
    subframes: Float[Tensor, "L x"] | None = None
    age: Float[Tensor, "L"] | None = None

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
            None if self.subframes is None else self.subframes[keep],
            None if self.age is None else self.age[keep],
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
    store: PatchStore, mosaic: Mosaic, tau: float = RetrievalConfig.tau, *, kernel: Tensor | None = None
) -> tuple[Float[Tensor, "l c h w"], Bool[Tensor, "l h w"]]:
    """Warped Latent as a picture: every good cell read bilinearly from the keyframe that serves it.

    Only taps that lie on the seen surface count (depth within `tau`, as at retrieval), so nothing is stretched into
    what a surface uncovers. With the `kernel` of an autoencoder (`ops.latent_kernel`) it takes the place of bilinear
    weights wherever all four cells around hold content, that of another surface among them: it then reads what the
    source shows there, edge included. Differentiable in the stored latents.

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
        if kernel is not None:
            sharp, known = read_between(
                sources.latents, sources.valid, sources.local(mosaic.source), cells, kernel.to(read)
            )
            read = torch.where((known & (counted > 0))[..., None], sharp, read)
        values, weight = values + read, weight + counted
    return values.permute(0, 3, 1, 2), mosaic.good & (weight > 0)


@dataclass(frozen=True)
class WindowView:
    """What memory shows of the `l` latents of a window, see `look`.

    Attributes:
        mosaic: At the reference frame of every latent, which is its last.
        earlier: At the raw frames before each, in order; None if they were not asked for.
        read: Latents `[v c h w]` that `canvas` reads for the views of `mosaic` and, after them, of `earlier`, and the
            cells `[v h w]` of them that memory serves.
    """

    mosaic: Mosaic
    earlier: Mosaic | None
    read: tuple[Float[Tensor, "v c h w"], Bool[Tensor, "v h w"]]

    @property
    def reference(self) -> tuple[Float[Tensor, "l c h w"], Bool[Tensor, "l h w"]]:
        """`read` at the reference frames alone."""
        latents, good = (x[: len(self.mosaic)] for x in self.read)
        return latents, good

    @property
    def frames(self) -> tuple[Float[Tensor, "v c h w"], Bool[Tensor, "v h w"]]:
        """`read` in the order of time."""
        l = len(self.mosaic)
        latents, good = (torch.cat([x[l:].unflatten(0, (l, -1)), x[:l, None]], 1).flatten(0, 1) for x in self.read)
        return latents, good


def look(
    store: PatchStore,
    cameras: Cameras,
    grid: TokenGrid,
    retrieval: RetrievalConfig,
    *,
    every: bool,
    kernel: Tensor | None = None,
) -> WindowView:
    """Ask memory for a window. Reference frames are asked for by themselves: what is shown of them counts most.

    Args:
        store: The memory.
        cameras: Of the window's raw frames, that of its clean anchor first.
        grid: Token grid of the views.
        retrieval: How memory is asked.
        every: Ask for every raw frame, not for reference frames alone.
        kernel: Of the autoencoder, to read between cells (see `canvas`).
    """
    frames = grid.frames_of_latents(len(cameras))[1:]
    mosaic = retrieve(store, cameras[frames[:, -1]], grid, retrieval)
    earlier = retrieve(store, cameras[frames[:, :-1].flatten()], grid, retrieval) if every else None
    whole = mosaic if earlier is None else Mosaic.cat([mosaic, earlier])
    return WindowView(mosaic, earlier, canvas(store, whole, retrieval.tau, kernel=kernel))


def assemble(
    store: PatchStore,
    mosaic: Mosaic,
    alignment: Alignment = "mixture",
    *,
    first_latent: int = 0,
    subframes: Mosaic | None = None,
    times: Float[Tensor, "l"] | None = None,
    kernel: Tensor | None = None,
    read: tuple[Tensor, Tensor] | None = None,
    tau: float = RetrievalConfig.tau,
) -> MemoryTokens:
    """Tokens for what memory shows: by Warped RoPE, by Warped Latent, or by both.

    Args:
        store, mosaic: The memory and what `retrieve` found in it.
        alignment: `latent` and `rope` give a covered target token one token; `mixture` gives it one by Warped Latent
            and, where that does not show all of its cells at all raw frames asked for, another by Warped RoPE, whose
            stored patch is whole.
        first_latent: Latent index of the mosaic's first view; 1 in a window whose latent 0 is a clean anchor.
        subframes: What memory shows at the earlier raw frames of every view's latent, `temporal - 1` views for each,
            in order. With it, tokens of Warped Latent say what is seen at each of them: `subframes` holds the cells'
            latents and whether they are good, frame by frame (`[t - 1, c + 1, p, p]`), then whether those of
            `features` are (`[p, p]`). For Warped RoPE, whose content is one stored patch, all of it is 0.
        times: Seconds of the views of `mosaic`; with it, tokens say how long ago they were seen.
        kernel: Of the autoencoder, to read between cells (see `canvas`).
        read: What `canvas` gave for the views of `mosaic` and, after them, of `subframes`; by default it is read here.
        tau: Relative depth agreement of the gather, as at retrieval.

    Raises:
        ConfigError: on an unknown alignment.
        GeometryError: if `subframes` or `times` is of another number of views.
    """
    if alignment not in ("rope", "latent", "mixture"):
        raise ConfigError(f"alignment {alignment!r}: expected rope, latent or mixture")
    grid, views = mosaic.grid, len(mosaic)
    if subframes is not None and len(subframes) != views * (grid.temporal - 1):
        raise GeometryError(f"{len(subframes)} earlier frames of {views} latents of {grid.temporal} frames each")
    if times is not None and len(times) != views:
        raise GeometryError(f"{len(times)} times of {views} views")
    whole = mosaic if subframes is None else Mosaic.cat([mosaic, subframes])
    picture, good = canvas(store, whole, tau, kernel=kernel) if read is None else read
    view, row, column = mosaic.covered.nonzero().unbind(1)
    latent, source = view + first_latent, mosaic.owner[view, row, column]
    cells = repeat_nearest_good(picture[:views].permute(0, 2, 3, 1), good[:views], grid.patch)
    gathered = MemoryTokens(
        features=cells_to_tokens(cells, grid.patch).flatten(3)[view, row, column],
        positions=torch.stack([latent, row, column], -1).double(),
        latent=latent,
        target=torch.stack([row, column], -1),
        source=source,
        warped_latent=torch.ones_like(latent, dtype=torch.bool),
        subframes=None if subframes is None else _frame_by_frame(picture, good, grid)[view, row, column],
        age=None if times is None else (times.double()[view] - store.times[source, 0].double()).float(),
    )
    if alignment == "latent" or not len(gathered):
        return gathered
    if alignment == "rope":
        return _warp_rope(store, mosaic, gathered, view)
    partly = ~_whole(good, views, grid.patch)[view, row, column]
    both = _joined(gathered, _warp_rope(store, mosaic, gathered[partly], view[partly]))
    target = both.target.unbind(-1)
    return both[((both.latent * grid.tokens[0] + target[0]) * grid.tokens[1] + target[1]).argsort(stable=True)]


def subframe_width(channels: int, grid: TokenGrid) -> int:
    """Numbers of `MemoryTokens.subframes`."""
    return ((grid.temporal - 1) * (channels + 1) + 1) * grid.patch**2


def draw_alignment(generator: torch.Generator) -> Alignment:
    """How a training sample reads memory: more often as generation does by default."""
    return ("latent", "latent", "latent", "mixture", "mixture", "mixture", "mixture", "rope")[
        int(torch.randint(8, (), generator=generator))
    ]


def _frame_by_frame(
    picture: Float[Tensor, "v c h w"], good: Bool[Tensor, "v h w"], grid: TokenGrid
) -> Float[Tensor, "l m n x"]:
    """`MemoryTokens.subframes` of all target tokens; the first views are those of the reference frames."""
    count = len(good) // grid.temporal
    shown = torch.cat([picture[count:], good[count:, None].to(picture)], dim=1)
    earlier = cells_to_tokens(shown.permute(0, 2, 3, 1), grid.patch).flatten(3)  # [l (t-1) m n (c+1) p p]
    earlier = earlier.unflatten(0, (count, grid.temporal - 1)).movedim(1, 3).flatten(3)
    return torch.cat([earlier, _blocks(good[:count], grid.patch).to(earlier)], dim=-1)


def _whole(good: Bool[Tensor, "v h w"], views: int, patch: int) -> Bool[Tensor, "l m n"]:
    """Target tokens of which all cells are shown at all frames; the first views are those of the reference frames."""
    shown = _blocks(good, patch).all(-1)
    return shown[:views] & shown[views:].unflatten(0, (views, -1)).all(1)


def _joined(a: MemoryTokens, b: MemoryTokens) -> MemoryTokens:
    parts = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(MemoryTokens)]
    return MemoryTokens(*(None if x is None else torch.cat([x, y]) for x, y in parts))  # pyright: ignore


def _warp_rope(store: PatchStore, mosaic: Mosaic, tokens: MemoryTokens, view: Tensor) -> MemoryTokens:
    """Whole source patches at their landing, in place of what was gathered for the tokens' targets.

    Tokens whose patch lands nowhere in view, or belongs to another token of the same latent, are dropped.
    """
    patch = mosaic.grid.patch
    row, column = tokens.target.unbind(-1)
    features, positions = tokens.features, tokens.positions.clone()
    keep = torch.zeros_like(tokens.warped_latent)
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
            wanted=mosaic.covered,
        )
        # a patch may hold masked (deleted) content only, although its neighbour was seen through it
        alive = _blocks(sources.valid, patch).any(-1)[warped.group, warped.patch[..., 0], warped.patch[..., 1]]
        chosen = (warped.kept & alive)[view, row, column].nonzero().squeeze(1)
        v, r, c = view[chosen], row[chosen], column[chosen]
        stored = take_patches(sources.latents, warped.group[v, r, c], warped.patch[v, r, c], patch).flatten(1)
        features = features.index_put((chosen,), stored)
        positions[chosen, 1:] = warped.positions[v, r, c, 1:]
        keep[chosen] = True
    nothing = None if tokens.subframes is None else torch.zeros_like(tokens.subframes)
    warped_latent = torch.zeros_like(tokens.warped_latent)
    return replace(tokens, features=features, positions=positions, warped_latent=warped_latent, subframes=nothing)[keep]


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
