"""What lets landing and reading back skip and share work: tiles of source cells, runs of a row, half the digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.scenes import F64, GRID, camera, keyframe, random_room_cameras, room_depth
from tests.memory.test_reference import random_store
from tests.memory.test_windows import assert_same

from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import PatchStore, RetrievalConfig, _landing_kernels, retrieve, surfaces

WIDE = TokenGrid(1280, 64, stride=8, patch=2)
"""160 cells a row: more than one run."""


@pytest.mark.parametrize("seed", range(3))
def test_tiles_are_skipped_only_where_nothing_lands(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told that its cells may lie at any depth, every tile in sight is asked, and the answer is the same."""
    grid = TokenGrid(256, 192, stride=8, patch=2)
    frames = [keyframe(room_depth(c, grid), c, grid, frame=i) for i, c in enumerate(random_room_cameras(6, seed, grid))]
    store = PatchStore.empty()
    for frame in frames:
        store = store.insert(frame)
    views = random_room_cameras(4, seed + 10, grid)
    expected = retrieve(store, views, grid)

    def told(low: float, high: float) -> None:
        ranges = np.array([low, high])
        monkeypatch.setattr(surfaces, "_kept", surfaces._Kept())
        monkeypatch.setattr(_landing_kernels, "tile_ranges", lambda planes, out: out.__setitem__(..., ranges))

    told(-1e3, 1e3)
    assert_same(retrieve(store, views, grid), expected)
    told(1e3, -1e3)
    assert not bool(retrieve(store, views, grid).good.any()), "tiles without valid cells are skipped"


def test_the_range_of_a_tile_is_that_of_its_corners() -> None:
    group = random_store(2, 1).group(1)
    planes = surfaces._compute(group)
    h, w = group.keyframe.depth.shape
    assert bool((~group.valid).any())
    for i, j in np.ndindex(planes.ranges.shape[:2]):
        rows, columns = slice(8 * i + 1, min(8 * i + 8, h) + 1), slice(8 * j + 1, min(8 * j + 8, w) + 1)
        here, gx, gy = planes.cells[:, rows, columns][:, planes.cells[0, rows, columns] > 0]
        corners = np.stack([here + sx * gx / 2 + sy * gy / 2 for sx in (-1, 1) for sy in (-1, 1)])
        np.testing.assert_allclose(planes.ranges[i, j], [corners.min(), corners.max()], rtol=1e-15)


@given(st.integers(0, 10_000), st.floats(-1.0, 1.0))
def test_rows_of_more_than_one_run_are_read_to_their_end(seed: int, dx: float) -> None:
    """A wall, half of it unknown, seen from a little aside: every cell that is known is read at its own place."""
    depth, cam = 5.0, camera(WIDE)
    valid = torch.rand(WIDE.cells, generator=torch.Generator().manual_seed(seed)) > 0.5
    store = PatchStore.empty().insert(keyframe(depth, cam, WIDE, valid=valid))
    own = retrieve(store, cam, WIDE)
    assert torch.equal(own.good[0], valid)
    torch.testing.assert_close(own.source_uv[0][valid], WIDE.cell_centers(F64)[valid], rtol=0, atol=1e-9)
    whole = PatchStore.empty().insert(keyframe(depth, cam, WIDE))
    aside = retrieve(whole, camera(WIDE, at=(dx, 0, 0)), WIDE)
    shift = aside.source_uv[0] - WIDE.cell_centers(F64)
    assert float((shift[..., 0] - 100.0 * dx / depth)[aside.good[0]].abs().max()) < 1e-9
    assert float(aside.good.double().mean()) > 0.95


@given(st.integers(0, 10_000))
def test_how_well_a_cell_is_shown_is_the_formula(seed: int) -> None:
    """Against angles in float64, of cameras near and far, and of one that stands where the view does."""
    random = np.random.default_rng(seed)
    h, w, stride, theta = 6, 10, 8.0, np.deg2rad(RetrievalConfig().view_angle)
    focal, principal = np.array([70.0, 80.0]), np.array([39.0, 25.0])
    depth, rho = random.uniform(0.5, 20, (h, w)).astype(np.float32), random.uniform(0.2, 4, (h, w)).astype(np.float32)
    zmin = np.where(random.random((h, w)) < 0.2, np.inf, depth).astype(np.float32)
    v, u = (np.indices((h, w)) + 0.5) * stride
    rays = np.stack([(u - principal[0]) / focal[0], (v - principal[1]) / focal[1], np.ones((h, w))], -1)
    for center in (np.zeros(3), random.normal(size=3) * 10.0 ** random.uniform(-3, 1)):
        quality = np.empty(h * w, np.float32)
        flat = (zmin.ravel(), depth.ravel(), rho.ravel())
        _landing_kernels.rate(*flat, center, focal, principal, stride, theta, h, w, quality)
        seen = depth[..., None].astype(float) * rays - center
        sine = np.linalg.norm(np.cross(rays, seen), axis=-1)
        angle = np.arctan2(sine, (rays * seen).sum(-1))
        expected = 0.5 + 0.5 / ((1 + angle / theta) * np.maximum(rho, 1))
        expected = np.where(zmin < np.inf, expected, 0)
        np.testing.assert_allclose(quality.reshape(h, w), expected, rtol=2e-6, atol=2e-6)


def test_of_cells_that_land_equally_close_the_first_in_row_order_is_hit() -> None:
    """Seen from twice as far, two by two cells of a wall share one of the view, each a quarter off its centre."""
    source, view = camera(f=128.0), camera(f=128.0, at=(0, 0, -4.0))
    group = PatchStore.empty().insert(keyframe(4.0, source)).group(0)
    planes, (h, w) = surfaces._compute(group), GRID.cells
    maps = surfaces.PixelMaps.between(
        group.world_from_cam[None].numpy(), source.Ks.numpy(), view.viewmats[0].numpy(), view.Ks[0].numpy()
    )
    zmin, depth, rho, block = np.empty((4, h * w), np.float32)
    hit = np.empty(h * w, np.int32)
    _landing_kernels.splat_cells(
        *planes, maps.P[0], maps.Q[0, :, 3], 8.0, 0.01, 4.0, 0.1, h, w, zmin, hit, depth, rho, block
    )
    i, j = np.indices((h // 2, w // 2))
    np.testing.assert_array_equal(hit.reshape(h, w)[h // 4 : 3 * h // 4, w // 4 : 3 * w // 4], 2 * i * w + 2 * j)
    assert (zmin.reshape(h, w)[h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] == 8).all()
