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
    from mosaicmem.memory import _kernels

    store, view, config = random_store(12, seed, holes=0.0), random_room_cameras(1, seed + 100), RetrievalConfig()
    m, n = GRID.tokens
    stride = np.float32(GRID.token_stride)
    active = np.arange(len(store))
    geometry = (
        store.centers.numpy(),
        store.radii.numpy(),
        np.asarray(store.offsets, np.int64),
        active,
        view.viewmats[0, :3].numpy().astype(np.float32),
        view.Ks[0].numpy().diagonal()[:2].astype(np.float32),
        view.Ks[0, :2, 2].numpy().astype(np.float32),
        stride,
        np.float32(config.near * store.scale),
        np.float32(config.rho_max) * stride / 2,
    )
    zbuf = np.full((m, n), np.inf, np.float32)
    _kernels.pool_zbuffer(*geometry, zbuf)
    landed, seen = np.zeros(len(active), np.int64), np.zeros((len(active), m, n), np.bool_)
    _kernels.pool_visible(*geometry, np.float32(2 * config.tau), zbuf, landed, seen)
    expected = pool_reference(store, view, GRID, config)
    agreement = torch.from_numpy(seen.reshape(len(active), -1)) == expected
    assert bool(expected.any()) and not bool(expected.all())
    assert float(agreement.double().mean()) >= 0.999


@pytest.mark.parametrize("seed", [1, 2, 11])
def test_a_thinned_pool_covers_as_much_as_looking_at_everything(seed: int) -> None:
    store = PatchStore.empty()
    for i, cam in enumerate(random_room_cameras(30, seed)):
        store = store.insert(keyframe(room_depth(cam).float(), cam, frame=i))
    views = random_room_cameras(6, seed + 1)
    thin = retrieve(store, views, GRID, RetrievalConfig(pool=12)).coverage.mean()
    full = retrieve(store, views, GRID, RetrievalConfig(pool=30)).coverage.mean()
    assert float(thin) > 0.98 * float(full)
