"""The laws of retrieval, by the ids of the method: identity, parallax, occlusion, gauge, monotone coverage."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import random_rotations
from tests.memory.scenes import F64, GRID, camera, keyframe, random_room_cameras, room_depth, turned

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.se3 import make_transform
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Group, Keyframe, Mosaic, PatchStore, Reason, RetrievalConfig, retrieve

H, W = GRID.cells


def store_of(*keyframes: Keyframe) -> PatchStore:
    store = PatchStore.empty()
    for k in keyframes:
        store = store.insert(k)
    return store


def room(n: int, seed: int = 0) -> tuple[PatchStore, torch.Tensor]:
    cameras = random_room_cameras(n, seed)
    return store_of(*(keyframe(room_depth(c), c, frame=i) for i, c in enumerate(cameras))), cameras.viewmats


def same(a: Mosaic, b: Mosaic, tolerance: float = 0.0) -> None:
    assert torch.equal(a.source, b.source)
    assert torch.equal(a.owner, b.owner)
    assert torch.equal(a.covered, b.covered)
    torch.testing.assert_close(a.source_uv, b.source_uv, rtol=0, atol=tolerance)


@given(st.integers(0, 10_000))
def test_G1_own_view_reads_every_cell_at_its_own_place(seed: int) -> None:
    cam = random_room_cameras(1, seed)
    valid = torch.rand(H, W, generator=torch.Generator().manual_seed(seed)) > 0.3
    mosaic = retrieve(store_of(keyframe(room_depth(cam), cam, valid=valid)), cam, GRID)
    assert torch.equal(mosaic.good[0], valid)
    torch.testing.assert_close(mosaic.source_uv[0][valid], GRID.cell_centers(F64)[valid], rtol=0, atol=1e-9)
    enough = valid.reshape(H // 2, 2, W // 2, 2).sum((1, 3)) >= 2
    assert torch.equal(mosaic.covered[0], enough)
    assert float(mosaic.token_coverage[0]) == float(enough.double().mean())


def test_G2_pure_rotation_does_not_depend_on_depth() -> None:
    near, far = (retrieve(store_of(keyframe(d, camera())), turned(0.1), GRID) for d in (4.0, 17.0))
    same(near, far, 1e-9)
    assert 0.5 < float(near.coverage[0]) < 1


def test_G3_a_step_sideways_moves_by_one_token_and_uncovers_one_column() -> None:
    depth, f = 4.0, 100.0
    step = GRID.token_stride * depth / f
    mosaic = retrieve(store_of(keyframe(depth, camera())), camera(at=(step, 0, 0)), GRID)
    shift = mosaic.source_uv[0] - GRID.cell_centers(F64)
    assert float((shift[..., 0] - GRID.token_stride)[mosaic.good[0]].abs().max()) < 1e-9
    expected = torch.ones(H // 2, W // 2, dtype=torch.bool)
    expected[:, -1] = False
    assert torch.equal(mosaic.covered[0], expected)


@pytest.mark.parametrize(("step", "expected"), [(0.5, 0.875), (1.0, 0.75)])
def test_G19_coverage_after_a_sidestep_before_a_wall(step: float, expected: float) -> None:
    grid = TokenGrid(64, 64, stride=8, patch=1)
    mosaic = retrieve(store_of(keyframe(4.0, camera(grid, f=64.0), grid)), camera(grid, f=64.0, at=(step, 0, 0)), grid)
    assert float(mosaic.coverage[0]) == expected


def test_G4_nothing_behind_the_camera_or_outside_is_clamped_into_view() -> None:
    store = store_of(keyframe(4.0, camera()))
    for view in (camera(at=(0, 0, 5)), camera(at=(100, 0, 0)), turned(3.1)):
        mosaic = retrieve(store, view, GRID)
        assert not bool(mosaic.good.any())
        assert mosaic.reasons(0)[Reason.outside] == 1


@given(st.integers(0, 10_000))
def test_G5_world_gauge_and_unit_do_not_matter(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    cameras = random_room_cameras(4, seed)
    G = make_transform(random_rotations(1, g), 3 * torch.randn(1, 3, generator=g, dtype=F64))[0]
    before = store_of(*(keyframe(room_depth(c), c, frame=i) for i, c in enumerate(cameras[:3])))
    moved = dataclasses.replace(cameras, viewmats=cameras.viewmats @ G)
    after = store_of(*(keyframe(room_depth(c), m, frame=i) for i, (c, m) in enumerate(zip(cameras[:3], moved[:3]))))
    same(retrieve(before, cameras[3], GRID), retrieve(after, moved[3], GRID), 1e-6)
    big = cameras.scaled(7.3)
    scaled = store_of(
        *(keyframe(7.3 * room_depth(c), b, frame=i) for i, (c, b) in enumerate(zip(cameras[:3], big[:3])))
    )
    same(retrieve(before, cameras[3], GRID), retrieve(scaled, big[3], GRID), 1e-6)


def test_R1_what_is_hidden_changes_nothing_and_what_is_nearer_wins() -> None:
    wall, behind, front = keyframe(4.0, camera()), keyframe(10.0, camera(), frame=1), keyframe(2.0, camera(), frame=2)
    alone = retrieve(store_of(wall), camera(), GRID)
    with_hidden = retrieve(store_of(wall, behind), camera(), GRID)
    same(alone, with_hidden)
    assert with_hidden.reasons(0)[Reason.hidden] == 1
    assert bool((retrieve(store_of(wall, behind, front), camera(), GRID).source == 2).all())


def test_G30_a_wall_hides_the_object_behind_it_wholly() -> None:
    store = store_of(keyframe(10.0, camera()), keyframe(2.0, camera(), frame=1))
    assert bool((retrieve(store, camera(), GRID).source == 1).all())


def pillar(at: float, frame: int) -> Keyframe:
    """A wall 6 m away with a pillar 1 m wide at 3 m before it, from `at` metres aside."""
    cam = camera(at=(at, 0, 0))
    slope = (GRID.cell_centers(F64)[..., 0] - float(cam.Ks[0, 0, 2])) / float(cam.Ks[0, 0, 0])
    return keyframe(torch.where((at + 3 * slope).abs() <= 0.5, 3.0, 6.0), cam, frame=frame)


@pytest.mark.parametrize("own", [0, 2, 4])
def test_R8_who_stood_here_is_read_whatever_others_show_in_front(own: int) -> None:
    """Footprints of the pillar, seen from aside, reach a cell too far; whoever saw the wall from here knows better."""
    aside = [-0.13, -0.11, 0.11, 0.13]  # by which a cell of the pillar ends just before its edge
    places = [*aside[:own], 0.0, *aside[own:]]
    store = store_of(*(pillar(at, frame) for frame, at in enumerate(places)))
    for edge in (None, 1):  # all of them show the pillar
        mosaic = retrieve(store, camera(), GRID, RetrievalConfig(edge=edge))
        assert bool((mosaic.source == own).all())
        torch.testing.assert_close(mosaic.source_uv[0], GRID.cell_centers(F64), rtol=0, atol=1e-9)
    assert not bool((retrieve(store, camera(), GRID, RetrievalConfig(look_past=0)).source == own).all())


def test_R8_what_an_edit_put_in_front_hides_those_who_saw_the_place_empty() -> None:
    wall, near = keyframe(9.0, camera()), replace(keyframe(2.0, camera(at=(0.2, 0, 0)), frame=1), origin="generated")
    seen = retrieve(store_of(wall, near), camera(), GRID)
    assert bool((seen.source == 0).all()), "it is a guess, and the wall was seen from here"
    placed = near.camera.c2w[0].clone()
    placed[2, 3] += 0.5
    edited = PatchStore.from_groups([*store_of(wall), Group(near, placed, None, 1)])
    shown = retrieve(edited, camera(), GRID)
    assert bool((shown.source[0, 1:-1, 3:-1] == 1).all()), "wherever it lands"


def ball(at: float, frame: int, *cells: tuple[int, int]) -> Keyframe:
    """A wall 6 m away, from `at` metres aside, and before it at 3 m what fills some cells."""
    depth = torch.full((H, W), 6.0, dtype=F64)
    for i, j in cells:
        depth[i, j] = 3.0
    return keyframe(depth, camera(at=(at, 0, 0)), frame=frame)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_R8_what_moves_stays_wherever_it_was_seen(order: tuple[int, ...]) -> None:
    """A ball seen from three places at three heights: who stood here saw it elsewhere, not past an edge of it."""
    heights = (3, 4, 5)
    frames = [ball(0.05 * k, k, (heights[k], W // 2), (heights[k], W // 2 + 1)) for k in order]
    mosaic = retrieve(store_of(*frames), camera(), GRID, RetrievalConfig(edge=1))
    shown = (mosaic.depth[0] - 3).abs() < 0.01
    assert [bool(shown[i, W // 2]) for i in heights] == [True] * 3
    unasked = retrieve(store_of(*frames), camera(), GRID, RetrievalConfig(edge=None))
    assert int(((unasked.depth[0] - 3).abs() < 0.01)[list(heights), W // 2].sum()) == 1, "all but one are looked past"
    guessed = [replace(k, origin="generated") for k in frames]
    guess = retrieve(store_of(*guessed), camera(), GRID, RetrievalConfig(edge=1))
    same(guess, unasked)  # a guess about a place is no other time


def test_R8_what_moves_hides_even_where_nobody_is_asked_to_show_it() -> None:
    """One source, the wall's, that saw another time: where another frame saw the ball is a hole."""
    i, j = H // 2, W // 2
    store = store_of(keyframe(6.0, camera()), ball(0.03, 1, (i, j)))
    config = RetrievalConfig(max_sources=1)
    asked, unasked = (retrieve(store, camera(), GRID, replace(config, edge=e)).source[0] for e in (1, None))
    assert int(asked[i, j]) == -1 and bool((unasked == 0).all())
    assert int((asked == -1).sum()) <= 4, "and nowhere but beside it"


