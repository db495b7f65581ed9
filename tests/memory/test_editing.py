"""An edit moves what is rendered; undo is the old value; nothing else changes (laws E1 to E3)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import random_rotations
from tests.memory.scenes import F64, GRID, camera, keyframe, random_room_cameras, room_depth

from mosaicmem.errors import GeometryError
from mosaicmem.geometry.se3 import make_transform, translation
from mosaicmem.memory import PatchStore, retrieve
from mosaicmem.memory.editing import (
    box,
    duplicate,
    erase,
    everything,
    layout_transform,
    mirror,
    sphere,
    splice,
    transform,
)


def room(n: int = 4, seed: int = 0) -> PatchStore:
    store = PatchStore.empty()
    for i, c in enumerate(random_room_cameras(n, seed)):
        store = store.insert(keyframe(room_depth(c), c, frame=i))
    return store


def rigid(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return make_transform(random_rotations(1, g), torch.randn(1, 3, generator=g, dtype=F64))[0]


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_E1_moving_memory_and_view_together_changes_nothing(seed: int) -> None:
    store, view, G = room(), random_room_cameras(1, seed + 5), rigid(seed)
    before = retrieve(store, view, GRID)
    moved_view = type(view)(view.viewmats @ torch.linalg.inv(G), view.Ks, view.width, view.height)
    after = retrieve(transform(store, everything, G), moved_view, GRID)
    assert torch.equal(before.source, after.source)
    torch.testing.assert_close(before.source_uv, after.source_uv, rtol=0, atol=1e-6)
    back = retrieve(transform(transform(store, everything, G), everything, torch.linalg.inv(G)), view, GRID)
    assert torch.equal(before.source, back.source)
    torch.testing.assert_close(before.source_uv, back.source_uv, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("dx", "depth", "pixels"), [(0.5, 5.0, 10.0), (0.16, 4.0, 4.0), (-0.5, 5.0, -10.0)])
def test_E2_G29_a_move_shifts_the_picture(dx: float, depth: float, pixels: float) -> None:
    store = PatchStore.empty().insert(keyframe(depth, camera()))
    moved = transform(store, everything, translation(torch.tensor([dx, 0, 0], dtype=F64)))
    mosaic = retrieve(moved, camera(), GRID)
    shift = GRID.cell_centers(F64) - mosaic.source_uv[0]
    assert float((shift[..., 0] - pixels)[mosaic.good[0]].abs().max()) < 1e-9
    torch.testing.assert_close(moved.centers, store.centers + torch.tensor([dx, 0, 0]))


def test_E3_erased_patches_are_never_read_again() -> None:
    store = room(6)
    region = sphere(torch.tensor([1.0, 0.0, 0.8]), 1.0)
    rest = erase(store, region)
    assert 0 < rest.num_patches < store.num_patches
    assert not bool(region(rest.centers).any())
    assert sorted(map(tuple, rest.centers.tolist())) == sorted(
        map(tuple, store.centers[~region(store.centers)].tolist())
    )
    assert rest.num_patches + int(region(store.centers).sum()) == store.num_patches
    assert len(erase(store, everything)) == 0


def test_G14_erasing_a_sphere_keeps_384_of_512_tiles() -> None:
    from tests.helpers import bowl_depth, circle32

    from mosaicmem.geometry.token_grid import TokenGrid
    from mosaicmem.memory import lift

    grid = TokenGrid(64, 64, stride=8, patch=2)
    cameras, store = circle32(F64), PatchStore.empty()
    for i in range(32):
        store = store.insert(lift(torch.zeros(1, 8, 8), bowl_depth(dtype=F64), cameras[i], grid, frame=i))
    assert store.num_patches == 512
    assert erase(store, sphere(torch.zeros(3), 2.0)).num_patches == 384


def test_E3_a_duplicate_shows_twice_and_shares_its_latents() -> None:
    k = keyframe(4.0, camera())
    store = PatchStore.empty().insert(k)
    twin = duplicate(store, everything, translation(torch.tensor([0, 0, -1.0], dtype=F64)))
    assert len(twin) == 2 and twin.group(1).keyframe is k
    assert bool((retrieve(twin, camera(), GRID).source == 1).all()), "the copy stands in front"
    assert torch.equal(
        retrieve(erase(twin, box(torch.tensor([-9.0, -9, 2.5]), torch.tensor([9.0, 9, 3.5]))), camera(), GRID).source[
            0
        ],
        torch.zeros(GRID.cells, dtype=torch.int64),
    )


def test_E3_the_old_store_is_the_undo() -> None:
    store = room()
    bits = (store.centers.clone(), [g.world_from_cam.clone() for g in store])
    for edited in (
        erase(store, sphere(torch.zeros(3), 2)),
        transform(store, everything, rigid(1)),
        mirror(store, torch.tensor([1.0, 0, 0]), torch.zeros(3)),
    ):
        assert edited.num_patches <= store.num_patches
    assert torch.equal(store.centers, bits[0])
    assert all(torch.equal(g.world_from_cam, A) for g, A in zip(store, bits[1]))


def test_a_part_moves_and_the_rest_stays() -> None:
    store = room(5)
    region = box(torch.tensor([0.6, -2, 0.6]), torch.tensor([1.5, 2, 1.5]))
    chosen = region(store.centers)
    moved = transform(store, region, translation(torch.tensor([-1.0, 0, 0], dtype=F64)))
    assert moved.num_patches == store.num_patches
    expected = torch.where(chosen[:, None], store.centers + torch.tensor([-1.0, 0, 0]), store.centers)
    key = lambda x: sorted(tuple(round(v, 4) for v in row) for row in x.tolist())  # noqa: E731
    assert key(moved.centers) == key(expected)


def test_scaling_about_the_eye_changes_depth_but_not_the_picture() -> None:
    view = random_room_cameras(1, 3)
    store = PatchStore.empty().insert(keyframe(room_depth(view), view))
    c = view.centers[0]
    G = translation(c) @ torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=F64)) @ translation(-c)
    before, after = retrieve(store, view, GRID), retrieve(transform(store, everything, G), view, GRID)
    torch.testing.assert_close(before.source_uv, after.source_uv, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.depth, 2 * before.depth)


def test_a_mirror_shows_the_flipped_picture_and_twice_is_nothing() -> None:
    view = camera(f=90.0)
    depth = room_depth(random_room_cameras(1, 2))
    store = PatchStore.empty().insert(keyframe(depth, view))
    flipped = mirror(store, torch.tensor([1.0, 0, 0]), torch.zeros(3))
    straight, mosaic = retrieve(store, view, GRID), retrieve(flipped, view, GRID)
    assert torch.equal(mosaic.good[0], straight.good[0].flip(-1))
    torch.testing.assert_close(mosaic.depth[0], straight.depth[0].flip(-1))
    torch.testing.assert_close(flipped.group(0).keyframe.latents, store.group(0).keyframe.latents.flip(-1))
    assert float(torch.det(flipped.group(0).world_from_cam)) == pytest.approx(1.0)
    torch.testing.assert_close(flipped.centers[:, 1:].sort(0).values, store.centers[:, 1:].sort(0).values)
    twice = mirror(flipped, torch.tensor([1.0, 0, 0]), torch.zeros(3))
    torch.testing.assert_close(twice.centers, store.centers)


def test_splice_keeps_both_and_renumbers() -> None:
    a, b = room(2), room(3, seed=9)
    for layout, axis in (("horizontal", 0), ("vertical", 1)):
        joined = splice(a, b, layout_transform(a, b, layout, 1.0))
        assert joined.num_patches == a.num_patches + b.num_patches
        assert len({g.uid for g in joined}) == 5
        mine, theirs = joined.centers[: a.num_patches, axis], joined.centers[a.num_patches :, axis]
        gap = theirs.min() - mine.max() if axis == 0 else mine.min() - theirs.max()
        assert float(gap) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    "bad", [torch.diag(torch.tensor([-1.0, 1, 1, 1])), torch.diag(torch.tensor([1.0, 2, 1, 1])), torch.zeros(4, 4)]
)
def test_what_is_no_similarity_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(GeometryError, match="neither"):
        transform(room(1), everything, bad)
