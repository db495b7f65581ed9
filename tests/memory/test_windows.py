"""What the views of one call share: the laws of a window, its slow twin, and what is kept between calls."""

from __future__ import annotations

import gc
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.scenes import GRID, camera, keyframe, random_room_cameras, room_depth, turned
from tests.memory.test_reference import random_store

from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.memory import (
    Mosaic,
    PatchStore,
    Reason,
    RetrievalConfig,
    reference,
    retrieve,
    surfaces,
    window_reference,
    windows,
)
from mosaicmem.memory.window_reference import apart, key_views, retrieve_window_reference
from mosaicmem.memory.windows import Plan, plan


def assert_same(a: Mosaic, b: Mosaic) -> None:
    """Equal to the bit, reasons and gains included."""
    assert a.picked == b.picked
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert not torch.is_tensor(x) or torch.equal(x, y), field.name


CONFIGS = st.builds(
    RetrievalConfig,
    max_sources=st.integers(1, 3),
    pool=st.sampled_from([3, 5, 16]),
    max_tokens=st.sampled_from([None, 9]),
    look_past=st.sampled_from([0.0, 0.5, 2.0]),
    edge=st.sampled_from([None, 0, 1, 2]),
    half_life=st.sampled_from([None, 3.0]),
    prefer=st.sampled_from(["older", "newer"]),
)


def walk(length: int, seed: int, distance: float = 0.4, turn: float = 0.2, astray: float = 0.0) -> Cameras:
    """A walk through the room of `room_depth`, so many metres and radians from end to end; each view `astray`."""
    t, g = torch.linspace(0, 1, length, dtype=torch.float64)[:, None], torch.Generator().manual_seed(seed)
    start, way = torch.rand(2, 1, 3, generator=g, dtype=torch.float64) - 0.5
    yaw = 6.3 * torch.rand(1, generator=g, dtype=torch.float64) + turn * t
    aside = astray * torch.randn(length, 4, generator=g, dtype=torch.float64)
    eye = 2 * start + distance * t * way + aside[:, :3] * torch.tensor([1.0, 0.3, 1.0])
    yaw = yaw + aside[:, 3:]
    view = look_at(eye, eye + torch.cat([yaw.sin(), 0 * yaw, yaw.cos()], -1), torch.tensor([[0.0, -1, 0]]).double())
    return Cameras(view, camera().Ks.expand(length, 3, 3).clone(), GRID.width, GRID.height)


def crowd(n: int, seed: int) -> PatchStore:
    """What was seen `n` times from about a walk through the room, with holes: more than fits a small pool."""
    store, g = PatchStore.empty(), torch.Generator().manual_seed(seed)
    for i, cam in enumerate(walk(n, seed, astray=0.3)):
        depth = room_depth(cam).float()
        store = store.insert(keyframe(depth, cam, frame=i, valid=torch.rand(depth.shape, generator=g) > 0.2))
    return store


def one_by_one(store: PatchStore, views: Cameras, config: RetrievalConfig) -> list[Mosaic]:
    return [retrieve(store, views[i], GRID, config) for i in range(len(views))]


def planned(views: Cameras, unit: float, step: float) -> Plan:
    return plan(views.viewmats.numpy(), views.Ks.numpy(), (views.width, views.height), unit, step)


SMALL = RetrievalConfig(max_sources=2, pool=3)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 10_000), st.integers(1, 4), CONFIGS, st.sampled_from([None, 3.5]))
def test_views_apart_are_answered_one_by_one(
    n: int, seed: int, length: int, config: RetrievalConfig, at: float | None
) -> None:
    """Worlds with holes, masks, guesses, ends in time and a group that an edit moved and scaled."""
    store, config = random_store(n, seed, times=True, guessed=True), replace(config, key_step=0.0)
    views = random_room_cameras(length, seed + 1)
    window = retrieve(store, views, GRID, config, at=at, context=[2])
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    surfaces._kept = surfaces._Kept()  # single views begin with nothing kept, and in another order
    alone = {i: retrieve(store, views[i], GRID, config, at=at, context=[2]) for i in order}
    for i in range(length):
        assert_same(window[i], alone[i])


