"""The compiled retrieval against its slow twin, and the thinning of candidates against all pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.scenes import GRID, camera, keyframe, points_seen, random_room_cameras, room_depth

from mosaicmem.geometry.se3 import axis_angle, make_transform
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Group, PatchStore, RetrievalConfig, retrieve
from mosaicmem.memory.reference import pool_reference, retrieve_reference


def random_store(n: int, seed: int, *, holes: float = 0.1, times: bool = False, guessed: bool = False) -> PatchStore:
    """A room seen `n` times, with invalid cells, masked patches and one scaled and moved group; every third guessed."""
    g = torch.Generator().manual_seed(seed)
    groups = []
    for i, cam in enumerate(random_room_cameras(n, seed)):
        depth = room_depth(cam).float()
        frame = keyframe(depth, cam, frame=i, valid=torch.rand(depth.shape, generator=g) > holes)
        frame = replace(frame, origin="generated") if guessed and i % 3 == 0 else frame
        mask = torch.rand(*frame.tokens, generator=g) > 0.1 if i % 2 else None
        A = cam.c2w[0]
        if i == 1:
            G = make_transform(
                1.3 * axis_angle(torch.tensor([0.1, 1, 0]).double(), torch.tensor(0.2).double()),
                torch.tensor([0.1, 0, 0.2]).double(),
            )
            A = G @ A
        until = i + 2.0 if times and i % 3 == 0 else None
        groups.append(Group(frame, A, mask, i, until=until))
    return PatchStore.from_groups(groups)


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(0, 100_000), st.sampled_from([0, 2]), st.sampled_from([None, 2.0]))
def test_the_compiled_path_gives_the_reference_answer(n: int, seed: int, steps: int, half_life: float | None) -> None:
    store = random_store(n, seed, guessed=True)
    view = random_room_cameras(1, seed + 1)
    config = RetrievalConfig(max_sources=3, refine_steps=steps, half_life=half_life)
    fast, slow = retrieve(store, view, GRID, config), retrieve_reference(store, view, GRID, config)
    assert list(fast.picked[0]) == slow.picked
    same = fast.source[0] == slow.source
    assert float(same.double().mean()) >= 0.999  # a cell may tip at a threshold by rounding
    assert float((fast.owner[0] == slow.owner).double().mean()) >= 0.999
    assert float((fast.covered[0] == slow.covered).double().mean()) >= 0.999
    read = same & (slow.source >= 0)
    torch.testing.assert_close(fast.source_uv[0][read], slow.source_uv[read], rtol=0, atol=1e-6)
    torch.testing.assert_close(fast.depth[0][read], slow.depth[read], rtol=1e-9, atol=0)


@settings(max_examples=15)
@given(st.integers(2, 6), st.integers(0, 100_000), st.sampled_from([None, 0, 1, 2]), st.booleans())
def test_things_that_move_hide_as_in_the_reference(n: int, seed: int, edge: int | None, moved: bool) -> None:
    """A ball somewhere else in every frame of a short walk, seen from beside it; some frames are guesses."""
    g = torch.Generator().manual_seed(seed)
    frames = []
    for i in range(n):
        cam = camera(at=tuple((0.1 * torch.randn(3, generator=g)).tolist()))
        depth = room_depth(cam)
        row, column = (int(torch.randint(1, size - 1, (), generator=g)) for size in depth.shape)
        depth[row : row + 2, column : column + 2] *= 0.5
        frame = keyframe(depth.float(), cam, frame=i)
        frames.append(replace(frame, origin="generated") if torch.rand((), generator=g) < 0.3 else frame)
    groups = [Group(k, k.camera.c2w[0], None, i) for i, k in enumerate(frames)]
    if moved:
        groups[0] = replace(
            groups[0], world_from_cam=make_transform(torch.eye(3).double(), torch.ones(3).double() / 20)
        )
    store, config = PatchStore.from_groups(groups), RetrievalConfig(max_sources=4, edge=edge)
    fast, slow = retrieve(store, camera(), GRID, config), retrieve_reference(store, camera(), GRID, config)
    assert list(fast.picked[0]) == slow.picked
    assert float((fast.source[0] == slow.source).double().mean()) >= 0.99  # one cell in 128 may tip
    assert torch.equal(fast.covered[0], slow.covered)


@pytest.mark.parametrize(("seed", "at"), [(0, None), (1, 4.0), (2, 6.5)])
def test_the_compiled_path_thins_and_asks_for_a_time_as_the_reference_does(seed: int, at: float | None) -> None:
    store, view = random_store(10, seed, times=True), random_room_cameras(1, seed + 1)
    config = RetrievalConfig(max_sources=2, pool=2, half_life=3.0)
    fast, slow = retrieve(store, view, GRID, config, at=at), retrieve_reference(store, view, GRID, config, at=at)
    assert len(slow.picked) == 2 and list(fast.picked[0]) == slow.picked
    assert float((fast.source[0] == slow.source).double().mean()) >= 0.999
    assert torch.equal(fast.covered[0], slow.covered)


@pytest.mark.parametrize("seed", range(2))
def test_neither_blocks_nor_threads_change_the_answer(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    views, config = random_room_cameras(2, seed + 50), RetrievalConfig(max_sources=3, pool=4)
    expected = retrieve(random_store(12, seed), views, GRID, config)
    threads = torch.get_num_threads()
    for name in ("pool.WORTH_A_THREAD", "views.WORTH_A_THREAD", "views.READING_WORTH_A_THREAD"):
        monkeypatch.setattr(f"mosaicmem.memory.{name}", 0)
    try:
        for block, count in ((1, 2), (8, 3)):
            monkeypatch.setattr("mosaicmem.memory.store.BLOCK", block)
            store = random_store(12, seed)
            torch.set_num_threads(count)
            for some in (views, views[0], views[1]):
                mosaic = retrieve(store, some, GRID, config)
                at = [0, 1] if len(some) == 2 else [int(torch.equal(some.viewmats, views[1].viewmats))]
                assert mosaic.picked == tuple(expected.picked[i] for i in at)
                for name in ("source", "owner", "source_uv", "depth", "decisions", "gains"):
                    assert torch.equal(getattr(mosaic, name), getattr(expected, name)[at])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_blocks_hold_for_all_their_patches(seed: int) -> None:
    """Where a block may land, and how near it comes, by projecting its patches one by one."""
    from mosaicmem.memory import _pool_kernels

    store, cam = random_store(6, seed), random_room_cameras(1, seed + 20)
    V, K, (m, n), s = cam.viewmats[0].numpy(), cam.Ks[0].numpy(), GRID.tokens, GRID.token_stride
    b, active, near = store.num_blocks, np.arange(len(store)), 0.04
    live, front = np.zeros((b, 2), np.int32), np.zeros(b, np.float32)
    rect, whole = np.zeros((b, 4), np.int16), np.zeros(b, np.bool_)
    lens = K.diagonal()[:2].copy(), K[:2, 2].copy()
    index = store.blocks.numpy(), store.block_offsets.numpy()
    count = _pool_kernels.live_blocks(
        *index, active, active, m, n, V[:3], *lens, s, near, 2.0 * s, live, front, rect, whole
    )
    assert 0 < count < b, "some blocks are out of view"
    x = store.centers.double().numpy() @ V[:3, :3].T + V[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = x[:, :2] / x[:, 2:] * lens[0] + lens[1]
        half = np.clip(store.radii.numpy() * K[0, 0] / x[:, 2], s / 2, 2 * s)[:, None]
    hits = (x[:, 2] > near) & (uv + half > 0).all(1) & (uv - half < [n * s, m * s]).all(1)
    rows = store.block_rows.numpy()
    at = {int(block): k for k, block in enumerate(live[:count, 1])}
    for block in range(b):
        own = np.arange(rows[block], rows[block + 1])
        own = own[hits[own]]
        assert block in at or not len(own), "what lands is not skipped"
        if len(own):
            k = at[block]
            low, high = (np.ceil((uv + d * half)[own] / s - 0.5) for d in (-1, 1))
            assert (x[own, 2] >= front[k] - 1e-6).all()
            assert (low.clip(0)[:, 1] >= rect[k, 0]).all() and (high[:, 1].clip(max=m) - 1 <= rect[k, 1]).all()
            assert (low.clip(0)[:, 0] >= rect[k, 2]).all() and (high[:, 0].clip(max=n) - 1 <= rect[k, 3]).all()
        if block in at and whole[at[block]]:
            assert len(own) == rows[block + 1] - rows[block]


def test_an_error_in_one_of_several_threads_is_raised() -> None:
    from mosaicmem.memory._threads import for_each

    threads, done = torch.get_num_threads(), []

    def task(i: int) -> None:
        if i == 5:
            raise ValueError("five")
        done.append(i)

    try:
        torch.set_num_threads(3)
        with pytest.raises(ValueError, match="five"):
            for_each(task, 8, worth=True)
        for_each(done.append, 100, worth=True)
    finally:
        torch.set_num_threads(threads)
    assert sorted(done)[-90:] == list(range(10, 100))


def test_the_twin_can_disagree() -> None:
    """Negative control: another tolerance is another answer, so agreement above means something."""
    store, view = random_store(4, 7), random_room_cameras(4, 7)[2]
    fast = retrieve(store, view, GRID, RetrievalConfig(max_sources=3))
    slow = retrieve_reference(store, view, GRID, RetrievalConfig(max_sources=3, min_weight=0.99))
    assert float((fast.source[0] == slow.source).double().mean()) < 0.99


@pytest.mark.parametrize("seed", range(3))
def test_thinning_sees_what_all_pairs_see(seed: int) -> None:
    store, view, config = random_store(12, seed, holes=0.0), random_room_cameras(1, seed + 100), RetrievalConfig()
    points = points_seen(store, view, config)
    seen, landed = points.seen(list(range(len(store))))
    expected, _ = pool_reference(store, view, GRID, config)
    assert bool(expected.any()) and not bool(expected.all())
    assert float((torch.from_numpy(seen) == expected).double().mean()) >= 0.999
    assert (landed | ~seen.any(1)).all()


@pytest.mark.parametrize("seed", [1, 2, 11])
def test_a_thinned_pool_covers_as_much_as_looking_at_everything(seed: int) -> None:
    store = PatchStore.empty()
    for i, cam in enumerate(random_room_cameras(30, seed)):
        store = store.insert(keyframe(room_depth(cam).float(), cam, frame=i))
    views = random_room_cameras(6, seed + 1)
    thin = retrieve(store, views, GRID, RetrievalConfig(pool=12)).coverage.mean()
    full = retrieve(store, views, GRID, RetrievalConfig(pool=30)).coverage.mean()
    assert float(thin) > 0.98 * float(full)


def test_slopes_are_those_of_planes_and_stop_at_edges() -> None:
    """The kernel, its torch twin and the loop agree; on a plane seen at a slant they are the closed form."""
    from mosaicmem.geometry.warps import MAX_BEND, MAX_SLOPE, inverse_depth_slopes
    from mosaicmem.memory import _kernels
    from mosaicmem.memory.reference import tangent_planes

    x, y = torch.meshgrid(torch.arange(12.0).double(), torch.arange(8.0).double(), indexing="xy")
    depth = 1 / (0.5 + 0.02 * x - 0.01 * y)
    depth[:, 7:] = 9.0
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[2, 3] = False
    slopes = inverse_depth_slopes(depth, valid)
    planes = np.zeros((3, 10, 14))
    _kernels.tangent_planes(depth.numpy(), valid.numpy(), MAX_SLOPE, MAX_BEND, planes)
    torch.testing.assert_close(torch.from_numpy(planes[1:, 1:-1, 1:-1]).movedim(0, -1), slopes)
    torch.testing.assert_close(tangent_planes(depth, valid)[..., 1:], slopes)
    known = valid.clone()
    known[2, :] = False  # a row with a gap may have no straight run of three
    torch.testing.assert_close(slopes[..., 0][:, :7][known[:, :7]], torch.full((49,), 0.02, dtype=torch.float64))
    assert bool((slopes[:, 7:] == 0).all()), "the far wall is flat right up to the edge"
    noise = depth * (1 + 0.05 * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0)))
    assert float((inverse_depth_slopes(noise, valid) != 0).double().mean()) < 0.3


def test_pixel_maps_are_products_of_matrices() -> None:
    from mosaicmem.memory import _kernels

    cameras = random_room_cameras(4, 3)
    A, K = cameras.c2w[:3].clone(), cameras.Ks.clone()
    A[1, :3, :3] *= 1.7
    K[:, 0, 0], K[:, 1, 2] = torch.tensor([90.0, 100, 110, 95]), torch.tensor([30.0, 31, 32, 33])
    P, Q, center = np.empty((3, 3, 4)), np.empty((3, 3, 4)), np.empty((3, 3))
    _kernels.pixel_maps(A.numpy(), K[:3].numpy(), cameras.viewmats[3].numpy(), K[3].numpy(), P, Q, center)
    there = cameras.viewmats[3] @ A
    for maps, T, to, fro in ((P, there, K[3], K[:3]), (Q, torch.linalg.inv(there), K[:3], K[3])):
        expected = to @ T[:, :3]
        expected[..., :3] = expected[..., :3] @ torch.linalg.inv(fro)
        torch.testing.assert_close(torch.from_numpy(maps), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(torch.from_numpy(center), there[:, :3, 3])


def test_what_is_too_coarse_to_show_still_stands_in_the_way() -> None:

    store = PatchStore.empty().insert(keyframe(9.0, camera(), frame=0))
    near = store.insert(keyframe(4.0, camera(at=(0, 0, -3.2)), frame=1))
    open_view = retrieve(store, camera(), GRID)
    blocked = retrieve(near, camera(), GRID, RetrievalConfig(look_past=0))  # who stood here saw nothing in the way
    assert bool(open_view.good.all())
    assert 0.1 < float(blocked.holes.double().mean()) < 0.9, "where its cells land, not the wide gaps between"
    assert not bool((blocked.source == 1).any())


def test_a_memory_of_200_000_patches_is_read_as_the_reference_reads_it() -> None:
    """With 5 million, at full size and from a file: `python benchmarks/retrieval.py --against-reference 5000000`."""
    grid = TokenGrid(256, 128, stride=8, patch=1)
    store = PatchStore.empty()
    for i, cam in enumerate(random_room_cameras(391, 5, grid)):
        store = store.insert(keyframe(room_depth(cam, grid).float(), cam, grid, frame=i))
    assert store.num_patches > 200_000
    view = random_room_cameras(1, 6, grid)
    fast, slow = retrieve(store, view, grid), retrieve_reference(store, view, grid)
    assert list(fast.picked[0]) == slow.picked
    assert float((fast.owner[0] == slow.owner).double().mean()) >= 0.999
    assert torch.equal(fast.covered[0], slow.covered)


def test_whoever_has_most_votes_comes_first_and_the_earlier_pick_on_ties() -> None:
    from mosaicmem.memory import _choice_kernels

    columns = np.array([[1.0, 1.0], [2.0, 1.0], [0.5, 1.5], [3.0, 0.0]])
    votes, best = np.empty((4, 1)), np.empty(1, np.int64)
    _choice_kernels._rank(columns, 2, votes, best)
    order = [int(best[0])]
    while len(order) < 4:
        order.append(_choice_kernels._next(votes, 0, order[-1]))
    assert order == [1, 3, 0, 2]
