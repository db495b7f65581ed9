"""Selections: by place, by picture, by where patches came from, and joined."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.scenes import F64, GRID, camera, keyframe, random_room_cameras, room_depth

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.se3 import axis_angle, make_transform
from mosaicmem.memory import PatchStore, selection_reference
from mosaicmem.memory import selection as module
from mosaicmem.memory.selection import (
    Selection,
    box,
    everything,
    grow,
    holding,
    in_frames,
    of_origin,
    outlined,
    pictured,
    seen_between,
    sphere,
    surface,
)


def room(n: int = 4) -> PatchStore:
    store = PatchStore.empty()
    for i, c in enumerate(random_room_cameras(n, 0)):
        store = store.insert(keyframe(room_depth(c), c, frame=i))
    return store


def test_selections_join_like_sets() -> None:
    store = room()
    a, b = sphere(torch.tensor([1.0, 0, 0.8]), 1.2), box(torch.tensor([0.0, -2, -3]), torch.tensor([3.0, 0, 3]))
    in_a, in_b = a(store), b(store)
    assert bool((in_a & in_b).any()) and bool((in_a & ~in_b).any()) and bool((~in_a & in_b).any()), "control"
    assert torch.equal((a & b)(store), in_a & in_b)
    assert torch.equal((a | b)(store), in_a | in_b)
    assert torch.equal((~a)(store), ~in_a)
    assert torch.equal((a & ~a | b)(store), in_b)
    assert bool(everything(store).all()) and not bool((~everything)(store).any())


def test_a_turned_box_holds_what_the_upright_one_holds_of_a_turned_world() -> None:
    store = room()
    turn = make_transform(axis_angle(torch.tensor([0.0, 1, 0], dtype=F64), torch.tensor(0.6, dtype=F64)), torch.ones(3))
    low, high = torch.tensor([-1.0, -1, 0]), torch.tensor([2.0, 1, 3])
    inside = (store.centers.double() @ turn[:3, :3].T + turn[:3, 3]).float()
    expected = ((inside >= low) & (inside <= high)).all(-1)
    assert torch.equal(box(low, high, turn)(store), expected)
    assert not torch.equal(box(low, high)(store), expected), "control"


def test_where_patches_came_from() -> None:
    store = PatchStore.empty()
    for i, (origin, time) in enumerate([("observed", 0.0), ("generated", 1.5), ("observed", 3.0)]):
        store = store.insert(replace(keyframe(3.0, camera(), frame=10 * i), origin=origin, time=time))
    groups = lambda selection: selection(store).reshape(3, -1).all(-1).tolist()  # noqa: E731
    assert groups(of_origin("observed")) == [True, False, True]
    assert groups(of_origin("generated") | in_frames(20, 20)) == [False, True, True]
    assert groups(in_frames(0, 10)) == [True, True, False]
    assert groups(seen_between(1.5, 3.0)) == [False, True, True]
    assert groups(holding(1.5)) == [True, True, False]
    over = PatchStore.from_groups([replace(store.group(0), until=2.0), store.group(1), store.group(2)])
    assert holding()(over).reshape(3, -1).all(-1).tolist() == [False, True, True]
    assert [bool(holding(t)(over)[0]) for t in (0.0, 1.9, 2.0)] == [True, True, False]


def by_place(store: PatchStore, chosen: torch.Tensor) -> list[torch.Tensor]:
    """What is chosen of each group, as `[m n]`: the rows of a store have an order of their own."""
    out = []
    for start, stop in zip(store.offsets, store.offsets[1:], strict=False):
        places = torch.zeros(GRID.tokens_per_latent, dtype=torch.bool)
        places[store.patch_ids[start:stop].long()] = chosen[start:stop]
        out.append(places.reshape(GRID.tokens))
    return out


def test_a_picture_marks_the_patches_of_its_own_frame() -> None:
    store = PatchStore.empty().insert(keyframe(3.0, camera(), frame=0)).insert(keyframe(4.0, camera(), frame=1))
    mask = torch.zeros(GRID.height, GRID.width, dtype=torch.bool)
    mask[:, : 5 * GRID.token_stride + GRID.stride] = True  # five columns of patches and half of the sixth
    m, n = GRID.tokens
    first, second = by_place(store, pictured({1: mask})(store))
    assert not bool(first.any()), "the other frame has no picture"
    assert torch.equal(second, (torch.arange(n) < 6).expand(m, n))
    assert int(pictured({1: mask}, share=0.6)(store).sum()) == 5 * m
    with pytest.raises(GeometryError, match="picture of frame 0"):
        pictured({0: mask[1:]})(store)
    with pytest.raises(GeometryError, match="share"):
        pictured({0: mask}, share=2.0)


def test_an_outline_takes_what_is_seen_and_not_what_is_behind() -> None:
    store = PatchStore.empty().insert(keyframe(3.0, camera(), frame=0)).insert(keyframe(4.0, camera(), frame=1))
    mask = torch.zeros(GRID.height, GRID.width, dtype=torch.bool)
    mask[:, : GRID.width // 2] = True
    front, behind = by_place(store, outlined(mask, torch.full(mask.shape, 3.0), camera())(store))
    assert torch.equal(front, (torch.arange(GRID.tokens[1]) < GRID.tokens[1] // 2).expand(GRID.tokens))
    assert not bool(behind.any())
    with pytest.raises(GeometryError, match="outline"):
        outlined(mask[1:], torch.zeros(mask.shape)[1:], camera())


def test_a_surface_ends_at_a_fold_towards_the_viewer() -> None:
    """Inside a box, every wall is a surface of its own, whichever frames saw it."""
    store = room(6)
    x = store.centers.double()
    size = torch.tensor([3.0, 1.5, 3.0], dtype=F64)
    wall = ((x.abs() - size).abs() < 0.02) & (x.abs() < size - 0.25).sum(-1, keepdim=True).eq(2)
    start = wall[:, 2].nonzero()[3, 0]
    found = surface(store.centers[start])(store)
    same = x[:, 2] > 2.8  # a patch across the corner may lie a little before its wall
    assert int(found.sum()) > 0.8 * int(same.sum()) > 20
    assert not bool((found & ~same).any())
    near = surface(store.centers[start], reach=0.8)(store)
    assert 0 < int(near.sum()) < int(found.sum())
    assert float((x[near] - x[start]).norm(dim=-1).max()) <= 0.8 + 1e-6


@pytest.mark.parametrize("options", [{}, {"gap": 2.5, "fold": 35.0}, {"reach": 1.5}, {"gap": 0.6}])
def test_a_thing_is_the_one_that_asking_everybody_finds(monkeypatch, options) -> None:
    store = room(8)
    starts = [store.centers[i] for i in range(0, store.num_patches, 29)]
    fast = [surface(start, **options)(store) for start in starts]
    monkeypatch.setattr(module, "grow", selection_reference.grow)
    for start, found in zip(starts, fast, strict=True):
        assert torch.equal(found, surface(start, **options)(store))
    sizes = [int(found.sum()) for found in fast]
    assert min(sizes) < max(sizes) > (1 if options.get("gap") == 0.6 else 20), "control: things of several sizes"


@given(st.integers(0, 10**6), st.integers(1, 120), st.floats(0.0, 7.0), st.floats(0.5, 2.5), st.floats(5.0, 85.0))
def test_growing_over_patches_of_any_sizes_is_that_of_the_slow_twin(seed, count, decades, gap, fold) -> None:
    """Clouds of slanted patches whose radii differ up to ten million times, so that some reach over all boxes."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator, dtype=F64) * torch.tensor([1.0, 1.0, 0.1])
    radii = 0.3 * 10 ** (-decades * torch.rand(count, generator=generator, dtype=F64))
    normals = torch.tensor([0.0, 0, -1], dtype=F64) + 0.4 * torch.randn(count, 3, generator=generator, dtype=F64)
    normals = torch.nn.functional.normalize(normals, dim=-1)
    normals[torch.rand(count, generator=generator) < 0.05] = 0
    first, angle = seed % count, math.radians(fold)
    found = grow(first, points, radii, normals, gap, angle)
    assert bool(found[first])
    assert torch.equal(found, selection_reference.grow(first, points, radii, normals, gap, angle))


