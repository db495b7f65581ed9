"""`PatchStore`: an immutable value with constant-time append.

Inserting returns a new store; the old one is untouched and shares everything with it. The trick is that of a slice
over a growing array: stores are a length over a shared arena, and only the newest store of an arena may append in
place. Inserting into an older one copies its part first, so a fork costs once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch

from mosaicmem._shapes import Bool, Float, Int, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.memory.patches import Group, Keyframe, patch_points

BLOCK = 4
"""Patches along each side of a block, the unit of the index: a box that lets retrieval skip all of them at once."""


class _Arena:
    """Append-only columns, one row a patch, a block or a group, grown by doubling."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.offsets: list[int] = [0]
        self.scale = 1.0
        self.num_blocks = 0
        self.columns: dict[str, Tensor] = {
            "centers": torch.empty(1024, 3),
            "radii": torch.empty(1024),
            "patch_ids": torch.empty(1024, dtype=torch.int32),
            "blocks": torch.empty(64, 7),
            "block_rows": torch.zeros(64, dtype=torch.int64),
            "spheres": torch.empty(16, 4),
            "block_offsets": torch.zeros(16, dtype=torch.int64),
            "times": torch.empty(16, 2, dtype=torch.float64),
            "numbers": torch.empty(16, 4, dtype=torch.int64),
            "places": torch.empty(16, 4, 4, dtype=torch.float64),
            "lenses": torch.empty(16, 3, 3, dtype=torch.float64),
        }

    def extend(self, groups: Sequence[Group], points: Tensor, radius: Tensor, index: Tensor, offsets: Tensor) -> None:
        """Append groups; patches of the `k`-th are rows `offsets[k]:offsets[k + 1]`. Many at once cost little more."""
        owner = torch.arange(len(groups)).repeat_interleave(offsets.diff())
        widths = torch.tensor([group.keyframe.tokens[1] for group in groups])
        order, starts = _blocks(index, widths[owner], owner)
        points, radius, index = points[order], radius[order], index[order]
        q, b, g = self.offsets[-1], self.num_blocks, len(self.groups)
        ends = offsets[1:] + q
        self._put("centers", q, points)
        self._put("radii", q, radius)
        self._put("patch_ids", q, index.to(torch.int32))
        self._put("blocks", b, _block_boxes(points, radius, starts))
        self._put("block_rows", b, torch.cat([starts + q, ends[-1:]]))  # one more: the end
        self._put("spheres", g, _bounding_spheres(points, radius, offsets))
        self._put("block_offsets", g + 1, b + torch.searchsorted(starts, offsets[1:]))
        times = [(group.keyframe.time, math.inf if group.until is None else group.until) for group in groups]
        self._put("times", g, torch.tensor(times, dtype=torch.float64))
        numbers = [
            (group.keyframe.frame, group.uid, group.keyframe.origin == "generated", group.moved) for group in groups
        ]
        self._put("numbers", g, torch.tensor(numbers, dtype=torch.int64))
        self._put("places", g, torch.stack([group.world_from_cam for group in groups]))
        self._put("lenses", g, torch.cat([group.keyframe.camera.Ks for group in groups]).double())
        if not g:
            self.scale = groups[0].keyframe.median_depth or 1.0
        self.groups.extend(groups)
        self.offsets.extend(ends.tolist())
        self.num_blocks = b + len(starts)

    def copy_of_first(self, count: int) -> _Arena:
        out = _Arena()
        out.groups, out.offsets = self.groups[:count], self.offsets[: count + 1]
        out.scale = self.scale if count else 1.0
        patches, blocks = self.offsets[count], int(self.columns["block_offsets"][count])
        out.num_blocks = blocks
        rows = {"centers": patches, "radii": patches, "patch_ids": patches, "blocks": blocks, "block_rows": blocks + 1}
        rows["block_offsets"] = count + 1
        out.columns = {name: column[: rows.get(name, count)].clone() for name, column in self.columns.items()}
        return out

    def _put(self, name: str, start: int, rows: Tensor) -> None:
        column, stop = self.columns[name], start + len(rows)
        if stop > len(column):
            grown = torch.zeros(max(stop, 2 * len(column)), *column.shape[1:], dtype=column.dtype)
            grown[:start] = column[:start]
            self.columns[name] = column = grown
        column[start:stop] = rows


