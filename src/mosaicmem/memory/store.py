"""`PatchStore`: an immutable value with constant-time append.

Inserting returns a new store; the old one is untouched and shares everything with it. The trick is that of a slice
over a growing array: stores are a length over a shared arena, and only the newest store of an arena may append in
place. Inserting into an older one copies its part first, so a fork costs once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from mosaicmem._shapes import Float, Int, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.memory.patches import Group, Keyframe, patch_points


class _Arena:
    """Append-only columns, one row a patch, grown by doubling; and one entry a group."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.offsets: list[int] = [0]
        self.spheres: Tensor = torch.empty(16, 4)
        self.centers: Tensor = torch.empty(1024, 3)
        self.radii: Tensor = torch.empty(1024)
        self.patch_ids: Tensor = torch.empty(1024, dtype=torch.int32)

    def append(self, group: Group, points: Tensor, radius: Tensor, index: Tensor) -> None:
        start, stop = self.offsets[-1], self.offsets[-1] + len(points)
        self.centers = _grown(self.centers, stop)
        self.radii = _grown(self.radii, stop)
        self.patch_ids = _grown(self.patch_ids, stop)
        self.spheres = _grown(self.spheres, len(self.groups) + 1)
        self.centers[start:stop], self.radii[start:stop], self.patch_ids[start:stop] = points, radius, index
        self.spheres[len(self.groups)] = _bounding_sphere(points, radius)
        self.groups.append(group)
        self.offsets.append(stop)

    def copy_of_first(self, count: int) -> _Arena:
        out = _Arena()
        out.groups, out.offsets = self.groups[:count], self.offsets[: count + 1]
        stop = out.offsets[-1]
        out.centers, out.radii = self.centers[:stop].clone(), self.radii[:stop].clone()
        out.patch_ids, out.spheres = self.patch_ids[:stop].clone(), self.spheres[:count].clone()
        return out


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
            GeometryError: if the keyframe's channels, stride or patch size differ from those already stored.
        """
        uid = self._arena.groups[self.num_groups - 1].uid + 1 if self.num_groups else 0
        return self.insert_group(Group(keyframe, keyframe.camera.c2w[0].double(), None, uid))

    def insert_group(self, group: Group) -> PatchStore:
        """A store with one group more. Its `uid` must be larger than every stored one."""
        if self.num_groups:
            last = self._arena.groups[self.num_groups - 1]
            if group.uid <= last.uid:
                raise GeometryError(f"group uid {group.uid} is not larger than the newest stored one, {last.uid}")
            if _layout(group.keyframe) != _layout(last.keyframe):
                raise GeometryError(
                    f"keyframe {group.keyframe.frame} has (channels, stride, patch) = {_layout(group.keyframe)}, but "
                    f"this memory holds {_layout(last.keyframe)}; one memory belongs to one latent space"
                )
        arena = self._arena
        if len(arena.groups) != self.num_groups:
            arena = arena.copy_of_first(self.num_groups)
        arena.append(group, *patch_points(group))
        return PatchStore(arena, self.num_groups + 1)

    @staticmethod
    def from_groups(groups: Sequence[Group]) -> PatchStore:
        """A store of these groups, in this order."""
        store = PatchStore.empty()
        for group in groups:
            store = store.insert_group(group)
        return store

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
        """World position of every patch, float32."""
        return self._arena.centers[: self.num_patches]

    @property
    def radii(self) -> Float[Tensor, "q"]:
        """Half the extent of every patch, world units, float32."""
        return self._arena.radii[: self.num_patches]

    @property
    def patch_ids(self) -> Int[Tensor, "q"]:
        """Row-major patch number inside its keyframe, for every patch."""
        return self._arena.patch_ids[: self.num_patches]

    @property
    def spheres(self) -> Float[Tensor, "g 4"]:
        """A sphere (x, y, z, r) around all patches of each group."""
        return self._arena.spheres[: self.num_groups]

    @property
    def scale(self) -> float:
        """`s`: median valid depth of the first keyframe, the world's unit of length; 1 for an empty store."""
        return (self.group(0).keyframe.median_depth or 1.0) if self.num_groups else 1.0

    def nearest(self, point: Float[Tensor, "3"], k: int) -> Int[Tensor, "k"]:
        """Rows of the `k` patches nearest to a world point, nearest first; ties by row."""
        distance = (self.centers - point.to(self.centers)).norm(dim=-1)
        return distance.argsort(stable=True)[:k]


def _layout(keyframe: Keyframe) -> tuple[int, int, int]:
    return keyframe.latents.shape[0], keyframe.stride, keyframe.patch


def _grown(column: Tensor, rows: int) -> Tensor:
    if rows <= len(column):
        return column
    out = torch.empty(max(rows, 2 * len(column)), *column.shape[1:], dtype=column.dtype)
    out[: len(column)] = column
    return out


def _bounding_sphere(points: Tensor, radius: Tensor) -> Tensor:
    if not len(points):
        return torch.tensor([0.0, 0.0, 0.0, -1.0])
    center = (points.amin(0) + points.amax(0)) / 2
    reach = ((points - center).norm(dim=-1) + radius * 2**0.5).max()
    return torch.cat([center, reach[None]])