@pytest.mark.parametrize("beside", [0, 1, 2, 3])
def test_R8_an_edge_is_seen_within_so_many_cells(beside: int) -> None:
    """A thing ends `beside` cells farther on than another saw it end: its edge up to `edge`, else another time."""
    i, j = H // 2, W // 2
    here, aside = ball(0.0, 0, *((i, c) for c in range(j + beside, W))), ball(0.02, 1, *((i, c) for c in range(j, W)))
    for edge in range(4):
        mosaic = retrieve(store_of(here, aside), camera(), GRID, RetrievalConfig(edge=edge))
        at = 3.0 if beside == 0 or beside > edge else 6.0
        assert float(mosaic.depth[0, i, j]) == pytest.approx(at)


def test_R2_a_magnified_surface_does_not_leak_the_background() -> None:
    near, far = keyframe(4.0, camera(), frame=0), keyframe(20.0, camera(), frame=1)
    mosaic = retrieve(store_of(near, far), camera(at=(0, 0, 2)), GRID)
    assert bool((mosaic.source == 0).all())
    assert float(mosaic.coverage[0]) == 1


def slanted_wall(cam: Cameras) -> torch.Tensor:
    """z-depth at cell centres of the wall z = 4 + 0.9 x + 0.4 y, for a camera that looks along +z."""
    u, v = ((GRID.cell_centers(F64) - cam.Ks[0, :2, 2]) / cam.Ks[0].diagonal()[:2]).unbind(-1)
    x, y, z = cam.centers[0]
    return (4 + 0.9 * x + 0.4 * y - z) / (1 - 0.9 * u - 0.4 * v)