@pytest.mark.parametrize("fold", [10.0, 20.0, 30.0])
def test_growing_over_a_rough_plane_where_neighbours_hardly_agree_is_that_of_the_slow_twin(fold) -> None:
    generator = torch.Generator().manual_seed(int(fold))
    points = torch.rand(600, 3, generator=generator, dtype=F64) * torch.tensor([4.0, 3.0, 0.1])
    radii = 0.05 + 0.15 * torch.rand(600, generator=generator, dtype=F64)
    slant = 0.012 * fold * torch.randn(600, 3, generator=generator, dtype=F64)
    normals = torch.nn.functional.normalize(torch.tensor([0.0, 0, -1]) + slant, dim=-1)
    sizes = set()
    for first in range(0, 600, 60):
        found = grow(first, points, radii, normals, 1.5, math.radians(fold))
        assert torch.equal(found, selection_reference.grow(first, points, radii, normals, 1.5, math.radians(fold)))
        sizes.add(int(found.sum()))
    assert len(sizes) > 3 and max(sizes) > 100, "control: it depends on where one begins"


def test_half_of_the_neighbours_are_not_most_of_them() -> None:
    """A patch beside two of a thing that agrees with one of them alone stays out; beside one it comes in."""
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [1.0, 0, 0]], dtype=F64)
    radii = torch.full((3,), 0.4, dtype=F64)
    tilts = [math.radians(degrees) for degrees in (0.0, 15.0, 30.0)]
    normals = torch.tensor([[-math.sin(tilt), 0, -math.cos(tilt)] for tilt in tilts], dtype=F64)
    for growing in (grow, selection_reference.grow):
        assert growing(0, points, radii, normals, 1.5, math.radians(20)).tolist() == [True, True, False]
        assert growing(0, points, radii, normals, 1.2, math.radians(20)).tolist() == [True, True, True]


