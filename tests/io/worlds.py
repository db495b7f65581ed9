"""Small keyframes and worlds for the tests of the world file."""

from __future__ import annotations

from dataclasses import replace

import torch

from helpers import random_cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import lift
from mosaicmem.memory.patches import Group, Keyframe
from mosaicmem.memory.store import PatchStore

GRID = TokenGrid(16, 8, stride=2, patch=2)


def keyframes(count: int, dtype: torch.dtype = torch.float32, seed: int = 3) -> list[Keyframe]:
    """Keyframes of 8 patches, some cells of each unknown."""
    rng = torch.Generator().manual_seed(seed)
    cameras = random_cameras(count, rng, width=16, height=8)
    found: list[Keyframe] = []
    for i in range(count):
        depth = 2 + torch.rand(8, 16, generator=rng)
        depth[i % 4, : 4 + i % 8] = 0
        latents = torch.randn(4, *GRID.cells, generator=rng).to(dtype)
        origin = "generated" if i % 2 else "observed"
        made = lift(latents, depth, cameras[i], GRID, frame=10 * i, time=0.1 * i, origin=origin)
        found.append(replace(made, confidence=torch.rand(4, 8, generator=rng)))
    return found


def edited(seed: int = 3, dtype: torch.dtype = torch.float32) -> PatchStore:
    """Three keyframes, one of them cut in two groups, one scaled and moved, one pinned, one superseded."""
    store = PatchStore.empty()
    for keyframe in keyframes(3, dtype, seed):
        store = store.insert(keyframe)
    a, b, c = store.groups
    mask = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    moved = b.world_from_cam.clone()
    moved[:3, :3] *= 1.5
    moved[:3, 3] += torch.tensor([0.1, 0.2, 1 / 3], dtype=torch.float64)
    return PatchStore.from_groups(
        [
            replace(a, pinned=True),
            replace(b, world_from_cam=moved, until=7.5),
            replace(c, mask=mask, uid=7),
            replace(c, mask=~mask, uid=9),
        ]
    )


def assert_same_group(a: Group, b: Group) -> None:
    """Two groups are equal to the bit, dtypes included."""
    for name in ("latents", "depth", "valid", "confidence"):
        x, y = getattr(a.keyframe, name), getattr(b.keyframe, name)
        assert x.dtype == y.dtype
        assert torch.equal(x, y), name
    for name in ("viewmats", "Ks"):
        assert torch.equal(getattr(a.keyframe.camera, name), getattr(b.keyframe.camera, name))
    for name in ("stride", "patch", "frame", "time", "origin", "cells", "tokens", "channels", "nbytes"):
        assert getattr(a.keyframe, name) == getattr(b.keyframe, name), name
    assert torch.equal(a.world_from_cam, b.world_from_cam)
    assert (a.mask is None) == (b.mask is None)
    assert a.mask is None or b.mask is None or torch.equal(a.mask, b.mask)
    assert (a.uid, a.pinned, a.until) == (b.uid, b.pinned, b.until)


def assert_same_store(a: PatchStore, b: PatchStore) -> None:
    """Two stores are equal to the bit, in what they hold and in where it lies."""
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert_same_group(x, y)
    columns = ("centers", "radii", "patch_ids", "spheres", "times", "numbers")
    for name in (*columns, "blocks", "block_rows", "block_offsets"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.offsets == b.offsets