@pytest.mark.parametrize("aside", [-0.8, 0.1, 0.8])
def test_R5_a_flat_surface_is_met_in_one_step(aside: float) -> None:
    """A wall at a slant, seen from aside: depths of the view's own rays, not of the cells that land."""
    cam, view = camera(), camera(at=(aside, -0.2, 0.3))
    store, wall = store_of(keyframe(slanted_wall(cam), cam)), slanted_wall(view)
    mosaic = retrieve(store, view, GRID, RetrievalConfig(refine_steps=1))
    good = mosaic.good[0]
    assert float(good.double().mean()) > 0.5
    torch.testing.assert_close(mosaic.depth[0][good], wall[good], rtol=1e-6, atol=0)
    cells = retrieve(store, view, GRID, RetrievalConfig(refine_steps=0, tau_surface=0.5))
    off = (cells.depth[0] / wall - 1).abs()[cells.good[0]]
    assert float(off.max()) > 1e-3, "control: the cells that land are not at the depth of the rays"


@pytest.mark.parametrize("along", [-1.5, 0.0, 1.5])
@pytest.mark.parametrize("up", [-0.5, 0.5])
@pytest.mark.parametrize("behind", [-1.5, -0.15, 0.15, 1.5])
def test_R5_a_wall_is_not_seen_from_behind(behind: float, along: float, up: float) -> None:
    """A wall at a slant, remembered from its front: what its back looks like nobody knows."""
    normal, middle = torch.tensor([-0.9, -0.4, 1.0], dtype=F64), torch.tensor([[0.0, 0.0, 4.0]], dtype=F64)
    eye = middle + behind * normal / normal.norm() + torch.tensor([along, up, 0.9 * along + 0.4 * up], dtype=F64)
    pose = look_at(eye, middle, torch.tensor([[0.0, -1, 0]], dtype=F64))
    store = store_of(keyframe(slanted_wall(camera()), camera()))
    view = Cameras(pose, camera().Ks, GRID.width, GRID.height)
    mosaic = retrieve(store, view, GRID, RetrievalConfig(rho_max=500))
    assert bool(mosaic.good.any()) == (behind < 0)
    assert mosaic.decisions[0, 0] == (Reason.kept if behind < 0 else Reason.behind)


