"""Scenes whose mosaics and memory tokens are known in closed form, through `retrieve` and both read-outs.

A wall before a camera of f = 300, in tokens of 32 px, as in the table of exact values of the operators (3.5).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import random_rotations
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.se3 import axis_angle, invert_rigid, make_transform, translation
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.geometry.warps import forward_splat
from mosaicmem.io.store_file import save_store
from mosaicmem.memory import Keyframe, Mosaic, PatchStore, retrieve
from mosaicmem.memory.editing import duplicate, erase, everything, mirror, sphere, transform
from mosaicmem.models.conditioning import MemoryTokens, assemble, canvas

F64 = torch.float64
GRID = TokenGrid(320, 224, stride=16, patch=2)
(H, W), (M, N) = GRID.cells, GRID.tokens
K = torch.tensor([[[300.0, 0, 160], [0, 300, 112], [0, 0, 1]]], dtype=F64)


def camera(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> Cameras:
    R = axis_angle(torch.tensor([0.0, 1, 0], dtype=F64), torch.tensor(yaw, dtype=F64))
    T = make_transform(R, torch.zeros(3, dtype=F64)) @ translation(-torch.tensor([x, y, z], dtype=F64))
    return Cameras(T[None], K, GRID.width, GRID.height)


def wall(depth: float, frame: int = 0, *, valid: torch.Tensor | None = None, source: Cameras | None = None) -> Keyframe:
    """A keyframe that looks straight at a wall, with random latents."""
    latents = torch.randn(3, H, W, generator=torch.Generator().manual_seed(frame), dtype=F64)
    known = torch.ones(H, W, dtype=torch.bool) if valid is None else valid
    z = torch.full((H, W), depth, dtype=F64)
    return Keyframe(latents, z, known, torch.ones(H, W, dtype=F64), source or camera(), 16, 2, frame, float(frame))


def store_of(*keyframes: Keyframe) -> PatchStore:
    store = PatchStore.empty()
    for keyframe in keyframes:
        store = store.insert(keyframe)
    return store


def patches_of(keyframe: Keyframe) -> torch.Tensor:
    """`[m n c*4]` what a patch embedding reads of each token."""
    return torch.nn.functional.unfold(keyframe.latents[None], 2, stride=2)[0].T.unflatten(0, (M, N))


def carried(tokens: MemoryTokens, keyframe: Keyframe) -> torch.Tensor:
    """`[L 2]` the (row, column) of the stored patch that each token carries, found by its content."""
    match = (tokens.features[:, None] == patches_of(keyframe).flatten(0, 1)).all(-1)
    assert (match.sum(1) == 1).all(), "every token is exactly one stored patch"
    index = match.long().argmax(1)
    return torch.stack([index // N, index % N], -1)


def same_records(a: tuple[Mosaic, MemoryTokens], b: tuple[Mosaic, MemoryTokens], tolerance: float = 1e-9) -> None:
    for field in ("source", "owner", "good", "covered"):
        assert torch.equal(getattr(a[0], field), getattr(b[0], field)), field
    torch.testing.assert_close(a[0].source_uv, b[0].source_uv, rtol=0, atol=1e3 * tolerance)
    assert torch.equal(a[1].target, b[1].target) and torch.equal(a[1].latent, b[1].latent)
    torch.testing.assert_close(a[1].positions, b[1].positions, rtol=0, atol=tolerance)
    torch.testing.assert_close(a[1].features, b[1].features, rtol=0, atol=1e3 * tolerance)


def seen(store: PatchStore, view: Cameras) -> tuple[Mosaic, MemoryTokens]:
    mosaic = retrieve(store, view, GRID)
    return mosaic, assemble(store, mosaic, "mixture")


def test_G3_a_step_of_one_token_decreases_every_address_by_exactly_one() -> None:
    keyframe = wall(4.0)
    store = store_of(keyframe)
    mosaic = retrieve(store, camera(x=32 * 4 / 300), GRID)
    assert float(mosaic.coverage[0]) == pytest.approx((W - 2) / W, abs=1e-15)
    picture, good = canvas(store, mosaic)
    assert torch.equal(good[0], (torch.arange(W) < W - 2).expand(H, W))
    torch.testing.assert_close(picture[0, :, :, :-2], keyframe.latents[:, :, 2:], rtol=0, atol=1e-12)
    tokens = assemble(store, mosaic, "rope")
    assert len(tokens) == M * (N - 1)
    landed = carried(tokens, keyframe) - torch.tensor([0, 1])
    torch.testing.assert_close(tokens.positions[:, 1:], landed.double(), rtol=0, atol=1e-9)
    assert torch.equal(tokens.target, landed)


def test_G3_ten_pixels_are_0_3125_of_a_token() -> None:
    keyframe = wall(4.0)
    store = store_of(keyframe)
    tokens = assemble(store, retrieve(store, camera(x=10 * 4 / 300), GRID), "rope")
    moved = tokens.positions[:, 1:] - carried(tokens, keyframe)
    assert len(tokens) == M * N
    torch.testing.assert_close(moved, torch.tensor([0, -0.3125], dtype=F64).expand(M * N, 2), rtol=0, atol=1e-9)


def test_E2_patches_moved_by_half_a_unit_land_37_5_pixels_aside() -> None:
    keyframe = wall(4.0)
    store = transform(store_of(keyframe), everything, translation(torch.tensor([0.5, 0, 0], dtype=F64)))
    mosaic = retrieve(store, camera(), GRID)
    shift = GRID.cell_centers(F64) - mosaic.source_uv[0]
    good = mosaic.good[0]
    assert torch.equal(good, (torch.arange(W) * 16 + 8 >= 37.5).expand(H, W))
    torch.testing.assert_close(
        shift[good], torch.tensor([37.5, 0], dtype=F64).expand(int(good.sum()), 2), rtol=0, atol=1e-9
    )
    tokens = assemble(store, mosaic, "rope")
    moved = tokens.positions[:, 1:] - carried(tokens, keyframe)
    torch.testing.assert_close(moved, torch.tensor([0, 37.5 / 32], dtype=F64).expand_as(moved), rtol=0, atol=1e-9)
    assert len(tokens) == M * (N - 1), "the centre of the last column has left the image"


def test_G2_a_yaw_gives_identical_records_at_depth_4_and_17() -> None:
    near, far = (seen(store_of(wall(depth)), camera(yaw=0.1)) for depth in (4.0, 17.0))
    same_records(near, far)
    assert 0.5 < float(near[0].coverage[0]) < 1
    stepped = [retrieve(store_of(wall(depth)), camera(x=0.4), GRID) for depth in (4.0, 17.0)]
    assert not torch.equal(stepped[0].good, stepped[1].good), "control: after a step, depth matters"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_R2_two_units_forward_no_cell_of_the_far_wall_shows_through(order: tuple[int, int]) -> None:
    walls = (wall(4.0, 0), wall(20.0, 1))
    store = store_of(*(walls[i] for i in order))
    mosaic = retrieve(store, camera(z=2.0), GRID)
    near = order.index(0)
    assert bool((mosaic.source == near).all()) and float(mosaic.coverage[0]) == 1
    torch.testing.assert_close(mosaic.depth, torch.full_like(mosaic.depth, 2.0), rtol=0, atol=1e-9)
    rope, latent = assemble(store, mosaic, "rope"), assemble(store, mosaic, "latent")
    assert bool((rope.source == near).all() & (latent.source == near).all()) and len(latent) == M * N
    carried(rope, walls[0])
    alone = store_of(walls[0])
    torch.testing.assert_close(latent.features, seen_alone(alone, camera(z=2.0)).features, rtol=0, atol=1e-12)


def seen_alone(store: PatchStore, view: Cameras) -> MemoryTokens:
    return assemble(store, retrieve(store, view, GRID), "latent")


def test_R2_control_points_without_footprints_do_leak() -> None:
    intrinsics = K[0] / torch.tensor([16.0, 16, 1], dtype=F64)[:, None]  # of the latent grid
    view = translation(torch.tensor([0, 0, -2.0], dtype=F64))
    splat = forward_splat(
        torch.ones(1, H, W, dtype=F64),
        torch.full((H, W), 4.0, dtype=F64),
        K_src=intrinsics,
        K_tgt=intrinsics,
        tgt_from_src=view,
    )
    assert float(splat.covered.double().mean()) < 0.3


def test_a_world_7_3_times_as_large_gives_identical_records() -> None:
    def world(unit: float) -> tuple[Mosaic, MemoryTokens]:
        frames = [
            wall(4.0 * unit, 0),
            wall(5.5 * unit, 1, source=camera(x=0.7 * unit)),
            wall(3.0 * unit, 2, valid=(torch.arange(W) < 6).expand(H, W)),
        ]
        return seen(store_of(*frames), camera(x=0.31 * unit, y=-0.12 * unit, z=0.17 * unit, yaw=0.05))

    base = world(1.0)
    assert len(set(base[0].source[base[0].good].tolist())) >= 2
    for unit in (7.3, 1 / 7.3):
        same_records(base, world(unit))


def test_R1_on_tokens_that_a_nearer_surface_covers_a_farther_group_changes_nothing() -> None:
    """Several tokens, some covered wholly, some in part, some not: only the last two may change."""
    left = (torch.arange(W) < 11).expand(H, W)
    near, far, front = (
        wall(4.0, 0, valid=left),
        wall(10.0, 1),
        wall(2.0, 2, valid=(torch.arange(H) < 5)[:, None] & left),
    )
    view = camera(x=0.11, y=-0.07, z=0.3)
    alone, both = retrieve(store_of(near), view, GRID), retrieve(store_of(near, far), view, GRID)
    whole = alone.good.unflatten(2, (N, 2)).unflatten(1, (M, 2)).all(4).all(2)
    assert 20 < int(whole.sum()) < M * N - 10
    cells = whole.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for field in ("owner", "covered"):
        assert torch.equal(getattr(alone, field)[whole], getattr(both, field)[whole])
    for field in ("source", "good", "source_uv", "source_depth", "depth"):
        assert torch.equal(getattr(alone, field)[cells], getattr(both, field)[cells])
    assert bool((both.source == 1).any()), "the farther group does show elsewhere"
    a = assemble(store_of(near), alone, "latent")
    b = assemble(store_of(near, far), both, "latent")
    pick = lambda t: t[whole[0][t.target[:, 0], t.target[:, 1]]]  # noqa: E731
    assert torch.equal(pick(a).features, pick(b).features)
    three = retrieve(store_of(near, far, front), view, GRID)
    in_front = retrieve(store_of(front), view, GRID).good
    assert int(in_front.sum()) > 20
    assert bool((three.source[in_front] == 2).all()), "a nearer one wins"
    assert torch.equal(three.source[~in_front & cells], both.source[~in_front & cells])


def test_R7_the_patch_of_a_token_is_the_one_its_own_cells_were_read_from() -> None:
    """Both read-outs follow one owner, one place and one depth; cells of other groups have no say."""
    frames = [wall(4.0, 0), wall(4.2, 1, source=camera(x=0.9))]
    store = store_of(*frames)
    mosaic = retrieve(store, camera(x=0.45, z=0.2), GRID)
    tokens = assemble(store, mosaic, "rope")
    assert set(tokens.source.tolist()) == {0, 1}
    for i in range(len(tokens)):
        row, column = tokens.target[i].tolist()
        rows, columns = slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)
        g = int(tokens.source[i])
        own = mosaic.source[0, rows, columns] == g
        uv = mosaic.source_uv[0, rows, columns][own].mean(0)
        expected = patches_of(frames[g])[int(uv[1] // 32), int(uv[0] // 32)]
        assert torch.equal(tokens.features[i], expected)
        center = (uv // 32 + 0.5) * 32
        source = frames[g].camera
        points = source.unproject(center[None, None], frames[g].depth[:1, :1])
        landed, _, _ = mosaic.cameras.project(points)
        torch.testing.assert_close(
            tokens.positions[i, 1:], (landed[0, 0] / 32 - 0.5).flip(-1), rtol=0, atol=1e-9
        )  # fmt: skip


def test_E1_memory_and_view_moved_together_give_the_same_tokens() -> None:
    store, view = store_of(wall(4.0, 0), wall(5.5, 1, source=camera(x=0.7))), camera(x=0.31, z=0.17, yaw=0.05)
    rng = torch.Generator().manual_seed(3)
    G = make_transform(random_rotations(1, rng), torch.randn(1, 3, generator=rng, dtype=F64))[0]
    moved = transform(store, everything, G)
    before = seen(store, view)
    same_records(before, seen(moved, replace(view, viewmats=view.viewmats @ invert_rigid(G))))
    same_records(before, seen(transform(moved, everything, invert_rigid(G)), view))
    assert not torch.equal(seen(moved, view)[0].source, before[0].source), "control: memory alone does move"


def test_E3_a_duplicate_gives_two_consistent_images() -> None:
    keyframe = wall(4.0)
    step = torch.tensor([4 * 160 / 300, 0, 0], dtype=F64)  # half the image: five tokens
    part = sphere(torch.tensor([-1.5, 0.0, 4.0]), 0.5)
    only = erase(store_of(keyframe), lambda points: ~part(points))
    twice = duplicate(only, everything, translation(step))
    tokens = assemble(twice, retrieve(twice, camera(), GRID), "rope")
    first, second = (tokens[tokens.source == g] for g in (0, 1))
    assert len(first) == len(second) == only.num_patches > 2
    assert torch.equal(first.features, second.features)
    torch.testing.assert_close(
        second.positions - first.positions,
        torch.tensor([0, 0, 5.0], dtype=F64).expand(len(first), 3),
        rtol=0,
        atol=1e-9,
    )


def test_E3_undo_restores_the_memory_byte_for_byte(tmp_path: Path) -> None:
    store = store_of(wall(4.0, 0), wall(5.5, 1, source=camera(x=0.7)))
    save_store(store, tmp_path / "before.mosaic")
    part = sphere(torch.tensor([0.0, 0.0, 4.0]), 1.0)
    edited = [
        erase(store, part),
        transform(store, part, translation(torch.tensor([0.2, 0, 0], dtype=F64))),
        duplicate(store, part, translation(torch.tensor([0.2, 0, 0], dtype=F64))),
        mirror(store, torch.tensor([1.0, 0, 0]), torch.zeros(3)),
    ]
    save_store(store, tmp_path / "after.mosaic")
    before = (tmp_path / "before.mosaic").read_bytes()
    assert (tmp_path / "after.mosaic").read_bytes() == before
    for i, other in enumerate(edited):
        save_store(other, tmp_path / f"{i}.mosaic")
        assert (tmp_path / f"{i}.mosaic").read_bytes() != before, "control: an edit is another memory"


def test_T2_the_mixture_adds_warped_rope_tokens_to_all_of_warped_latent_where_a_cell_is_a_hole() -> None:
    """Token for token, in the order of targets: `latent` alone, and of `rope` alone where not all four cells are
    shown."""
    known = torch.ones(2, H, W, dtype=torch.bool)
    known[0, ::3, ::5] = known[1, :, : W // 2] = False
    store = store_of(wall(4.0, 0, valid=known[0]), wall(5.5, 1, valid=known[1], source=camera(x=0.7)))
    mosaic = retrieve(store, camera(x=0.31, z=0.17), GRID)
    mixed, latent, rope = (assemble(store, mosaic, a, first_latent=1) for a in ("mixture", "latent", "rope"))
    expected = [(*t, 0, i) for i, t in enumerate(latent.target.tolist())]
    holes = mosaic.holes[0]
    expected += [
        (r, c, 1, i)
        for i, (r, c) in enumerate(rope.target.tolist())
        if holes[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].any()
    ]
    assert len(latent) < len(expected) == len(mixed) < len(latent) + len(rope)
    for i, (*target, kind, j) in enumerate(sorted(expected)):
        alone = rope if kind else latent
        assert mixed.target[i].tolist() == target and bool(mixed.warped_latent[i]) == (kind == 0)
        for name in ("features", "positions", "latent", "source"):
            assert torch.equal(getattr(mixed, name)[i], getattr(alone, name)[j]), name
