"""Views of a mosaic, taken out and put together again."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.scenes import GRID, keyframe, random_room_cameras, room_depth

from mosaicmem.geometry.cameras import Cameras
from mosaicmem.memory import Mosaic, PatchStore, RetrievalConfig, retrieve

N = 5


def mosaic() -> Mosaic:
    """Five views of a room seen three times, of which some keep two groups and some fewer."""
    store = PatchStore.empty()
    for i, cam in enumerate(random_room_cameras(3, 0)):
        store = store.insert(keyframe(room_depth(cam).float(), cam, frame=i))
    return retrieve(store, random_room_cameras(N, 1), GRID, RetrievalConfig(max_sources=2))


WHOLE = mosaic()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Cameras):
        return same(a.viewmats, b.viewmats) and same(a.Ks, b.Ks) and (a.width, a.height) == (b.width, b.height)
    return torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b


def equal(a: Mosaic, b: Mosaic) -> bool:
    return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(Mosaic))


def by_hand(views: list[int]) -> list[tuple[torch.Tensor, tuple[int, ...], Cameras]]:
    return [(WHOLE.source[i], WHOLE.picked[i], WHOLE.cameras[i]) for i in views]


INDEX = st.one_of(
    st.lists(st.integers(-N, N - 1), min_size=1, max_size=7),
    st.slices(N).filter(lambda s: len(range(N)[s]) > 0),
    st.integers(-N, N - 1),
)


@given(INDEX)
def test_views_are_those_a_list_would_give(index):
    rows = [range(N)[i] for i in index] if isinstance(index, list) else range(N)[index]
    rows = [rows] if isinstance(rows, int) else list(rows)
    found = WHOLE[index]
    assert len(found) == len(rows)
    assert equal(found, Mosaic.cat([WHOLE[i] for i in rows]))
    for i, (source, picked, camera) in enumerate(by_hand(rows)):
        assert torch.equal(found.source[i], source) and found.picked[i] == picked
        assert torch.equal(found.cameras.viewmats[i], camera.viewmats[0])
    assert equal(found, WHOLE) == (rows == list(range(N)))


def test_nothing_and_everything():
    assert len(WHOLE[5:]) == len(WHOLE[[]]) == 0
    assert WHOLE[:0].source.shape == (0, *GRID.cells)
    assert equal(Mosaic.cat([WHOLE[:2], WHOLE[2:]]), WHOLE) and not equal(Mosaic.cat([WHOLE[2:], WHOLE[:2]]), WHOLE)
    assert len(set(WHOLE.picked)) > 1, "views differ, or nothing above means anything"
    for outside in (N, -N - 1, [0, N]):
        with pytest.raises(IndexError):
            WHOLE[outside]
