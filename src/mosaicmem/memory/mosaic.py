"""`Mosaic`: what memory shows in each of some views, cell by cell, and why each candidate was kept or dropped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch

from mosaicmem._shapes import Bool, Float, Int, Tensor
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid


class Reason(IntEnum):
    """Why a group was kept or dropped for a view. Every candidate has exactly one."""

    kept = 0
    context = 1  # the caller excluded it: it is in the model's own context
    invalid = 2  # it holds no patch with known depth
    outside = 3  # no patch lands in the image
    hidden = 4  # what lands lies behind something nearer
    coarse = 5  # what lands is magnified beyond `rho_max`
    duplicate = 6  # what it shows is shown by those kept, but for less than `gain_min`
    budget = 7  # it would have added something, but the budget was spent
    superseded = 8  # it did not hold at the time asked for
    behind = 9  # what lands is seen from behind


@dataclass(frozen=True)
class Mosaic:
    """`l` views of memory.

    Indices of groups are positions in the store that was asked. `good` cells are true projected footprints that
    survived occlusion and read-back; everything else is a hole.

    Attributes:
        owner: `[l m n]` group that serves most of a covered token, -1 where the token is a hole.
        source: `[l h w]` group that serves each cell, -1 for a hole.
        source_uv: `[l h w 2]` float64, where in its source image the cell is read, pixels.
        source_depth: `[l h w]` float64, depth of that ray point in the source's camera space, before any scale edit.
        depth: `[l h w]` float64, z-depth of the surface in the view, 0 in holes.
        good: `[l h w]` cells that memory shows.
        covered: `[l m n]` tokens with at least `min_cells` good cells.
        picked: For each view, the groups kept, in order of their gain.
        decisions: `[l g]` a `Reason` for every group of the store.
        gains: `[l g]` what the group added, or would still have added, in cells weighted by how well they are shown.
        grid: Token grid of the views.
        cameras: The views, float64.
    """

    owner: Int[Tensor, "l m n"]
    source: Int[Tensor, "l h w"]
    source_uv: Float[Tensor, "l h w 2"]
    source_depth: Float[Tensor, "l h w"]
    depth: Float[Tensor, "l h w"]
    good: Bool[Tensor, "l h w"]
    covered: Bool[Tensor, "l m n"]
    picked: tuple[tuple[int, ...], ...]
    decisions: Int[Tensor, "l g"]
    gains: Float[Tensor, "l g"]
    grid: TokenGrid
    cameras: Cameras

    def __len__(self) -> int:
        return self.good.shape[0]

    def __getitem__(self, view: int | slice | list[int]) -> Mosaic:
        """One view, as a mosaic of one, or several."""
        rows = range(len(self))[view] if not isinstance(view, list) else view
        at = torch.tensor([rows] if isinstance(rows, int) else list(rows), dtype=torch.int64)
        return Mosaic(
            *(getattr(self, name)[at] for name in _TENSORS_BEFORE),
            picked=tuple(self.picked[i] for i in at.tolist()),
            decisions=self.decisions[at],
            gains=self.gains[at],
            grid=self.grid,
            cameras=self.cameras[at],
        )

    @property
    def coverage(self) -> Float[Tensor, "l"]:
        """Share of each view's cells that memory shows."""
        return self.good.flatten(1).double().mean(-1)

    @property
    def token_coverage(self) -> Float[Tensor, "l"]:
        """Share of each view's tokens that are covered."""
        return self.covered.flatten(1).double().mean(-1)

    @property
    def holes(self) -> Bool[Tensor, "l h w"]:
        """Cells that memory does not show."""
        return ~self.good

    def reasons(self, view: int) -> dict[Reason, int]:
        """How many groups of the store met each reason in this view; the counts add up to all groups."""
        codes = self.decisions[view]
        return {reason: int((codes == reason).sum()) for reason in Reason}

    @staticmethod
    def cat(parts: list[Mosaic]) -> Mosaic:
        """Concatenate views that were asked of the same store and grid."""
        first = parts[0]
        return Mosaic(
            *(torch.cat([getattr(p, name) for p in parts]) for name in _TENSORS_BEFORE),
            picked=tuple(p for part in parts for p in part.picked),
            decisions=torch.cat([p.decisions for p in parts]),
            gains=torch.cat([p.gains for p in parts]),
            grid=first.grid,
            cameras=Cameras.cat([p.cameras for p in parts]),
        )


_TENSORS_BEFORE = ("owner", "source", "source_uv", "source_depth", "depth", "good", "covered")