@dataclass(frozen=True, eq=False)
class PatchStore:
    """Everything remembered: groups of patches in world space. Make one with `PatchStore.empty()` and `insert`."""

    _arena: _Arena = field(default_factory=_Arena, repr=False)
    num_groups: int = 0

    @staticmethod
    def empty() -> PatchStore:
        """A store that holds nothing."""
        return PatchStore()

    def insert(self, keyframe: Keyframe) -> PatchStore:
        """A store with one keyframe more, at its own camera. Amortised cost: that of the new patches alone.

        Raises:
            GeometryError: if the keyframe's channels, stride or patch size differ from those already stored, or patches
                lie farther away than a float32 can say.
        """
        return self.insert_all([keyframe])

    def insert_all(self, keyframes: Sequence[Keyframe]) -> PatchStore:
        """A store with some keyframes more, the same as one by one; many at once cost little more than one.

        Raises:
            GeometryError: as `insert`.
        """
        first = self._arena.groups[self.num_groups - 1].uid + 1 if self.num_groups else 0
        return self.insert_groups(
            [Group(key, key.camera.c2w[0].double(), None, uid) for uid, key in enumerate(keyframes, start=first)]
        )

    def insert_group(self, group: Group) -> PatchStore:
        """A store with one group more. Its `uid` must be larger than every stored one."""
        return self.insert_groups([group])

    def insert_groups(self, groups: Sequence[Group]) -> PatchStore:
        """A store with some groups more, in this order of rising `uid`."""
        if not groups:
            return self
        points, radii, patch_ids = zip(*map(patch_points, groups), strict=True)
        offsets = [0, *accumulate(map(len, points))]
        return self._extended(groups, torch.cat(points), torch.cat(radii), torch.cat(patch_ids), offsets)

    def _extended(
        self, groups: Sequence[Group], points: Tensor, radii: Tensor, patch_ids: Tensor, offsets: Sequence[int]
    ) -> PatchStore:
        last = self._arena.groups[self.num_groups - 1] if self.num_groups else None
        for group in groups:
            if last is not None and group.uid <= last.uid:
                raise GeometryError(f"group uid {group.uid} is not larger than the newest stored one, {last.uid}")
            if last is not None and _layout(group.keyframe) != _layout(last.keyframe):
                raise GeometryError(
                    f"keyframe {group.keyframe.frame} has (channels, stride, patch) = {_layout(group.keyframe)}, but "
                    f"this memory holds {_layout(last.keyframe)}; one memory belongs to one latent space"
                )
            last = group
        if not (bool(points.isfinite().all()) and bool(radii.isfinite().all())):
            lost = int((~(points.isfinite().all(-1) & radii.isfinite())).nonzero()[0])
            group = next(group for group, stop in zip(groups, offsets[1:], strict=True) if lost < stop)
            raise GeometryError(f"group {group.uid}: its patches lie farther away than a float32 can say")
        arena = self._arena
        if len(arena.groups) != self.num_groups:
            arena = arena.copy_of_first(self.num_groups)
        if groups:
            arena.extend(groups, points, radii, patch_ids, torch.tensor(offsets))
        return PatchStore(arena, self.num_groups + len(groups))

    @staticmethod
    def from_groups(groups: Sequence[Group]) -> PatchStore:
        """A store of these groups, in this order."""
        return PatchStore.empty().insert_groups(groups)

    @staticmethod
    def from_columns(
        groups: Sequence[Group],
        points: Float[Tensor, "q 3"],
        radii: Float[Tensor, "q"],
        patch_ids: Int[Tensor, "q"],
        offsets: Sequence[int],
    ) -> PatchStore:
        """A store of groups whose `patch_points` are known: those of group `g` are rows `offsets[g]:offsets[g + 1]`.

        Raises:
            GeometryError: as `insert_group`.
        """
        return PatchStore.empty()._extended(groups, points, radii, patch_ids, offsets)

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups, in order of insertion."""
        return tuple(self._arena.groups[: self.num_groups])

    def group(self, index: int) -> Group:
        """The group at position `index` (what `Mosaic.source` and `Mosaic.owner` hold)."""
        if not 0 <= index < self.num_groups:
            raise IndexError(f"group {index} of {self.num_groups}")
        return self._arena.groups[index]

    def __len__(self) -> int:
        return self.num_groups

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @property
    def num_patches(self) -> int:
        """Patches with at least one valid cell."""
        return self._arena.offsets[self.num_groups]

    @property
    def offsets(self) -> list[int]:
        """`[groups + 1]`: patches of group `g` are rows `offsets[g]` to `offsets[g + 1]` of the columns below."""
        return self._arena.offsets[: self.num_groups + 1]

    @property
    def centers(self) -> Float[Tensor, "q 3"]:
        """World position of every patch, float32; within a group, block after block."""
        return self._arena.columns["centers"][: self.num_patches]

    @property
    def radii(self) -> Float[Tensor, "q"]:
        """Half the extent of every patch, world units, float32."""
        return self._arena.columns["radii"][: self.num_patches]

    @property
    def patch_ids(self) -> Int[Tensor, "q"]:
        """Row-major patch number inside its keyframe, for every patch."""
        return self._arena.columns["patch_ids"][: self.num_patches]

    @property
    def num_blocks(self) -> int:
        """Blocks: runs of at most `BLOCK`^2 patches that are neighbours in their keyframe."""
        arena = self._arena
        if self.num_groups == len(arena.groups):  # a number out of a tensor takes longer than all else here
            return arena.num_blocks
        return int(arena.columns["block_offsets"][self.num_groups])

    @property
    def block_offsets(self) -> Int[Tensor, "groups_and_end"]:
        """Blocks of group `g` are rows `block_offsets[g]` to `block_offsets[g + 1]` of `blocks`."""
        return self._arena.columns["block_offsets"][: self.num_groups + 1]

    @property
    def blocks(self) -> Float[Tensor, "b 7"]:
        """Middle and half extent along the world's axes of each block's patch centres, and its largest radius."""
        return self._arena.columns["blocks"][: self.num_blocks]

    @property
    def block_rows(self) -> Int[Tensor, "blocks_and_end"]:
        """Patches of block `b` are rows `block_rows[b]` to `block_rows[b + 1]` of `centers`."""
        return self._arena.columns["block_rows"][: self.num_blocks + 1]

    @property
    def spheres(self) -> Float[Tensor, "g 4"]:
        """A sphere (x, y, z, r) around all patches of each group; `r < 0` for a group without patches."""
        return self._arena.columns["spheres"][: self.num_groups]

    @property
    def times(self) -> Float[Tensor, "g 2"]:
        """From when until when each group holds, seconds, float64: its keyframe's time and `until`, or infinity."""
        return self._arena.columns["times"][: self.num_groups]

    @property
    def numbers(self) -> Int[Tensor, "g 4"]:
        """Frame and uid of each group, 1 if it was generated, and 1 if an edit moved it (`Group.moved`)."""
        return self._arena.columns["numbers"][: self.num_groups]

    @property
    def places(self) -> Float[Tensor, "g 4 4"]:
        """`world_from_cam` of each group, float64."""
        return self._arena.columns["places"][: self.num_groups]

    @property
    def lenses(self) -> Float[Tensor, "g 3 3"]:
        """Intrinsics of each group's keyframe, float64."""
        return self._arena.columns["lenses"][: self.num_groups]

    @property
    def observed(self) -> Bool[Tensor, " g"]:
        """Which groups show an observed frame, and not a generated one."""
        return self.numbers[:, 2] == 0

    @property
    def index_bytes(self) -> int:
        """Bytes that the index takes: everything here that is not in the keyframes themselves."""
        columns = (self.centers, self.radii, self.patch_ids, self.blocks, self.block_rows, self.spheres)
        columns += (self.block_offsets, self.times, self.numbers, self.places, self.lenses)
        return sum(column.element_size() * column.numel() for column in columns) + 8 * (self.num_groups + 1)

    @property
    def scale(self) -> float:
        """`s`: median valid depth of the first keyframe, the world's unit of length; 1 for an empty store."""
        return self._arena.scale if self.num_groups else 1.0

    def nearest(self, point: Float[Tensor, "3"], k: int) -> Int[Tensor, "k"]:
        """Rows of the `k` patches nearest to a world point, nearest first; ties by row."""
        distance = (self.centers - point.to(self.centers)).norm(dim=-1)
        return distance.argsort(stable=True)[:k]