@settings(max_examples=15)
@given(st.integers(1, 9), st.integers(0, 10_000), st.integers(1, 7), st.sampled_from([None, 3.5]))
def test_where_memory_in_sight_fits_the_pool_a_window_is_its_views(
    n: int, seed: int, length: int, at: float | None
) -> None:
    store, views, config = random_store(n, seed, times=True), walk(length, seed), RetrievalConfig(pool=9)
    window = retrieve(store, views, GRID, config, at=at)
    for i in range(length):
        assert_same(window[i], retrieve(store, views[i], GRID, config, at=at))


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_the_same_camera_again_is_the_same_answer_again(seed: int, length: int) -> None:
    """All alike: the single view, repeated. Some alike: what is said of them is said of the first."""
    store, views = crowd(12, seed), walk(5, seed)
    alone = retrieve(store, views[2], GRID, SMALL)
    still = retrieve(store, views[[2] * length], GRID, SMALL)
    for i in range(length):
        assert_same(still[i], alone)
    there, and_back = retrieve(store, views, GRID, SMALL), retrieve(store, views[[0, 1, 1, 2, 3, 4, 3, 2]], GRID, SMALL)
    for i, at in enumerate([0, 1, 1, 2, 3, 4, 3, 2]):
        assert_same(and_back[i], there[at])


@pytest.mark.parametrize(("seed", "numbers"), [(0, None), (1, None), (2, None), (5, None), (3, (0.3, 0.15, 0.1))])
def test_a_window_is_what_its_slow_twin_says(
    seed: int, numbers: tuple[float, float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers of the law, and with some of which each matters where there are 128 cells."""
    law = [(windows, "LISTED"), (windows, "ADDED"), (windows, "LEAST")]
    twin = [(window_reference, "MUCH"), (reference, "SOME"), (window_reference, "LESS")]
    assert [getattr(*name) for name in law] == [getattr(*name) for name in twin]
    for names in zip(law, twin, numbers or (), strict=False):
        for module, name in names[:2]:
            monkeypatch.setattr(module, name, names[2])
    store, views = crowd(12, seed), walk(6, seed)
    fast, slow = retrieve(store, views, GRID, SMALL), retrieve_window_reference(store, views, GRID, SMALL)
    for i, twin in enumerate(slow):
        assert list(fast.picked[i]) == twin.picked
        assert float((fast.owner[i] == twin.owner).double().mean()) >= 0.999
        assert float((fast.source[i] == twin.source).double().mean()) >= 0.999
        assert torch.equal(fast.covered[i], twin.covered)


def test_the_slow_twin_of_another_law_disagrees() -> None:
    """Negative control: views one by one are another answer, and so is another step between key views."""
    differ = {"alone": 0, "step": 0}
    for seed in range(6):
        store, views = crowd(12, seed), walk(6, seed)
        window = retrieve(store, views, GRID, SMALL).owner
        alone = torch.cat([x.owner for x in one_by_one(store, views, SMALL)])
        stepped = retrieve(store, views, GRID, replace(SMALL, key_step=0.15)).owner
        differ["alone"] += not torch.equal(window, alone)
        differ["step"] += not torch.equal(window, stepped)
    assert differ["alone"] >= 3 and differ["step"] >= 2


@pytest.mark.parametrize("seed", [3, 4, 6, 7])
def test_key_views_are_answered_as_if_alone_and_others_read_what_these_show(seed: int) -> None:
    store, views = crowd(12, seed), walk(8, seed)
    window, alone = retrieve(store, views, GRID, SMALL), one_by_one(store, views, SMALL)
    found, between = planned(views, store.scale, SMALL.key_step), 0
    for i in range(len(views)):
        before, after = int(found.before[i]), int(found.after[i])
        kept = (window.decisions[i] == Reason.kept).nonzero()[:, 0].tolist()
        assert kept == sorted(window.picked[i])
        if before == i:
            assert_same(window[i], alone[i])
        if window.picked[i] == alone[i].picked[0]:
            continue
        between += 1
        assert set(window.picked[i]) <= set(window.picked[before]) | set(window.picked[after])
        ends = [[g for g in window.picked[k] if float(window.gains[k, g]) >= 0.01 * 128] for k in (before, after)]
        for g in set(range(len(store))) - set(ends[0]) - set(ends[1]):
            one, two, own = (Reason(int(window.decisions[k, g])) for k in (before, after, i))
            reason = two if one == Reason.outside else one
            assert own in (Reason.outside, Reason.duplicate if reason == Reason.kept else reason)
    assert between


def test_who_was_kept_beside_a_view_but_is_not_looked_at_is_no_longer_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "LISTED", 0.3)
    monkeypatch.setattr(windows, "LEAST", 1.0)
    for seed in range(6):
        window = retrieve(crowd(12, seed), walk(6, seed), GRID, SMALL)
        for i in range(len(window)):
            assert (window.decisions[i] == Reason.kept).nonzero()[:, 0].tolist() == sorted(window.picked[i])


@pytest.mark.parametrize("seed", range(3))
def test_a_view_that_shows_less_than_its_key_views_is_answered_as_if_alone(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no view shows enough, all are answered one by one, reasons and gains included."""
    store, views = crowd(12, seed), walk(6, seed)
    monkeypatch.setattr(windows, "LEAST", -1.0)
    monkeypatch.setattr(windows, "ADDED", 0.3)  # which is nothing to a view that is answered as if alone
    window = retrieve(store, views, GRID, SMALL)
    for i, alone in enumerate(one_by_one(store, views, SMALL)):
        assert_same(window[i], alone)


def test_what_only_a_view_between_sees_is_found() -> None:
    """A glance aside between two looks ahead: who looked aside is asked, though no key view shows them."""
    store = PatchStore.empty()
    for i, yaw in enumerate((0.0, 0.17)):
        store = store.insert(keyframe(4.0, turned(yaw), frame=i))
    config = RetrievalConfig(max_sources=1, pool=1)
    for yaw, asked in ((0.17, 1), (0.002, 0)):
        views = Cameras.cat([turned(0.0), turned(yaw), turned(0.001)])
        assert planned(views, store.scale, config.key_step).before.tolist() == [0, 0, 2]
        window = retrieve(store, views, GRID, config)
        assert window.picked == ((0,), (asked,), (0,))
        assert float(window.coverage[1]) > 0.97
        assert_same(window[1], retrieve(store, views[1], GRID, config))


@settings(max_examples=20)
@given(st.integers(0, 9), st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.25, 1.0]), st.floats(0.5, 8.0))
def test_key_views_are_those_of_the_twin(length: int, seed: int, step: float, unit: float) -> None:
    """Walks that stand still now and then, and turn away at once."""
    random = torch.Generator().manual_seed(seed)
    pick = torch.randint(0, 12, (length,), generator=random).sort().values.tolist()
    views = Cameras.cat([walk(12, seed), random_room_cameras(3, seed)])[[*pick, *range(12, 15)]]
    found, keys = planned(views, unit, step), []
    for i in range(len(views)):
        first = next(j for j in range(i + 1) if torch.equal(views.viewmats[j], views.viewmats[i]))
        assert found.same[i] == first
        keys += [i] if first == i else []
    expected = [keys[o] for o in key_views(views[keys], unit, step)]
    assert [i for i in keys if found.before[i] == i] == expected
    for i in range(len(views)):
        at = int(found.same[i])
        assert found.before[i] == max(k for k in expected if k <= at)
        assert found.after[i] == min(k for k in expected if k >= at)
    assert sorted(found.order) == keys and set(found.keys) <= set(expected)