@given(st.integers(0, 1000))
def test_R3_neither_order_nor_a_duplicate_changes_the_content(seed: int) -> None:
    cameras = random_room_cameras(5, seed)
    frames = [keyframe(room_depth(c), c, frame=i) for i, c in enumerate(cameras[:4])]
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
    a = retrieve(store_of(*frames), cameras[4], GRID)
    b = retrieve(store_of(*(frames[i] for i in order)), cameras[4], GRID)
    c = retrieve(store_of(*frames, frames[0]), cameras[4], GRID)
    renamed = torch.tensor([*order, -1])[b.source]
    assert torch.equal(a.source, renamed)
    same(a, c)
    assert torch.equal(a.source_uv, b.source_uv)


def test_R4_coverage_never_falls_with_more_sources_and_empty_memory_shows_nothing() -> None:
    store, _ = room(10, seed=3)
    view = random_room_cameras(1, 99)
    coverage = [float(retrieve(store, view, GRID, RetrievalConfig(max_sources=k)).coverage[0]) for k in range(1, 9)]
    assert coverage == sorted(coverage)
    assert coverage[-1] > coverage[0]
    empty = retrieve(PatchStore.empty(), view, GRID)
    assert not bool(empty.good.any()) and empty.picked == ((),)


def test_R6_the_start_of_a_walk_is_still_there_on_return() -> None:
    store, viewmats = room(40, seed=5)
    first = dataclasses.replace(random_room_cameras(1, 0), viewmats=viewmats[:1])
    mosaic = retrieve(store, first, GRID)
    assert 0 in mosaic.picked[0]
    assert float(mosaic.coverage[0]) == 1


def test_G18_every_stored_view_is_covered_within_a_budget_of_64_patches() -> None:
    grid = TokenGrid(64, 64, stride=8, patch=2)
    from tests.helpers import bowl_depth, circle32

    from mosaicmem.memory import lift

    cameras = circle32(F64)
    store = PatchStore.empty()
    for i in range(32):
        store = store.insert(lift(torch.zeros(1, 8, 8), bowl_depth(dtype=F64), cameras[i], grid, frame=i, time=i / 30))
    coverage = retrieve(store, cameras, grid, RetrievalConfig(max_tokens=64, pool=32)).token_coverage
    assert float(coverage.min()) >= 0.99


def test_one_view_and_many_views_agree() -> None:
    store, _ = room(6, seed=1)
    views = random_room_cameras(3, 50)
    together = retrieve(store, views, GRID)
    for i in range(3):
        same(together[i], retrieve(store, views[i], GRID))


def test_every_candidate_has_exactly_one_reason() -> None:
    store, _ = room(12, seed=2)
    config = RetrievalConfig(max_sources=3, pool=6)
    mosaic = retrieve(store, random_room_cameras(4, 60), GRID, config, context=[store.group(5).uid])
    for view in range(4):
        reasons = mosaic.reasons(view)
        assert sum(reasons.values()) == len(store)
        assert reasons[Reason.context] == 1
        assert reasons[Reason.kept] == len(mosaic.picked[view]) <= 3
        assert 5 not in mosaic.picked[view]


def test_reasons_name_what_is_true() -> None:
    blind = keyframe(4.0, camera(), frame=3, valid=torch.zeros(H, W, dtype=torch.bool))
    store = store_of(
        keyframe(4.0, camera()),
        keyframe(4.0, camera(), frame=1),
        keyframe(9.0, camera(), frame=2),
        blind,
        keyframe(4.0, turned(3.0), frame=4),
        keyframe(4.0, camera(at=(0, 0, -3.2)), frame=5),
    )
    decisions = retrieve(store, camera(at=(0, 0, 0)), GRID).decisions[0].tolist()
    expected = [Reason.kept, Reason.duplicate, Reason.hidden, Reason.invalid, Reason.outside]
    assert decisions[:5] == expected
    assert decisions[5] == Reason.coarse


