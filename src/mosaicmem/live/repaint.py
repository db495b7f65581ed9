"""Standing somewhere else, or in another memory: what is looked at becomes what memory shows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.generation.state import RolloutState
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.live.steps import Maker, remembered
from mosaicmem.memory.retrieval import RetrievalConfig, retrieve
from mosaicmem.memory.store import PatchStore

VISIBLE = 4 / 127.5
"""Difference of a colour, in [-1, 1], from which on two pictures count as different."""


def repainted(maker: Maker, state: RolloutState, store: PatchStore) -> RolloutState:
    """The state in an edited memory: its frame shows what the new memory shows, wherever that differs from the old.

    The frame anchors the next window, and would bring back what the edit took away. What no memory knows of it stays.
    """
    (old, old_good), (new, new_good) = (_view(maker, s, state, maker.retrieval) for s in (state.store, store))
    differs = ((old - new).abs().amax(0) > VISIBLE) | (old_good != new_good)
    differs &= old_good | new_good
    # a cell around, since what the autoencoder shows reaches a little beyond
    s = state.grid.stride
    wide = F.max_pool2d(differs.float()[None, None], 2 * s + 1, 1, s)[0, 0] > 0
    frame = torch.where(wide, new, state.last_frame)
    return _looking_at(maker, replace(state, store=store), frame, state.camera)


def moved_to(maker: Maker, state: RolloutState, camera: Cameras) -> RolloutState:
    """The state with its eye at another camera: the next frame is what memory shows there, holes filled smoothly.

    Raises:
        GeometryError: if memory shows nothing there.
    """
    there = replace(state, camera=camera.to(dtype=torch.float64))
    # of one moment: not of all places where what moves was seen
    frame, good = _view(maker, state.store, there, maker.config.retrieval)
    if not bool(good.any()):
        raise GeometryError("memory shows nothing there; expected a place from which something was seen")
    return replace(_looking_at(maker, there, frame, there.camera), next_frame=state.next_frame + 1)


def _view(
    maker: Maker, store: PatchStore, state: RolloutState, retrieval: RetrievalConfig
) -> tuple[Float[Tensor, "3 H W"], Tensor]:
    mosaic = retrieve(store, state.camera, state.grid, retrieval)
    ((picture, good),) = remembered(maker.models.vae, store, mosaic, retrieval)
    return picture.float(), torch.from_numpy(good)


def _looking_at(maker: Maker, state: RolloutState, frame: Tensor, camera: Cameras) -> RolloutState:
    anchor = maker.models.vae.encode_image(frame[None])[0] if maker.generates else state.anchor
    return replace(state, last_frame=frame, anchor=anchor, camera=camera, context=None, anchor_pending=False, past=None)
