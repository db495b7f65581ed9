"""Golden numbers of scene circle-32 (`helpers.circle32`, `helpers.bowl_depth`): closed forms and counts that several
rooms must agree on. Those of one room alone stand in that room's tests; docs/features.md lists them all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.helpers import bowl_depth, circle32

from mosaicmem import PatchStore, PixelShuffleVAE, RetrievalConfig, TokenGrid, lift, retrieve, rollout, rope_cos_sin
from mosaicmem.apps.cli.export_ply import store_points
from mosaicmem.generation.backend import Models
from mosaicmem.generation.state import start
from mosaicmem.models.synthetic import Compositor
from mosaicmem.ops.rope import apply_rope

CAMERAS = circle32(torch.float64)
GRID = TokenGrid(64, 64, stride=8, patch=2, temporal=1)


def circle_store(grid: TokenGrid = GRID, frames: int = 32) -> PatchStore:
    store, latents = PatchStore.empty(), torch.zeros(3 * grid.stride**2, *grid.cells)
    for i in range(frames):
        store = store.insert(lift(latents, bowl_depth(), CAMERAS[i], grid, frame=i, time=i / 30))
    return store


def tile_centres() -> torch.Tensor:
    """`[32 16 3]` the centres of all tiles, lifted with the bowl's own formula at the tile's centre."""
    at = torch.tensor([8.0, 24, 40, 56], dtype=torch.float64)
    uv = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).reshape(16, 2)
    depth = 5 + ((uv - 32) / 64).norm(dim=-1)
    return CAMERAS.unproject(uv.expand(32, -1, -1), depth.expand(32, -1))


def test_g06_a_pose_is_a_frame() -> None:
    vae = PixelShuffleVAE(8)
    models = Models(vae, Compositor())
    state = start(models, torch.zeros(3, 64, 64), CAMERAS[0], bowl_depth())
    events = [event for _, event in rollout(models, state, CAMERAS, window=16)]
    assert sum(len(event.frames) for event in events) == 32
    assert sum(event.frames_u8.size for event in events) == 393_216


def test_g07_g08_what_a_walk_leaves_in_memory() -> None:
    store = circle_store()
    assert (len(store), store.num_patches) == (32, 512)
    assert sum(int(group.valid.sum()) for group in store) == 2048
    pixels = circle_store(TokenGrid(64, 64, stride=1, patch=2, temporal=1))
    assert sum(int(group.valid.sum()) for group in pixels) == 131_072
    assert TokenGrid(256, 256, stride=8, patch=2).tokens_per_latent == 256


def test_g12_g13_where_the_tiles_lie() -> None:
    points = tile_centres().reshape(-1, 3)
    box = points.amax(0) - points.amin(0)
    assert box.tolist() == pytest.approx([4.467009, 4.067201, 4.467009], abs=1e-4)
    radii, counts = points.norm(dim=-1).round(decimals=6).unique(return_counts=True)
    assert radii.tolist() == pytest.approx([0.918431, 2.153153, 2.964445]) and counts.tolist() == [128, 256, 128]
    # what the store keeps of a tile is the lower median of its cells, at most half a cell's slope from the centre
    assert (circle_store().centers.double() - points).norm(dim=-1).max() < 0.1


def test_g15_tile_centres_in_each_frustum() -> None:
    points = tile_centres().reshape(1, -1, 3).expand(32, -1, -1)
    _, depth, inside = CAMERAS.project(points)
    assert (inside & (depth > 0.1) & (depth < 100)).sum(1).tolist() == [460] * 32


def test_g16_distinct_voxels_in_a_stable_order() -> None:
    store = circle_store(TokenGrid(64, 64, stride=1, patch=2, temporal=1))
    points, colours = store_points(store, PixelShuffleVAE(1), 0.05)
    assert len(points) == len(colours) == pytest.approx(111_320, abs=20)
    again, _ = store_points(store, PixelShuffleVAE(1), 0.05)
    assert (points == again).all(), "T12, R05: the order of points is the same in every run"


def test_g17_a_keyframe_covers_its_own_view() -> None:
    for i in (0, 5, 31):
        store = PatchStore.empty().insert(circle_store().group(i).keyframe)
        assert float(retrieve(store, CAMERAS[i], GRID).coverage) == 1


def test_g20_coverage_counts_cells() -> None:
    mosaic = retrieve(circle_store(frames=1), CAMERAS[0], GRID)
    good = torch.zeros(1, 8, 8, dtype=torch.bool)
    good[..., 3] = True  # one cell of eight in every row
    assert float(replace(mosaic, good=good).coverage) == 0.125


def test_g32_rotation_by_position() -> None:
    x = torch.randn(1, 1, 3, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    positions = torch.tensor([[[0.0, 0, 0], [0, 0, 2.5], [7, 0, 0]]], dtype=torch.float64)
    cos, sin = rope_cos_sin(positions, 24)
    turned = apply_rope(x, cos, sin)
    assert torch.equal(turned[..., 0, :], x[..., 0, :])
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6)
    # bands t | y | x of 8 channels; pair i of a band turns by position * 10000^(-2 i / 8)
    before, after = (torch.view_as_complex(t[0, 0, 1, 16:].reshape(4, 2)) for t in (x, turned))
    angles = 2.5 * 10000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    assert torch.allclose(after, before * torch.polar(torch.ones(4, dtype=torch.float64), angles))


def test_g33_a_budget_of_one_token_shows_one() -> None:
    store = circle_store(frames=4)
    mosaic = retrieve(store, CAMERAS[:2], GRID, RetrievalConfig(max_tokens=1))
    assert mosaic.covered.flatten(1).sum(1).tolist() == [1, 1]
    twice = retrieve(store, CAMERAS[:2], GRID, RetrievalConfig(max_tokens=1))
    assert torch.equal(mosaic.source, twice.source) and torch.equal(mosaic.owner, twice.owner)
    nothing = retrieve(PatchStore.empty(), CAMERAS[:2], GRID)
    assert float(nothing.coverage.max()) == 0 and nothing.picked == ((), ())