def test_half_life_ranks_but_never_removes_the_only_witness() -> None:
    store = store_of(keyframe(4.0, camera()), keyframe(4.0, camera(), frame=100))
    views = camera()
    assert bool((retrieve(store, views, GRID).source == 0).all())
    assert bool((retrieve(store, views, GRID, RetrievalConfig(half_life=5.0)).source == 1).all())
    assert bool((retrieve(store, views, GRID, RetrievalConfig(prefer="newer")).source == 1).all())
    alone = retrieve(store_of(keyframe(4.0, camera())), views, GRID, RetrievalConfig(half_life=5.0), now=1e4)
    assert float(alone.coverage[0]) == 1


def test_a_guess_gives_way_to_a_look_and_is_shown_where_there_was_none() -> None:
    """The same wall, guessed from where the view stands and seen from a little aside."""
    guess = replace(keyframe(4.0, camera()), origin="generated")
    seen = keyframe(4.0, camera(at=(0.4, 0, 0)), frame=1)
    shown = retrieve(store_of(guess, seen), camera(), GRID)
    blind = retrieve(store_of(guess, seen), camera(), GRID, RetrievalConfig(generated=1.0))
    assert float((shown.source == 1).double().mean()) > 0.8 > 0.5 > float((blind.source == 1).double().mean())
    assert bool((shown.source[~(shown.source == 1)] == 0).all()), "the guess fills in where the look does not reach"
    assert float(shown.coverage[0]) == float(retrieve(store_of(guess), camera(), GRID).coverage[0]) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_sources", 1),
        ("pool", 8),
        ("max_tokens", 3),
        ("gain_min", 0.2),
        ("near", 0.6),
        ("tau", 0.001),
        ("tau_surface", 1e-4),
        ("rho_max", 1.0),
        ("min_weight", 1.0),
        ("min_cells", 1.0),
        ("refine_steps", 0),
        ("view_angle", 1000.0),
        ("look_past", 0.0),
        ("half_life", 0.5),
        ("generated", 1.0),
        ("prefer", "newer"),
    ],
)
def test_every_setting_matters(field: str, value: object) -> None:
    store, _ = room(24, seed=4)
    for i, cam in enumerate(random_room_cameras(24, 4)):  # the same room seen twice, so that ties exist
        store = store.insert(keyframe(room_depth(cam), cam, frame=24 + i))
    guessed = [replace(g, keyframe=replace(g.keyframe, origin="generated")) for g in store]
    store = PatchStore.from_groups([b if a.keyframe.frame % 2 else a for a, b in zip(store, guessed, strict=True)])
    views = random_room_cameras(6, 70)
    config = RetrievalConfig(max_sources=8, pool=20)
    a, b = (
        retrieve(store, views, GRID, config),
        retrieve(store, views, GRID, dataclasses.replace(config, **{field: value})),
    )
    assert not (torch.equal(a.source, b.source) and torch.equal(a.covered, b.covered) and a.picked == b.picked)


def test_settings_out_of_range_are_listed_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"max_sources = 0.*tau = -1"):
        RetrievalConfig(max_sources=0, tau=-1)


def test_a_memory_of_another_layout_is_refused() -> None:
    store = store_of(keyframe(4.0, camera()))
    with pytest.raises(GeometryError, match="stride 8 and patch 2"):
        retrieve(store, camera(), TokenGrid(128, 64, stride=16, patch=2))
    with pytest.raises(GeometryError, match="128x64 pixels, the token grid 64x64"):
        retrieve(store, camera(), TokenGrid(64, 64))


@given(st.integers(0, 1000), st.floats(-1, 1))
def test_E2_moved_patches_land_where_the_formula_says(seed: int, dx: float) -> None:
    depth, f = 5.0, 100.0
    k = keyframe(depth, camera(), frame=seed)
    A = camera().c2w[0].clone()
    A[0, 3] += dx
    mosaic = retrieve(PatchStore.from_groups([Group(k, A, None, 0)]), camera(), GRID)
    shift = GRID.cell_centers(F64) - mosaic.source_uv[0]
    good = mosaic.good[0]
    assert float((shift[..., 0] - f * dx / depth)[good].abs().max()) < 1e-9