def _layout(keyframe: Keyframe) -> tuple[int, int, int]:
    return keyframe.channels, keyframe.stride, keyframe.patch


def _blocks(index: Tensor, n: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Order that puts patches `index` of grids `n` wide block after block, and where each block starts.

    `owner` says whose patch each is, from 0 on; those of one owner stand together already and stay together.
    """
    tile = (index // (n * BLOCK)) * n + (index % n) // BLOCK
    tile = tile + owner * (int(tile.max()) + 1 if len(tile) else 0)
    tile, order = tile.sort(stable=True)
    first = torch.ones_like(tile, dtype=torch.bool)
    first[1:] = tile[1:] != tile[:-1]
    return order, first.nonzero().squeeze(-1)


def _block_boxes(points: Tensor, radius: Tensor, starts: Tensor) -> Tensor:
    """`[b 7]`, see `PatchStore.blocks`."""
    if not len(starts):
        return torch.empty(0, 7)
    rows, x = starts.numpy(), points.numpy()
    low, high = np.minimum.reduceat(x, rows), np.maximum.reduceat(x, rows)
    middle, largest = (low + high) / 2, np.maximum.reduceat(radius.numpy(), rows)[:, None]
    return torch.from_numpy(np.concatenate([middle, np.maximum(high - middle, middle - low), largest], 1))


def _bounding_spheres(points: Tensor, radius: Tensor, offsets: Tensor) -> Tensor:
    """`[g 4]`, see `PatchStore.spheres`; patches of group `g` are rows `offsets[g]:offsets[g + 1]`."""
    counts = offsets.diff()
    out = torch.tensor([0.0, 0.0, 0.0, -1.0]).repeat(len(counts), 1)
    some = counts > 0
    if not bool(some.any()):
        return out
    rows, x = offsets[:-1][some].numpy(), points.numpy()
    centers = torch.from_numpy((np.minimum.reduceat(x, rows) + np.maximum.reduceat(x, rows)) / 2)
    distance = (points - centers.repeat_interleave(counts[some], 0)).norm(dim=-1) + radius * 2**0.5
    out[some] = torch.cat([centers, torch.from_numpy(np.maximum.reduceat(distance.numpy(), rows))[:, None]], 1)
    return out