def test_how_far_apart_views_are() -> None:
    """Closed form: a step aside by `b` moves a point at depth `D` by `f b / D`, of 128 pixels; behind is infinite."""
    here, aside, ahead = camera(), camera(at=(0.2, 0, 0)), camera(at=(0, 0, 5.0))
    assert apart(here, aside, 4.0) == pytest.approx(100 * 0.2 / 4 / 128)
    assert apart(here, ahead, 4.0) == float("inf")
    for step, key in ((0.04, True), (0.038, False)):
        views = Cameras.cat([here, aside, camera(at=(0.1, 0, 0))])
        assert (planned(views, 4.0, step).before[1] == 0) == key
    for yaw in (0.1, -0.1):  # the corner that moves farthest is to the right, or to the left
        far = apart(here, turned(yaw), 4.0)
        for step, key in ((1.001 * far, 0), (0.999 * far, 1)):
            assert planned(Cameras.cat([here, turned(yaw), here, camera(at=(0.01, 0, 0))]), 4.0, step).before[1] == key
    assert planned(Cameras.cat([here, ahead, aside]), 4.0, 1e9).before.tolist() == [0, 1, 2]


def test_threads_change_nothing_in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    store, views, threads = crowd(12, 3), walk(9, 3), torch.get_num_threads()
    expected = retrieve(store, views, GRID, SMALL)
    for name in ("pool.WORTH_A_THREAD", "views.WORTH_A_THREAD", "views.READING_WORTH_A_THREAD"):
        monkeypatch.setattr(f"mosaicmem.memory.{name}", 0)
    try:
        for count in (2, 3, 5):
            torch.set_num_threads(count)
            for _ in range(3):
                assert_same(retrieve(store, views, GRID, SMALL), expected)
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_a_key_view_reaches_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on threads, where other views wait for it."""
    from mosaicmem.memory import views as module

    store, cameras, threads = crowd(12, 3), walk(9, 3), torch.get_num_threads()
    monkeypatch.setattr(module, "WORTH_A_THREAD", 0)
    monkeypatch.setattr(module, "thin", lambda *args: 1 / 0)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with pytest.raises(ZeroDivisionError):
                retrieve(store, cameras, GRID, SMALL)
    finally:
        torch.set_num_threads(threads)


def test_a_window_covers_as_much_as_its_views_one_by_one() -> None:
    """In a room seen from 40 places, with a pool that they do not fit into; and sources change less often."""
    more, changes = [], []
    for seed in range(3):
        store, views, config = crowd(40, seed), walk(12, seed), RetrievalConfig(max_sources=4, pool=8)
        window, alone = retrieve(store, views, GRID, config), Mosaic.cat(one_by_one(store, views, config))
        more.append(float((window.coverage - alone.coverage).mean()))
        changes.append([float((x.owner[1:] != x.owner[:-1]).double().mean()) for x in (window, alone)])
    assert min(more) > -0.01
    assert sum(a for a, _ in changes) < 0.8 * sum(b for _, b in changes)


def test_an_edit_is_seen_by_the_next_call() -> None:
    """Groups share their keyframe with what an edit makes of them; planes kept of the one must not serve the other."""
    store = PatchStore.empty().insert(keyframe(4.0, camera()))
    whole = retrieve(store, camera(), GRID)
    mask = torch.ones(GRID.tokens, dtype=torch.bool)
    mask[:, :3] = False
    masked = PatchStore.from_groups([replace(store.group(0), mask=mask)])
    assert bool(whole.good.all())
    assert torch.equal(retrieve(masked, camera(), GRID).good[0], mask.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert_same(retrieve(store, camera(), GRID), whole)


def test_planes_are_kept_within_bounds_and_never_for_another_group(monkeypatch: pytest.MonkeyPatch) -> None:
    store, views = random_store(6, 0), random_room_cameras(3, 1)
    expected = retrieve(store, views, GRID)
    size = surfaces.tangent_planes(store.group(0)).nbytes
    kept = surfaces._Kept()
    monkeypatch.setattr(surfaces, "_kept", kept)
    monkeypatch.setattr(surfaces, "KEPT_BYTES", 2 * size)
    assert_same(retrieve(store, views, GRID), expected)
    assert len(kept._planes) == 2 and kept._bytes == 2 * size
    first = kept(store.group(0))
    assert kept(store.group(0)) is first, "asked again, not computed again"
    kept(store.group(1))
    kept(store.group(2))
    assert kept(store.group(0)) is not first, "the one asked for longest ago went"
    frame = keyframe(2.0, camera())
    for _ in range(5):  # a new group may get the address of one that is gone
        one = PatchStore.empty().insert(frame).group(0)
        np.testing.assert_array_equal(kept(one).cells, surfaces._compute(one).cells)
        del one
        gc.collect()
        frame = keyframe(float(frame.depth[0, 0]) + 1, camera())


def test_the_store_knows_where_groups_lie_and_whether_they_were_moved() -> None:
    store = random_store(5, 3)
    assert [bool(x) for x in store.numbers[:, 3]] == [g.moved for g in store] == [False, True, False, False, False]
    for g, group in enumerate(store):
        assert torch.equal(store.places[g], group.world_from_cam)
        assert torch.equal(store.lenses[g], group.keyframe.camera.Ks[0])
    fork = PatchStore.from_groups(store.groups[:2])
    assert torch.equal(fork.places, store.places[:2]) and fork.lenses.shape == (2, 3, 3)
