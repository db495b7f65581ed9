"""Forgetting: what a budget may cost, and what it must never cost."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.scenes import GRID, camera, keyframe, random_room_cameras, room_depth, turned

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Group, Keyframe, PatchStore, forgetting_reference, retrieve
from mosaicmem.memory.forgetting import ForgetConfig, forget, forget_oldest, store_bytes

EXACT = ForgetConfig(slack=0.0)
ONE = keyframe(4.0, camera()).nbytes
SMALL = TokenGrid(32, 16, stride=8, patch=1)


def room(n: int, seed: int, grid: TokenGrid = GRID) -> PatchStore:
    cameras = random_room_cameras(n, seed, grid)
    return store_of([keyframe(room_depth(c, grid), c, grid, frame=i) for i, c in enumerate(cameras)])


def store_of(keyframes: list[Keyframe]) -> PatchStore:
    store = PatchStore.empty()
    for frame in keyframes:
        store = store.insert(frame)
    return store


def frames(store: PatchStore) -> list[int]:
    return [group.keyframe.frame for group in store]


def edited(store: PatchStore, pinned: set[int], past: set[int], masked: set[int]) -> PatchStore:
    """Some groups pinned, some superseded, some cut in two groups of one keyframe."""
    groups: list[Group] = []
    for g, group in enumerate(store):
        group = replace(group, pinned=g in pinned, until=99.0 if g in past else None)
        if g in masked:
            left = torch.zeros(group.keyframe.tokens, dtype=torch.bool)
            left[:, ::2] = True
            groups += [replace(group, mask=left), replace(group, mask=~left)]
        else:
            groups.append(group)
    return PatchStore.from_groups([replace(group, uid=i) for i, group in enumerate(groups)])


@settings(max_examples=10, deadline=None)
@given(
    st.integers(2, 6),
    st.integers(0, 1000),
    st.floats(0, 1.2),
    st.sets(st.integers(0, 5), max_size=2),
    st.sets(st.integers(0, 5), max_size=2),
    st.sets(st.integers(0, 5), max_size=2),
)
def test_the_heap_forgets_what_trying_everything_forgets(n, seed, share, pinned, past, masked) -> None:
    store = edited(room(n, seed, SMALL), pinned, past, masked)
    budget = int(share * store_bytes(store))
    for config in (EXACT, ForgetConfig(voxel=3.0, octaves=0, history=1.0)):
        fast, slow = (
            forget(store, budget, config, keep={0}),
            forgetting_reference.forget(store, budget, config, keep={0}),
        )
        assert [group.uid for group in fast] == [group.uid for group in slow]


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 7), st.integers(0, 1000), st.floats(0, 1.2), st.sets(st.integers(0, 6), max_size=3), st.booleans()
)
def test_the_budget_holds_what_is_pinned_stays_and_twice_is_once(n, seed, share, pinned, oldest) -> None:
    store = edited(room(n, seed, SMALL), pinned, set(), {0})
    rule = forget_oldest if oldest else forget
    budget = int(share * store_bytes(store))
    for config in (EXACT, ForgetConfig()):
        left = rule(store, budget, config)
        must = [group.uid for group in store if group.pinned or any(
            other.pinned and other.keyframe is group.keyframe for other in store
        )]  # fmt: skip
        assert set(must) <= {group.uid for group in left}
        others = [group for group in left if group.uid not in must]
        assert store_bytes(left) <= budget or not others, "only what is pinned may exceed it"
        assert rule(left, budget, config) is left
        assert [group for group in store if group.uid in {g.uid for g in left}] == list(left), "the rest is untouched"


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 100), st.integers(1, 5))
def test_the_order_of_insertion_does_not_matter(order, seed, keep) -> None:
    """Ages differ, so there are no ties; uids follow the order of insertion and decide nothing."""
    cameras = random_room_cameras(6, seed, SMALL)
    made = [keyframe(room_depth(c, SMALL), c, SMALL, frame=i) for i, c in enumerate(cameras)]
    budget = keep * made[0].nbytes
    assert set(frames(forget(store_of(made), budget, EXACT))) == set(
        frames(forget(store_of([made[i] for i in order]), budget, EXACT))
    )


def test_what_one_view_alone_saw_outlives_any_number_of_duplicates() -> None:
    alone = keyframe(4.0, turned(3.0), frame=0)  # the oldest
    crowd = [keyframe(4.0, camera(at=(0.001 * i, 0, 0)), frame=1 + i) for i in range(9)]
    store = store_of([alone, *crowd])
    assert set(frames(forget(store, 2 * ONE, EXACT))) >= {0}
    assert frames(forget_oldest(store, 2 * ONE, EXACT)) == [8, 9], "negative control: by age it is the first to go"
    kept = forget(store, 2 * ONE, EXACT)
    for view in (alone, crowd[0]):
        before = float(retrieve(store, view.camera, GRID).coverage[0])
        assert float(retrieve(kept, view.camera, GRID).coverage[0]) > 0.98 * before


@pytest.mark.parametrize("seed", range(3))
def test_no_place_seen_once_is_lost_while_a_keyframe_shows_nothing_alone(seed: int) -> None:
    """A second copy of every keyframe is spare; forgetting down to half the bytes costs no coverage at all."""
    cameras = random_room_cameras(5, seed)
    made = [keyframe(room_depth(c), c, frame=i) for i, c in enumerate(cameras)]
    copies = [replace(frame, frame=10 + i, time=10.0 + i) for i, frame in enumerate(made)]
    store = store_of(made + copies)
    kept = forget(store, store_bytes(store) // 2, EXACT)
    assert sorted(f % 10 for f in frames(kept)) == list(range(5)), "one of each pair"
    before, after = (retrieve(s, cameras, GRID).coverage for s in (store, kept))
    assert torch.equal(before, after)
    assert (retrieve(forget_oldest(store, store_bytes(store) // 4, EXACT), cameras, GRID).coverage < before).any()


def test_of_two_views_of_one_surface_the_sharper_stays_then_the_more_trusted_then_the_older() -> None:
    def wall(distance: float, frame: int, confidence: float = 1.0, origin: str = "observed") -> Keyframe:
        made = keyframe(distance, camera(at=(0, 0, 4 - distance)), frame=frame)
        return replace(made, confidence=torch.full_like(made.depth, confidence), origin=origin)  # pyright: ignore

    pairs = {
        "nearer": (wall(4.0, 0), wall(3.9, 1)),
        "trusted": (wall(4.0, 0, 0.5), wall(4.0, 1, 0.9)),
        "observed": (wall(4.0, 0, 0.9, "generated"), wall(4.0, 1, 0.5)),
    }
    for name, (worse, better) in pairs.items():
        for store in (store_of([worse, better]), store_of([better, worse])):
            assert frames(forget(store, ONE, EXACT)) == [1], name
    assert frames(forget(store_of([wall(4.0, 0), wall(4.0, 1)]), ONE, EXACT)) == [0]


def test_a_close_view_stands_in_for_a_distant_one_but_not_the_other_way_round() -> None:
    """The same picture at half the resolution: twice the footprint, a quarter of the bytes, and it is spare."""
    half = TokenGrid(64, 32, stride=8, patch=2)
    fine, coarse = keyframe(4.0, camera(), frame=0), keyframe(4.0, camera(half, f=50.0), half, frame=1)
    for store in (store_of([fine, coarse]), store_of([coarse, fine])):
        assert frames(forget(store, store_bytes(store) - 1, EXACT)) == [0]
        alone = forget(store, store_bytes(store) - 1, replace(EXACT, octaves=0))
        assert frames(alone) == [1], "where each octave stands for itself, the coarse one costs as much per byte"


def test_history_goes_before_the_present_but_both_count() -> None:
    a, b = keyframe(4.0, turned(0.0), frame=0), keyframe(4.0, turned(2.0), frame=1)
    store = store_of([b, a])
    past = PatchStore.from_groups([replace(store.group(0), until=5.0), store.group(1)])
    assert frames(forget(past, ONE, EXACT)) == [0]
    same = store_of([replace(a, frame=7), a])
    past = PatchStore.from_groups([replace(same.group(0), until=5.0), same.group(1)])
    double = PatchStore.from_groups([*past, replace(same.group(1), uid=2, keyframe=replace(a, frame=8, time=8.0))])
    assert frames(forget(double, 2 * ONE, EXACT)) == [7, 0], "the past stands alone beside its present twin"


def test_content_counts_until_its_last_patch_is_gone() -> None:
    frame = keyframe(4.0, camera())
    store = store_of([frame])
    mask = torch.zeros(frame.tokens, dtype=torch.bool)
    mask[0, 0] = True
    one = PatchStore.from_groups([replace(store.group(0), mask=mask)])
    assert (
        store_bytes(store) == ONE == sum(t.nbytes for t in (frame.latents, frame.depth, frame.valid, frame.confidence))
    )
    assert store_bytes(one) == ONE + mask.nbytes
    shared = PatchStore.from_groups([one.group(0), replace(one.group(0), mask=~mask, uid=1)])
    assert store_bytes(shared) == ONE + 2 * mask.nbytes
    assert len(forget(shared, ONE, EXACT)) == 0, "groups of one keyframe are freed together"


def test_slack_frees_more_at_once_so_that_few_inserts_forget() -> None:
    cameras = random_room_cameras(24, 3, SMALL)
    size = keyframe(room_depth(cameras[0], SMALL), cameras[0], SMALL).nbytes
    rebuilt = {}
    for slack in (0.0, 0.5):
        store, rebuilt[slack] = PatchStore.empty(), 0
        for i, c in enumerate(cameras):
            store = store.insert(keyframe(room_depth(c, SMALL), c, SMALL, frame=i))
            less = forget(store, 8 * size, ForgetConfig(slack=slack))
            rebuilt[slack] += less is not store
            store = less
            assert store_bytes(store) <= 8 * size
    assert rebuilt == {0.0: 16, 0.5: 4}


def test_what_is_forgotten_is_freed() -> None:
    """A small soak: inserts and queries within a budget hold on to no keyframe beyond it."""
    cameras = random_room_cameras(40, 3, SMALL)
    store, alive = PatchStore.empty(), []
    for i, c in enumerate(cameras):
        frame = keyframe(room_depth(c, SMALL), c, SMALL, frame=i)
        alive.append(weakref.ref(frame.latents))
        store = forget(store.insert(frame), 8 * frame.nbytes, keep={i})
        retrieve(store, c, SMALL)
        del frame
        gc.collect(0)
        assert store.groups[-1].keyframe.frame == i
    gc.collect()
    assert sum(ref() is not None for ref in alive) == len(store) <= 8


def test_every_setting_matters() -> None:
    store = edited(room(8, 5), set(), {1, 2, 4}, set())
    base = frames(forget(store, 4 * ONE, EXACT))
    for other in (
        ForgetConfig(voxel=8.0, slack=0), ForgetConfig(history=1.0, slack=0),
        ForgetConfig(slack=0.5),
    ):  # fmt: skip
        assert frames(forget(store, 4 * ONE, other)) != base, other


def test_what_makes_no_sense_is_refused_and_nothing_is_fine() -> None:
    with pytest.raises(ConfigError, match=r"voxel = 0.*octaves = 9.*history = 2.*slack = 1"):
        ForgetConfig(0.0, 9, 2.0, 1.0)
    for rule in (forget, forget_oldest):
        with pytest.raises(GeometryError, match="a budget of -1 bytes"):
            rule(PatchStore.empty(), -1)
        assert len(rule(PatchStore.empty(), 0)) == 0
    blind = keyframe(4.0, camera(), valid=torch.zeros(GRID.cells, dtype=torch.bool))
    assert frames(forget(store_of([keyframe(4.0, camera(), frame=1), blind]), ONE, EXACT)) == [1]
    assert len(forget(store_of([blind]), 0, EXACT)) == 0
