"""Selections: by place, by picture, by where patches came from, and joined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.memory.scenes import F64, GRID, camera, keyframe, random_room_cameras, room_depth

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.se3 import axis_angle, make_transform
from mosaicmem.memory import PatchStore
from mosaicmem.memory.selection import (
    Selection,
    box,
    everything,
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
