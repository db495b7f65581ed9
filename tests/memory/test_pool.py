"""What lets thinning skip blocks: how deep a part of the z-buffer is at most."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.scenes import GRID, camera, keyframe, random_room_cameras
from tests.memory.test_reference import random_store

from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.memory import Group, PatchStore, RetrievalConfig, _pool_kernels
from mosaicmem.memory.pool import PatchPoints, columns
from mosaicmem.memory.reference import pool_reference


@given(st.integers(1, 30), st.integers(1, 52), st.integers(0, 10_000))
def test_the_depth_of_a_rectangle_is_that_of_its_deepest_token(m: int, n: int, seed: int) -> None:
    """Of two z-buffers, the lesser counts; a rectangle of more than 16 may be anything, an empty one is behind all."""
    random = np.random.default_rng(seed)
    first, second = random.random((2, m * n), np.float32) + 1
    tables = np.full((4, 4, m * n), np.nan, np.float32)
    _pool_kernels.window_maxima(first, second, n, tables)
    lesser = np.minimum(first, second).reshape(m, n)
    for _ in range(20):
        top, bottom = np.sort(random.integers(0, m, 2))
        left, right = np.sort(random.integers(0, n, 2))
        rects = np.array([[0, 0, 0, 0], [top, bottom, left, right]], np.int16)
        found = _pool_kernels.deepest(tables, rects, 1, n)
        if max(bottom - top, right - left) < 16:
            assert found == lesser[top : bottom + 1, left : right + 1].max()
        else:
            assert found == np.inf
    assert _pool_kernels.deepest(tables, np.array([[1, 0, 0, 0]], np.int16), 0, n) == 0


@pytest.mark.parametrize("deeper", [1.0, 3.0])
def test_blocks_are_skipped_by_no_more_than_the_z_buffer_says(deeper: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told that the z-buffer is deeper than it is, thinning takes longer and sees the same."""
    store, view, config = random_store(12, 4, holes=0.0), random_room_cameras(1, 104), RetrievalConfig()
    limits = config.near * store.scale, config.rho_max * GRID.token_stride / 2, 2 * config.tau
    points = PatchPoints(store, view.viewmats[0].numpy(), view.Ks[0].numpy(), GRID, *limits)
    expected = points.seen(list(range(len(store))))
    maxima = _pool_kernels.window_maxima.py_func

    def told(values: np.ndarray, other: np.ndarray, n: int, tables: np.ndarray) -> None:
        maxima(values, other, n, tables)
        tables *= deeper

    monkeypatch.setattr(_pool_kernels, "window_maxima", told)
    seen = points.seen(list(range(len(store))))
    np.testing.assert_array_equal(seen[0], expected[0])
    np.testing.assert_array_equal(seen[1], expected[1])
    monkeypatch.setattr(_pool_kernels, "window_maxima", lambda values, other, n, tables: tables.fill(1e-3))
    assert not np.array_equal(points.seen(list(range(len(store))))[0], expected[0]), "a bound that is too low hides"


def test_a_block_that_is_not_full_ends_where_it_ends() -> None:
    """Patches are placed sixteen at a time; those of the next group stand right behind."""
    frame, (m, n) = keyframe(4.0, camera()), GRID.tokens
    masks = torch.zeros(2, m, n, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, m - 1, n - 1] = True
    store = PatchStore.from_groups([Group(frame, torch.eye(4).double(), mask, i) for i, mask in enumerate(masks)])
    view = camera()
    points = PatchPoints(store, view.viewmats[0].numpy(), view.Ks[0].numpy(), GRID, 0.04, 16.0, 0.2)
    seen, landed = points.seen([0, 1])
    np.testing.assert_array_equal(seen.reshape(2, m, n), masks)
    assert landed.all()


@pytest.mark.parametrize(("up", "lands"), [(0.0, True), (2.4, False), (-2.4, False)])
def test_what_lies_above_or_below_the_image_does_not_land(up: float, lands: bool) -> None:
    """A patch straight ahead, from `up` metres aside 60 pixels off the middle of an image 128 wide and 64 high."""
    mask = torch.zeros(GRID.tokens, dtype=torch.bool)
    mask[GRID.tokens[0] // 2, GRID.tokens[1] // 2] = True
    store = PatchStore.from_groups([Group(keyframe(4.0, camera()), torch.eye(4).double(), mask, 0)])
    view = camera(at=(0, up, 0))
    points = PatchPoints(store, view.viewmats[0].numpy(), view.Ks[0].numpy(), GRID, 0.04, 16.0, 0.2)
    assert points.seen([0])[1].tolist() == [lands]


def test_a_coarse_patch_of_a_wall_at_a_slant_does_not_hide_who_stands_before_it() -> None:
    """Down a long hall, patches seen from afar are wide and lie at one depth each; whoever stands at the view shows it
    all the same. The twin, over all pairs, agrees."""
    config, near = RetrievalConfig(), torch.tensor([-1.5, -1.0, 0.0], dtype=torch.float64)
    far = torch.tensor([1.5, 1.0, 60.0], dtype=torch.float64)
    store = PatchStore.empty()
    for i, z in enumerate([12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 20.0]):
        cam = camera(at=(0.0, 0.0, z))
        h, w = GRID.cells
        uv = pixel_centers(w, h, stride=GRID.stride, dtype=torch.float64).reshape(1, -1, 2)
        ray = unproject(uv, torch.ones(1, h * w, dtype=torch.float64), cam.Ks)[0]
        depth = ((torch.where(ray > 0, far, near) - cam.centers[0]) / ray).amin(-1).reshape(h, w)
        store = store.insert(keyframe(depth.float(), cam, frame=i))
    view = camera(at=(0.0, 0.0, 20.5))
    limits = config.near * store.scale, config.rho_max * GRID.token_stride / 2, 2 * config.tau
    points = PatchPoints(store, view.viewmats[0].numpy(), view.Ks[0].numpy(), GRID, *limits)
    seen = torch.from_numpy(points.seen(list(range(len(store))))[0])
    expected = pool_reference(store, view, GRID, config)
    assert float((seen == expected).double().mean()) >= 0.999
    assert float(seen[-1].double().mean()) > 0.7  # nothing at all if patches hid what is behind their centres


def test_columns_are_those_of_the_store_that_is_asked() -> None:
    """Kept for the store that was asked last, and never given to another that grew from it or was there before."""
    old = random_store(3, 0)
    kept = columns(old)
    assert columns(old) is kept
    new = old.insert(keyframe(4.0, camera(), frame=9))
    for store in (new, old, new):
        found = columns(store)
        assert len(found.radii) == store.num_patches and len(found.spheres) == len(store)
        np.testing.assert_array_equal(found.centers, store.centers.numpy().reshape(-1))
        for name in found._fields[1:]:
            np.testing.assert_array_equal(getattr(found, name), getattr(store, name).numpy())


def test_columns_are_forgotten_with_their_store() -> None:
    store, other = random_store(3, 0), random_store(3, 1)
    kept = weakref.ref(columns(store).centers)
    assert kept() is not None, "control: the array itself is kept"
    columns(other)
    assert kept() is None
    kept = weakref.ref(columns(store).centers)
    del store
    gc.collect()
    assert kept() is None
    assert len(columns(other).radii) == other.num_patches
