"""The store is a value: old ones never change, inserting costs what is inserted, bad frames do not get in."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.scenes import F64, GRID, camera, keyframe, random_room_cameras, room_depth

from mosaicmem.errors import GeometryError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import PatchStore, retrieve
from mosaicmem.memory.patches import patch_points


def test_an_old_store_never_changes_when_newer_ones_grow() -> None:
    cameras = random_room_cameras(6, 0)
    frames = [keyframe(room_depth(c), c, frame=i) for i, c in enumerate(cameras)]
    old = PatchStore.empty().insert(frames[0]).insert(frames[1])
    centers, groups = old.centers.clone(), old.groups
    blocks, rows = old.blocks.clone(), old.block_rows.clone()
    left = old.insert(frames[2]).insert(frames[3])
    right = old.insert(frames[4])
    assert torch.equal(old.centers, centers) and old.groups == groups
    assert torch.equal(old.blocks, blocks) and torch.equal(old.block_rows, rows) and old.num_blocks == len(blocks)
    assert [g.keyframe.frame for g in left] == [0, 1, 2, 3]
    assert [g.keyframe.frame for g in right] == [0, 1, 4]
    apart = PatchStore.empty().insert(frames[0]).insert(frames[1]).insert(frames[4])
    assert torch.equal(right.centers, apart.centers)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 100))
def test_any_tree_of_inserts_equals_building_each_store_alone(parents: list[int], seed: int) -> None:
    grid = TokenGrid(32, 32, stride=8, patch=2)
    frames = [keyframe(1.0 + i, camera(grid, at=(i, 0, 0)), grid, frame=i) for i in range(len(parents))]
    stores, contents = [PatchStore.empty()], [[]]
    for i, parent in enumerate(parents):
        base = parent % len(stores)
        stores.append(stores[base].insert(frames[i]))
        contents.append([*contents[base], i])
    for store, content in zip(stores, contents):
        assert [g.keyframe.frame for g in store] == content
        alone = PatchStore.empty()
        for i in content:
            alone = alone.insert(frames[i])
        assert torch.equal(store.centers, alone.centers) and store.offsets == alone.offsets


COLUMNS = ("centers", "radii", "patch_ids", "blocks", "block_rows", "block_offsets", "spheres", "times", "numbers")
COLUMNS += ("places", "lenses")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 100))
def test_many_inserted_at_once_are_the_same_as_one_by_one(runs: list[int], seed: int) -> None:
    cameras = random_room_cameras(sum(runs) + 1, seed)
    frames = [keyframe(room_depth(c), c, frame=i) for i, c in enumerate(cameras)]
    frames[0].valid.zero_()  # one that gives no patch
    at_once = one_by_one = PatchStore.empty()
    for count in [*runs, 1]:
        at, keys = len(at_once), slice(len(at_once), len(at_once) + count)
        at_once = at_once.insert_all(frames[keys])
        assert len(at_once) == at + count
    for frame in frames:
        one_by_one = one_by_one.insert(frame)
    assert at_once.offsets == one_by_one.offsets and at_once.scale == one_by_one.scale
    for name in COLUMNS:
        assert torch.equal(getattr(at_once, name), getattr(one_by_one, name)), name
    again = PatchStore.from_groups(one_by_one.groups)
    assert all(torch.equal(getattr(again, name), getattr(one_by_one, name)) for name in COLUMNS)


def test_inserting_appends_in_place_and_copies_only_on_a_fork() -> None:
    store = PatchStore.empty().insert(keyframe(4.0, camera()))
    before = store.centers.data_ptr()
    newer = store.insert(keyframe(4.0, camera(), frame=1))
    assert newer.centers.data_ptr() == before, "the newest store appends in place"
    assert store.insert(keyframe(4.0, camera(), frame=2)).centers.data_ptr() != before, "a fork copies"


def test_the_number_of_copies_while_growing_is_logarithmic() -> None:
    grid = TokenGrid(64, 64, stride=4, patch=2)
    store, pointers = PatchStore.empty(), set()
    for i in range(200):
        store = store.insert(keyframe(4.0, camera(grid), grid, frame=i))
        pointers.add(store.centers.data_ptr())
    assert store.num_patches == 200 * 64
    assert len(pointers) <= 2 + 4  # from 1,024 rows to 12,800 by doubling


def test_patch_points_lie_on_the_surface_and_skip_what_is_unknown() -> None:
    valid = torch.ones(*GRID.cells, dtype=torch.bool)
    valid[:2, :2] = False
    store = PatchStore.empty().insert(keyframe(4.0, camera(), valid=valid))
    assert store.num_patches == GRID.tokens_per_latent - 1
    assert 0 not in store.patch_ids.tolist()
    assert bool((store.centers[:, 2] == 4).all())
    half_patch = 4.0 * (GRID.token_stride / 2) / 100
    torch.testing.assert_close(store.radii, torch.full_like(store.radii, half_patch))
    center, reach = store.spheres[0, :3], store.spheres[0, 3]
    assert bool(((store.centers - center).norm(dim=-1) <= reach).all())


def test_a_patch_point_is_the_lower_median_not_an_average_across_an_edge() -> None:
    depth = torch.full(GRID.cells, 4.0, dtype=F64)
    depth[:, 1::2] = 9.0
    _, _, index = patch_points(PatchStore.empty().insert(keyframe(depth, camera())).group(0))
    store = PatchStore.empty().insert(keyframe(depth, camera()))
    assert len(index) == GRID.tokens_per_latent
    assert set(store.centers[:, 2].tolist()) == {4.0}


def test_nearest_equals_brute_force() -> None:
    cameras = random_room_cameras(3, 1)
    store = PatchStore.empty()
    for i, c in enumerate(cameras):
        store = store.insert(keyframe(room_depth(c), c, frame=i))
    point = torch.tensor([0.3, -0.2, 1.0])
    rows = store.nearest(point, 5).tolist()
    brute = sorted(range(store.num_patches), key=lambda r: (float((store.centers[r] - point).norm()), r))[:5]
    assert rows == brute


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.full((3, 8, 16), torch.nan)}, "NaN or infinity in its latents"),
        ({"confidence": torch.full((8, 16), torch.inf)}, "NaN or infinity in its confidence"),
        ({"time": math.nan}, "its time is nan s; expected a finite number"),
        ({"stride": 4}, "expected a grid of"),
        ({"depth": torch.zeros(8, 16)}, "a valid cell has depth <= 0"),
        ({"depth": torch.full((8, 16), -1.0)}, "a valid cell has depth <= 0"),
        ({"patch": 3}, "no multiple of the patch size 3"),
    ],
)
def test_bad_keyframes_are_refused(change: dict[str, object], message: str) -> None:
    import dataclasses

    good = keyframe(4.0, camera())
    with pytest.raises(GeometryError, match=message):
        dataclasses.replace(good, **change)


def test_one_memory_belongs_to_one_latent_space() -> None:
    store = PatchStore.empty().insert(keyframe(4.0, camera()))
    with pytest.raises(GeometryError, match="one memory belongs to one latent space"):
        store.insert(keyframe(4.0, camera(), channels=4))


def test_empty_store_answers() -> None:
    store = PatchStore.empty()
    assert len(store) == 0 and store.num_patches == 0 and store.scale == 1
    assert len(retrieve(store, random_room_cameras(0, 0), GRID)) == 0
