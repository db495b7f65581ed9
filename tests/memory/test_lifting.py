"""Depth hygiene: unknown stays unknown, edges do not fly, slanted surfaces survive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.scenes import camera

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Keyframe, LiftingConfig, lift

GRID = TokenGrid(64, 32, stride=4, patch=2)


def lifted(depth: torch.Tensor, config: LiftingConfig | None = None, **kw: object) -> Keyframe:
    return lift(torch.zeros(1, *GRID.cells), depth, camera(GRID), GRID, config=config, **kw)  # pyright: ignore[reportArgumentType]


def judged_one_by_one(
    depth: np.ndarray, config: LiftingConfig, confidence: np.ndarray | None, exclude: np.ndarray | None
) -> np.ndarray:
    """The slow twin: which cells may be read, pixel by pixel from what `LiftingConfig` says of each test."""
    H, W = depth.shape
    known = np.isfinite(depth) & (depth > 0)
    clean = np.where(known, depth, np.float32(0))
    least = config.near * np.sort(clean[known])[(known.sum() - 1) // 2] if known.any() else np.float32(0)
    sure = -np.inf
    if confidence is not None and known.any():
        sure = np.quantile(confidence[known], config.confidence_percentile / 100)

    def near_pixel(y: int, x: int) -> np.float32:
        return clean[min(max(y, 0), H - 1), min(max(x, 0), W - 1)]

    def flies(y: int, x: int, dy: int, dx: int) -> bool:
        here, a, b = near_pixel(y, x), near_pixel(y + dy, x + dx), near_pixel(y - dy, x - dx)
        low, high = min(a, b), max(a, b)
        if low == 0 or here == 0 or not (here > config.flying_ratio * low and here * config.flying_ratio < high):
            return False
        return bool(abs(1 / here - (1 / a + 1 / b) / 2) >= 0.1 / here)

    valid = np.zeros(GRID.cells, bool)
    for i, j in np.ndindex(*GRID.cells):
        y, x, far = GRID.stride * i + GRID.stride // 2, GRID.stride * j + GRID.stride // 2, config.edge_spacing
        keep = known[y, x] and clean[y, x] > least
        keep &= not (config.flying_ratio and (flies(y, x, 0, far) or flies(y, x, far, 0)))
        around = [near_pixel(y + u, x + v) for u in (-far, 0, far) for v in (-far, 0, far)]
        some = [z for z in around if z > 0]
        keep &= not (config.edge_ratio and some and max(some) > config.edge_ratio * min(some))
        keep &= exclude is None or not exclude[y, x]
        valid[i, j] = keep and (confidence is None or confidence[y, x] >= sure)
    return valid


@given(
    st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.0, 1.05]), st.sampled_from([0.0, 1.2]), st.booleans()
)
def test_cells_are_judged_as_one_by_one(seed: int, spacing: int, flying: float, edge: float, all_given: bool) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0.5, 6, (6, 12)).repeat(6, 0).repeat(6, 1)[2:34, 3:67]  # edges off the cells' centres
    depth = (blocks * (1 + 0.02 * rng.standard_normal(blocks.shape))).astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] = rng.choice([0, -1, np.nan, np.inf])
    confidence = rng.random(depth.shape).astype(np.float32) if all_given else None
    exclude = rng.random(depth.shape) < 0.2 if all_given else None
    config = LiftingConfig(0.4, flying, edge, spacing, 30.0)
    told = {} if not all_given else {"confidence": torch.from_numpy(confidence), "exclude": torch.from_numpy(exclude)}
    keyframe = lifted(torch.from_numpy(depth), config, **told)
    assert np.array_equal(keyframe.valid.numpy(), judged_one_by_one(depth, config, confidence, exclude))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), -float("inf")])
def test_unknown_depth_is_unknown(bad: float) -> None:
    depth = torch.full((32, 64), 3.0)
    depth[:, :20] = bad
    keyframe = lifted(depth)
    assert not bool(keyframe.valid[:, :5].any()) and bool(keyframe.valid[:, 5:].all())
    assert bool((keyframe.depth[:, :5] == 0).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_confidence_that_is_no_number_counts_nothing(bad: float) -> None:
    depth, sure = torch.full((32, 64), 3.0), torch.ones(32, 64)
    sure[:, :20] = bad
    assert bool(lifted(depth, confidence=sure).valid.all()), "by itself it leaves nothing out"
    keyframe = lifted(depth, LiftingConfig(confidence_percentile=40.0), confidence=sure)
    assert bool((keyframe.confidence[:, :5] == 0).all()) and bool((keyframe.confidence[:, 5:] == 1).all())
    assert not bool(keyframe.valid[:, :5].any()) and bool(keyframe.valid[:, 5:].all())


def test_depth_of_a_cell_is_the_pixel_under_its_centre_never_an_average() -> None:
    depth = torch.arange(32 * 64, dtype=torch.float32).reshape(32, 64) + 1
    keyframe = lifted(depth, LiftingConfig(near=0, flying_ratio=0))
    assert float(keyframe.depth[2, 3]) == float(depth[2 * 4 + 2, 3 * 4 + 2])
    assert set(keyframe.depth.flatten().tolist()) <= set(depth.flatten().tolist())


@given(st.floats(1, 3), st.floats(1.3, 5), st.floats(0.2, 0.8), st.integers(8, 56))
def test_edges_do_not_fly(near: float, ratio: float, blend: float, column: int) -> None:
    """A sensor blends front and back along an edge; the blend is a surface that exists nowhere."""
    depth = torch.full((32, 64), near)
    depth[:, column:] = near * ratio
    depth[:, column] = near * (1 + blend * (ratio - 1))
    grid = TokenGrid(64, 32, stride=1, patch=2)
    keyframe = lift(torch.zeros(1, 32, 64), depth, camera(grid), grid)
    away_from_both = near * 1.05 < float(depth[0, column]) < near * ratio / 1.05
    inverse, mean = 1 / float(depth[0, column]), (1 + 1 / ratio) / near / 2
    even = abs(inverse - mean) < 0.1 * inverse  # indistinguishable from a plane seen at a slant
    if away_from_both and not even:
        assert not bool(keyframe.valid[:, column].any())
        off = lift(torch.zeros(1, 32, 64), depth, camera(grid), grid, config=LiftingConfig(flying_ratio=0))
        assert bool(off.valid[:, column].all()), "negative control: without the test the blend is kept"
    assert bool(keyframe.valid[:, : column - 1].all()) and bool(keyframe.valid[:, column + 2 :].all())


@given(st.floats(-1.2, 1.2), st.floats(-0.8, 0.8))
def test_slanted_planes_are_kept_whole(tilt_x: float, tilt_y: float) -> None:
    uv = pixel_centers(64, 32)
    inverse = 0.5 * (1 + tilt_x * (uv[..., 0] - 32) / 100 + tilt_y * (uv[..., 1] - 16) / 100)
    assert bool(lifted(1 / inverse).valid.all())


def test_strict_edges_drop_both_sides() -> None:
    depth = torch.full((32, 64), 2.0)
    depth[:, 32:] = 4.0
    grid = TokenGrid(64, 32, stride=1, patch=2)
    strict = lift(torch.zeros(1, 32, 64), depth, camera(grid), grid, config=LiftingConfig(edge_ratio=1.3))
    assert not bool(strict.valid[:, 31:33].any()) and bool(strict.valid[:, :31].all() & strict.valid[:, 33:].all())
    wide = lift(torch.zeros(1, 32, 64), depth, camera(grid), grid, config=LiftingConfig(edge_ratio=1.3, edge_spacing=6))
    assert not bool(wide.valid[:, 26:38].any()) and bool(wide.valid[:, :26].all())


def test_near_confidence_and_exclusion() -> None:
    depth = torch.full((32, 64), 3.0)
    depth[:4] = 0.01
    assert not bool(lifted(depth).valid[0].any())
    assert bool(lifted(depth, LiftingConfig(near=0, flying_ratio=0)).valid[0].all())
    confidence = torch.linspace(0, 1, 64).expand(32, 64)
    assert bool(lifted(torch.full((32, 64), 3.0), confidence=confidence).valid.all())
    for percentile in (10, 50):
        config = LiftingConfig(confidence_percentile=percentile)
        kept = lifted(torch.full((32, 64), 3.0), config, confidence=confidence).valid
        assert not bool(kept[:, 0].any()) and bool(kept[:, -1].all())
        assert abs(float(kept.double().mean()) - (1 - percentile / 100)) < 0.1
    exclude = torch.zeros(32, 64, dtype=torch.bool)
    exclude[:, :32] = True
    assert not bool(lifted(torch.full((32, 64), 3.0), exclude=exclude).valid[:, :8].any())


def test_errors_say_what_came_and_what_was_expected() -> None:
    with pytest.raises(GeometryError, match="depth is 10x32, expected the grid's 64x32"):
        lifted(torch.ones(32, 10))
    with pytest.raises(ConfigError, match=r"near = -1.*edge_spacing = 0"):
        LiftingConfig(near=-1, edge_spacing=0)


def test_a_picture_of_more_than_sixteen_million_pixels_has_a_least_believed_part() -> None:
    grid = TokenGrid(4224, 4096, stride=64, patch=2)
    depth = torch.full((grid.height, grid.width), 3.0)
    sure = torch.ones_like(depth)
    sure[:1024] = 0  # a quarter
    config = LiftingConfig(flying_ratio=0, edge_ratio=0, confidence_percentile=30.0)
    keyframe = lift(torch.zeros(1, *grid.cells), depth, camera(grid), grid, confidence=sure, config=config)
    assert not bool(keyframe.valid[:16].any()) and bool(keyframe.valid[16:].all())