def test_a_source_must_add_its_share_of_the_view() -> None:
    rest = torch.zeros(H, W, dtype=torch.bool)
    rest[0, :4] = True
    store = store_of(keyframe(4.0, camera(), valid=~rest), keyframe(4.0, camera(), frame=1, valid=rest))
    share = 4 / (H * W)
    kept = retrieve(store, camera(), GRID, RetrievalConfig(gain_min=0.99 * share))
    assert kept.picked == ((0, 1),) and bool(kept.good.all())
    spared = retrieve(store, camera(), GRID, RetrievalConfig(gain_min=1.01 * share))
    assert spared.picked == ((0,),) and torch.equal(spared.holes[0], rest)
    assert spared.reasons(0)[Reason.duplicate] == 1 and float(spared.gains[0, 1]) == 4


def test_who_is_not_read_is_told_why_and_what_it_would_still_add() -> None:
    """Three quarters of a wall, its other half, and a part of what the first shows; one source may be read."""
    columns, parts = torch.arange(W).expand(H, W), []
    for i, (first, last) in enumerate([(0, 3 * W // 4), (W // 2, W), (0, W // 4)]):
        parts.append(keyframe(4.0, camera(), frame=i, valid=(columns >= first) & (columns < last)))
    mosaic = retrieve(store_of(*parts), camera(), GRID, RetrievalConfig(max_sources=1))
    assert mosaic.picked == ((0,),)
    assert mosaic.decisions[0].tolist() == [Reason.kept, Reason.budget, Reason.duplicate]
    assert mosaic.gains[0].tolist() == [H * W * 3 / 4, H * W / 4, 0]


def test_what_cannot_be_read_still_hides_what_is_behind_it() -> None:
    """A lattice before a wall, seen a fifth of a cell aside: too few of its cells to read, but it is in the way."""
    lattice = (torch.arange(H)[:, None] + torch.arange(W)) % 2 == 0
    step = 0.2 * GRID.stride * 2.0 / 100
    store = store_of(keyframe(9.0, camera()), keyframe(2.0, camera(), frame=1, valid=lattice))
    mosaic = retrieve(store, camera(at=(step, 0, 0)), GRID, RetrievalConfig(min_weight=0.9))
    assert torch.equal(mosaic.holes[0][:, :-1], lattice[:, :-1])
    assert bool((mosaic.source[0][~lattice] == 0).all())


@pytest.mark.parametrize("at", [None, 0.5, 3.0, 4.0, 9.0])
def test_a_time_shows_what_held_then_and_nothing_else(at: float | None) -> None:
    cameras = random_room_cameras(7, 11)
    untils = [None, 4.0, None, 3.0, None, 5.5, None]
    groups = [
        Group(keyframe(room_depth(c), c, frame=i), c.c2w[0], None, i, until=untils[i]) for i, c in enumerate(cameras)
    ]
    held = [i for i, t in enumerate(untils) if (t is None if at is None else i <= at and (t is None or at < t))]
    views = random_room_cameras(3, 12)
    mosaic = retrieve(PatchStore.from_groups(groups), views, GRID, at=at)
    alone = retrieve(PatchStore.from_groups([dataclasses.replace(groups[i], until=None) for i in held]), views, GRID)
    assert torch.equal(mosaic.source, torch.tensor([*held, -1])[alone.source])
    assert torch.equal(mosaic.source_uv, alone.source_uv)
    for view in range(3):
        assert mosaic.reasons(view)[Reason.superseded] == 7 - len(held)
        assert sum(mosaic.reasons(view).values()) == 7


def test_a_door_that_opened_is_closed_again_at_the_old_time() -> None:
    wall, door = keyframe(9.0, camera(), frame=2), keyframe(4.0, camera(), frame=0)
    A = camera().c2w[0]
    store = PatchStore.from_groups([Group(door, A, None, 0, until=2.0), Group(wall, A, None, 1)])
    assert bool((retrieve(store, camera(), GRID).source == 1).all())
    assert bool((retrieve(store, camera(), GRID, at=1.99).source == 0).all())
    assert bool((retrieve(store, camera(), GRID, at=2.0).source == 1).all())
    assert not bool(retrieve(store, camera(), GRID, at=-1.0).good.any())