def test_growing_knows_nothing_of_the_order_of_patches() -> None:
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(400, 3, generator=generator, dtype=F64) * torch.tensor([4.0, 4.0, 0.02])
    radii = 0.1 + 0.2 * torch.rand(400, generator=generator, dtype=F64)
    normals = torch.tensor([[0.0, 0, -1]], dtype=F64).expand(400, 3).clone()
    found = grow(7, points, radii, normals, 1.5, 0.3)
    order = torch.randperm(400, generator=generator)
    again = grow(int((order == 7).nonzero()), points[order], radii[order], normals[order], 1.5, 0.3)
    assert torch.equal(again, found[order]) and int(found.sum()) > 300
    far = torch.cat([points, points + 1e5]), radii.repeat(2), normals.repeat(2, 1)
    assert torch.equal(grow(7, *far, 1.5, 0.3), torch.cat([found, torch.zeros_like(found)])), "far apart, few boxes"


def test_what_makes_no_sense_is_refused() -> None:
    store = room(1)
    with pytest.raises(GeometryError, match="no surface at"):
        surface(torch.tensor([90.0, 0, 0]))(store)
    with pytest.raises(GeometryError, match="empty"):
        surface(torch.zeros(3))(PatchStore.empty())
    for bad in ({"reach": 0.0}, {"gap": 0.0}, {"fold": 90.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            surface(torch.zeros(3), **bad)
    with pytest.raises(GeometryError, match="one truth value"):
        Selection(lambda s: torch.ones(3, dtype=torch.bool))(store)
