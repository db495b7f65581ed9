"""A window is its views, one by one; what views and calls share changes no bit. What the store keeps for it is true."""

from __future__ import annotations

import gc
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.scenes import GRID, camera, keyframe, random_room_cameras
from tests.memory.test_reference import random_store

from mosaicmem.memory import Mosaic, PatchStore, RetrievalConfig, retrieve, surfaces


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
    half_life=st.sampled_from([None, 3.0]),
    prefer=st.sampled_from(["older", "newer"]),
)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 10_000), st.integers(1, 4), CONFIGS, st.sampled_from([None, 3.5]))
def test_a_window_is_its_views_one_by_one(
    n: int, seed: int, length: int, config: RetrievalConfig, at: float | None
) -> None:
    """Worlds with holes, masks, guesses, ends in time and a group that an edit moved and scaled."""
    store = random_store(n, seed, times=True, guessed=True)
    views = random_room_cameras(length, seed + 1)
    window = retrieve(store, views, GRID, config, at=at, context=[2])
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    surfaces._kept = surfaces._Kept()  # single views begin with nothing kept, and in another order
    alone = {i: retrieve(store, views[i], GRID, config, at=at, context=[2]) for i in order}
    for i in range(length):
        assert_same(window[i], alone[i])


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
