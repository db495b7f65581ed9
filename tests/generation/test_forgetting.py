"""A rollout within a budget of memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.generation.test_rollout import _path, _started, _WallDepth

from mosaicmem.errors import ConfigError
from mosaicmem.generation.backend import Models
from mosaicmem.generation.keyframes import KeyframeConfig
from mosaicmem.generation.rollout import RolloutConfig, rollout
from mosaicmem.memory import PatchStore
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE

MODELS = Models(PixelShuffleVAE(), Compositor(invents=True), _WallDepth())


def run(memory_bytes: int | None, pinned: bool = False):
    """Along a wall and back, frames that all enter memory; the first, observed one perhaps pinned."""
    state = _started(MODELS)
    if pinned:
        state = replace(state, store=PatchStore.from_groups([replace(state.store.group(0), pinned=True)]))
    config = RolloutConfig(keyframes=KeyframeConfig(memory_bytes=memory_bytes))
    path = _path([0.0, 4.0, 4.5, 5.0, 5.5, 6.0, 0.0])
    return [event for _, event in rollout(MODELS, state, path, 2, config)], state.store.group(0).keyframe.nbytes


def test_memory_stays_within_its_budget_and_what_had_left_the_view_is_still_known() -> None:
    free, size = run(None)
    events, _ = run(4 * size)
    assert free[-1].store.bytes > 4 * size
    assert all(event.store.bytes <= 4 * size for event in events)
    assert events[-1].coverage[0] > 0.95, "the first view, though four newer ones of another place came after it"


def test_nothing_but_the_newest_and_what_is_pinned_exceeds_the_budget() -> None:
    events, _ = run(0)
    assert {event.store.keyframes for event in events if event.written} == {1}
    events, _ = run(0, pinned=True)
    assert {event.store.keyframes for event in events if event.written} == {2}
    with pytest.raises(ConfigError, match="memory_bytes = -1"):
        KeyframeConfig(memory_bytes=-1)
