"""The compiled retrieval against its slow twin, and the thinning of candidates against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.scenes import GRID, keyframe, random_room_cameras, room_depth

from mosaicmem.geometry.se3 import axis_angle, make_transform
from mosaicmem.memory import Group, PatchStore, RetrievalConfig, retrieve
from mosaicmem.memory.pool import PatchPoints
from mosaicmem.memory.reference import pool_reference, retrieve_reference


def random_store(n: int, seed: int, *, holes: float = 0.1) -> PatchStore:
    """A room seen `n` times, with invalid cells, masked patches and one scaled and moved group."""
    g = torch.Generator().manual_seed(seed)
    groups = []
    for i, cam in enumerate(random_room_cameras(n, seed)):
        depth = room_depth(cam).float()
        frame = keyframe(depth, cam, frame=i, valid=torch.rand(depth.shape, generator=g) > holes)
        mask = torch.rand(*frame.tokens, generator=g) > 0.1 if i % 2 else None
        A = cam.c2w[0]
        if i == 1:
            G = make_transform(
                1.3 * axis_angle(torch.tensor([0.1, 1, 0]).double(), torch.tensor(0.2).double()),
                torch.tensor([0.1, 0, 0.2]).double(),
            )
            A = G @ A
        groups.append(Group(frame, A, mask, i))
    return PatchStore.from_groups(groups)


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(0, 100_000), st.sampled_from([0, 2]), st.sampled_from([None, 2.0]))
def test_the_compiled_path_gives_the_reference_answer(n: int, seed: int, steps: int, half_life: float | None) -> None:
    store = random_store(n, seed)
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


def test_the_twin_can_disagree() -> None:
    """Negative control: another tolerance is another answer, so agreement above means something."""
    store, view = random_store(4, 7), random_room_cameras(4, 7)[2]
    fast = retrieve(store, view, GRID, RetrievalConfig(max_sources=3))
    slow = retrieve_reference(store, view, GRID, RetrievalConfig(max_sources=3, min_weight=0.99))
    assert float((fast.source[0] == slow.source).double().mean()) < 0.99


@pytest.mark.parametrize("seed", range(3))
def test_thinning_sees_what_all_pairs_see(seed: int) -> None:
    store, view, config = random_store(12, seed, holes=0.0), random_room_cameras(1, seed + 100), RetrievalConfig()
    reach = config.rho_max * GRID.token_stride / 2
    points = PatchPoints(store, view, GRID, config.near * store.scale, reach, 2 * config.tau)
    seen, landed = points.seen(list(range(len(store))))
    expected = pool_reference(store, view, GRID, config)
    assert bool(expected.any()) and not bool(expected.all())
    assert float((torch.from_numpy(seen) == expected).double().mean()) >= 0.999
    assert ((landed > 0) | ~seen.any(1)).all()


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
    planes = np.zeros((8, 12, 3))
    _kernels.tangent_planes(depth.numpy(), valid.numpy(), MAX_SLOPE, MAX_BEND, planes)
    torch.testing.assert_close(torch.from_numpy(planes[..., 1:]), slopes)
    torch.testing.assert_close(tangent_planes(depth, valid)[..., 1:], slopes)
    known = valid.clone()
    known[2, :] = False  # a row with a gap may have no straight run of three
    torch.testing.assert_close(slopes[..., 0][:, :7][known[:, :7]], torch.full((49,), 0.02, dtype=torch.float64))
    assert bool((slopes[:, 7:] == 0).all()), "the far wall is flat right up to the edge"
    noise = depth * (1 + 0.05 * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0)))
    assert float((inverse_depth_slopes(noise, valid) != 0).double().mean()) < 0.3


def test_what_is_too_coarse_to_show_still_stands_in_the_way() -> None:
    from tests.memory.scenes import camera

    store = PatchStore.empty().insert(keyframe(9.0, camera(), frame=0))
    near = store.insert(keyframe(4.0, camera(at=(0, 0, -3.2)), frame=1))
    open_view = retrieve(store, camera(), GRID)
    blocked = retrieve(near, camera(), GRID)
    assert bool(open_view.good.all())
    assert 0.1 < float(blocked.holes.double().mean()) < 0.9, "where its cells land, not the wide gaps between"
    assert not bool((blocked.source == 1).any())
