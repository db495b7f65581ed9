"""What lets thinning skip blocks: how deep a part of the z-buffer is at most."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.scenes import GRID, camera, keyframe, points_seen, random_room_cameras, room_depth, turned
from tests.memory.test_reference import random_store

from mosaicmem.errors import ConfigError
from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.geometry.se3 import axis_angle, make_transform
from mosaicmem.memory import Group, PatchStore, RetrievalConfig, _pool_kernels, pool, retrieve
from mosaicmem.memory.mosaic import Reason
from mosaicmem.memory.pool import WORTH_A_LOOK, WORTH_ANOTHER, columns, thin
from mosaicmem.memory.reference import pool_reference, thin_reference, witness_reference
from mosaicmem.memory.retrieval import POOL


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
    monkeypatch.setattr(pool, "ENTRIES", 0)  # else no block that was placed is held against the z-buffer again
    points = points_seen(store, view, config)
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


@pytest.mark.parametrize(("entries", "kept"), [(0, "none"), (20, "some"), (pool.ENTRIES, "all")])
def test_what_finds_no_room_is_placed_again_and_shows_the_same(
    entries: int, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, view, config = random_store(12, 4, holes=0.0), random_room_cameras(1, 104), RetrievalConfig()
    groups, counts = list(range(len(store))), []
    seen, _ = pool_reference(store, view, GRID, config, groups)
    monkeypatch.setattr(pool, "ENTRIES", 0)
    _, landed = points_seen(store, view, config).seen(groups)
    front = _pool_kernels.pool_front

    def counted(*arguments: Any) -> tuple[int, int]:
        counts.append(front(*arguments))
        return counts[-1]

    monkeypatch.setattr(pool, "ENTRIES", entries)
    monkeypatch.setattr(_pool_kernels, "pool_front", counted)
    found = points_seen(store, view, config).seen(groups)
    np.testing.assert_array_equal(found[0], seen)
    np.testing.assert_array_equal(found[1], landed)
    ((blocks, placed),) = counts
    assert {"none": placed == 0, "some": 0 < placed < blocks / 4, "all": placed > blocks / 2}[kept]


def test_a_block_that_is_not_full_ends_where_it_ends() -> None:
    """Patches are placed sixteen at a time; those of the next group stand right behind."""
    frame, (m, n) = keyframe(4.0, camera()), GRID.tokens
    masks = torch.zeros(2, m, n, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, m - 1, n - 1] = True
    store = PatchStore.from_groups([Group(frame, torch.eye(4).double(), mask, i) for i, mask in enumerate(masks)])
    view = camera()
    points = points_seen(store, view, RetrievalConfig())
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
    points = points_seen(store, view, RetrievalConfig())
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
    points = points_seen(store, view, config)
    seen = torch.from_numpy(points.seen(list(range(len(store))))[0])
    expected, _ = pool_reference(store, view, GRID, config)
    assert float((seen == expected).double().mean()) >= 0.999
    assert float(seen[-1].double().mean()) > 0.7  # nothing at all if patches hid what is behind their centres


@settings(max_examples=200)
@given(st.integers(1, 30), st.integers(1, 200), st.integers(1, 16), st.integers(0, 10_000))
def test_cover_picks_what_its_slow_twin_picks(groups: int, tokens: int, limit: int, seed: int) -> None:
    """Groups that show much or little, some of equal worth, some twice, some nothing."""
    random = np.random.default_rng(seed)
    seen = random.random((groups, tokens)) < random.choice([0.0, 0.02, 0.2, 0.4, 0.6, 0.9], (groups, 1))
    worth = random.integers(8, 17, groups) / 16  # so that sums are exact, and ties are ties
    weights, order = random.choice([0.25, 1.0], groups), random.permutation(groups)
    seen[-1], worth[-1] = seen[0], worth[0]
    bits = np.zeros((groups, -(-tokens // 64) * 64), np.uint8)
    bits[:, :tokens] = seen
    shows = np.packbits(bits, axis=1, bitorder="little").view(np.uint64)
    picked, some, missing = *np.zeros((2, groups), np.bool_), np.zeros(groups, np.int64)
    much, again = WORTH_A_LOOK * tokens, WORTH_ANOTHER * tokens
    found = _pool_kernels.cover(shows, worth, weights, order, limit, much, again, picked, missing, some)
    expected = thin_reference(torch.from_numpy(seen), worth.tolist(), weights.tolist(), order.tolist(), limit)
    assert found.tolist() == expected
    assert picked.nonzero()[0].tolist() == sorted(expected)
    np.testing.assert_array_equal(some, seen.any(1))
    np.testing.assert_array_equal(missing, (seen & ~seen[expected].any(0)).sum(1))


def test_all_that_is_shown_is_covered_before_anything_is_shown_again() -> None:
    """One group shows all but a token, another that token alone, a third as much as the first, a fourth a sliver."""
    seen = torch.zeros(4, 128, dtype=torch.bool)
    seen[0, 1:] = seen[2, 1:] = seen[3, 5] = seen[1, 0] = True
    found = thin_reference(seen, [1.0, 0.6, 0.9, 0.9], [1.0] * 4, [0, 1, 2, 3], 4)
    assert found == [0, 1, 2], "the sliver adds too little to be looked at again"
    assert thin_reference(seen, [0.9, 0.6, 1.0, 0.9], [1.0] * 4, [0, 1, 2, 3], 4) == [2, 1, 0], "better witnesses first"
    assert thin_reference(seen, [0.9, 0.6, 1.0, 0.9], [1.0, 1.0, 0.5, 1.0], [0, 1, 2, 3], 2) == [0, 2], "by weight"


def test_a_witness_is_worth_what_its_slow_twin_says() -> None:
    """From beside the view, from behind, with a longer lens, which magnifies less, moved and scaled by an edit, and
    hidden by others."""
    cams = [camera(at=(0.05 * i, 0.02 * i, -0.3 * i)) for i in range(5)] + [camera(f=170.0, at=(0, 0, -0.6))]
    frames = [keyframe(room_depth(cam).float(), cam, frame=i) for i, cam in enumerate(cams)]
    turn = axis_angle(torch.tensor([0.1, 1, 0]).double(), torch.tensor(0.2).double())
    moved = make_transform(1.3 * turn, torch.tensor([0.1, 0, 0.2]).double())
    places = [*(cam.c2w[0] for cam in cams), moved @ cams[2].c2w[0], cams[3].c2w[0]]
    frames += [frames[2], keyframe(9 * room_depth(cams[3]).float(), cams[3], frame=9)]
    store = PatchStore.from_groups(
        [Group(f, at, None, i) for i, (f, at) in enumerate(zip(frames, places, strict=True))]
    )
    view, config = camera(at=(0.01, 0.0, 0.02)), RetrievalConfig()
    points = points_seen(store, view, config)
    groups, theta = np.arange(len(store)), float(np.deg2rad(config.view_angle))
    found = points.worth(groups, points.shows(groups), theta)
    seen, depth = pool_reference(store, view, GRID, config)
    expected = [witness_reference(store.group(k), seen[k], depth, view, GRID, config) for k in range(len(store))]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert expected[-1] == 0 and expected[0] > 0.7, expected
    assert expected[0] > expected[1] > expected[2] > expected[3] > expected[4], expected
    assert expected[5] > expected[2], "as far away as that, but through a longer lens"


def test_who_stood_nearby_is_looked_at_among_many_who_saw_more() -> None:
    """Frames from far behind show all of a view; the one that looked about on the spot shows best what it shows."""
    near, store = turned(0.2), PatchStore.empty()
    for i in range(20):
        far = camera(at=(0.0, 0.0, -1.0 - 0.01 * i))
        store = store.insert(keyframe(room_depth(far).float(), far, frame=i))
    store = store.insert(keyframe(room_depth(near).float(), near, frame=20))
    view, config = camera(), RetrievalConfig(max_sources=1, pool=1)
    assert retrieve(store, view, GRID, config).picked == ((20,),)
    points = points_seen(store, view, config)
    shown = points.seen(np.arange(21))[0].sum(1)
    assert shown[20] < shown[:20].max(), "control: by the number of tokens alone it would not be"


@pytest.mark.parametrize("seed", range(4))
def test_few_of_many_who_show_the_same_are_looked_at(seed: int) -> None:
    """Frames of a walk: those that add a token or a fiftieth of the view, as the twin over all pairs says."""
    store, g = PatchStore.empty(), torch.Generator().manual_seed(seed)
    for i in range(24):
        x, z = (0.3 * torch.randn(2, generator=g)).tolist()
        cam = camera(at=(x, 0.0, z))
        store = store.insert(keyframe(room_depth(cam).float(), cam, frame=i))
    view, config, groups = camera(), RetrievalConfig(), np.arange(24)
    points = points_seen(store, view, config)
    theta, decisions, gains = float(np.deg2rad(config.view_angle)), np.zeros(24, np.int8), np.zeros(24, np.float32)
    found = thin(points, groups, 24, theta, np.ones(24), groups, decisions, gains)
    seen, depth = pool_reference(store, view, GRID, config)
    worth = [witness_reference(store.group(k), seen[k], depth, view, GRID, config) for k in range(24)]
    assert found.tolist() == thin_reference(seen, worth, [1.0] * 24, list(range(24)), 24)
    left = np.setdiff1d(groups, found)
    assert len(left) > 8
    assert np.isin(decisions[left], [Reason.duplicate, Reason.hidden, Reason.outside]).all()
    assert not gains[left].any(), "nothing is lost to a budget"


@pytest.mark.parametrize("limit", [1, 8])
def test_who_is_not_looked_at_is_told_why_and_what_it_would_have_added(limit: int) -> None:
    """Frames of a walk, one that looks the other way, and one of what lies behind the walls."""
    store, g = PatchStore.empty(), torch.Generator().manual_seed(3)
    cams = [camera(at=(x, 0.0, z)) for x, z in (0.7 * torch.randn(12, 2, generator=g)).tolist()]
    for i, cam in enumerate([*cams, turned(math.pi)]):
        store = store.insert(keyframe(room_depth(cam).float(), cam, frame=i))
    store = store.insert(keyframe(60.0, camera(), frame=13))
    view, config, groups = camera(), RetrievalConfig(), np.arange(14)
    points, weights = points_seen(store, view, config), np.ones(14)
    theta, decisions, gains = (
        float(np.deg2rad(config.view_angle)),
        np.full(14, 99, np.int8),
        np.full(14, 99, np.float32),
    )
    found = thin(points, groups, limit, theta, weights, groups, decisions, gains)
    seen, _ = pool_reference(store, view, GRID, config)
    left = np.setdiff1d(groups, found)
    missing = (seen[left] & ~seen[found].any(0)).sum(1)
    reasons = [Reason.duplicate if bool(seen[k].any()) else Reason.hidden for k in left]
    reasons = [Reason.budget if more else reason for more, reason in zip(missing.tolist(), reasons, strict=True)]
    reasons[left.tolist().index(12)] = Reason.outside
    assert decisions[left].tolist() == reasons and decisions[13] == Reason.hidden
    assert gains[left].tolist() == (missing * GRID.patch**2).tolist()
    assert (decisions[found] == 99).all() and (gains[found] == 99).all(), "who is looked at is judged by its cells"
    assert (Reason.budget in reasons) == (limit == 1) and Reason.duplicate in reasons


def test_as_many_are_looked_at_as_asked_or_may_be_read() -> None:
    assert RetrievalConfig().looked_at == POOL
    assert RetrievalConfig(pool=9).looked_at == 9
    assert RetrievalConfig(max_sources=40).looked_at == 40
    with pytest.raises(ConfigError, match="pool = 7: expected at least max_sources, 8, or none"):
        RetrievalConfig(pool=7)


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
        for name in found._fields[1:-3]:
            np.testing.assert_array_equal(getattr(found, name), getattr(store, name).numpy())


@pytest.mark.parametrize("times", [[0.0, 1.0, 2.0, 3.0], [2.0, 0.0, 2.0, 1.0]])
def test_columns_say_who_was_observed_who_was_moved_and_who_is_older(times: list[float]) -> None:
    """In order or not, two at one time: then by frame."""
    at = camera().c2w[0].double()
    elsewhere = make_transform(torch.eye(3).double(), torch.ones(3).double()) @ at
    frames = [replace(keyframe(4.0, camera(), frame=9 - i), time=t) for i, t in enumerate(times)]
    frames[1] = replace(frames[1], origin="generated")
    store = PatchStore.from_groups([Group(f, elsewhere if i == 2 else at, None, i) for i, f in enumerate(frames)])
    found = columns(store)
    assert found.observed.tolist() == store.observed.tolist() == [True, False, True, True]
    assert found.moved.tolist() == [group.moved for group in store] == [False, False, True, False]
    oldest_first = sorted(range(4), key=lambda g: store.group(g).age_key)
    assert [oldest_first.index(g) for g in range(4)] == found.ranks.tolist()
    assert found.ranks.tolist() == ([0, 1, 2, 3] if times[0] == 0 else [3, 0, 2, 1])


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
