"""The scale of new depth: agreed with what was observed, never with earlier guesses alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from tests.memory.scenes import GRID, camera, keyframe

from mosaicmem.depth.estimator import DepthEstimate, DepthInfo
from mosaicmem.generation.depth import depth_of
from mosaicmem.memory import PatchStore, retrieve

WALL = 4.0


class _Metric:
    """Sees the wall `factor` times too far."""

    def __init__(self, factor: float, scale_source: str = "metric") -> None:
        self.factor, self.info = factor, DepthInfo("metric", True, scale_source)  # pyright: ignore

    def estimate(self, frames, cameras):
        depth = torch.full((len(frames), GRID.height, GRID.width), WALL * self.factor)
        return DepthEstimate(depth, torch.ones_like(depth), self.info)


def _asked(factor: float, origin: str, previous: float | None, scale_source: str = "metric"):
    store = PatchStore.empty().insert(replace(keyframe(WALL, camera()), origin=origin))  # pyright: ignore
    mosaic = retrieve(store, camera(), GRID)
    frames = torch.zeros(1, 3, GRID.height, GRID.width)
    observed = torch.tensor([origin == "observed"])
    return depth_of(_Metric(factor, scale_source), frames, mosaic, previous, observed)  # pyright: ignore


def test_observed_memory_moves_the_scale_and_generated_memory_does_not() -> None:
    seen, guessed = _asked(1.1, "observed", 1.0), _asked(1.1, "generated", 1.0)
    for found in (seen, guessed):
        assert torch.allclose(found.depth, torch.tensor(WALL), rtol=1e-4), "both lie where memory lies"
        assert found.source == "estimated"
    assert seen.scale is not None and abs(seen.scale - 1 / 1.1) < 1e-6
    assert guessed.scale == 1.0


def test_depth_that_follows_its_own_guesses_neither_shrinks_nor_grows_without_end() -> None:
    """Every window sees memory twice as near as the last one made it; the scale last agreed to holds."""
    scale: float | None = 1.0
    for _ in range(10):
        found = _asked(2.0, "generated", scale)
        scale = found.scale
        assert float(found.depth.mean()) > WALL * 2.0 / 1.26, "at most one step from the scale agreed to"
    assert scale == 1.0
    observed: float | None = 1.0
    for _ in range(10):
        observed = _asked(2.0, "observed", observed).scale
    assert observed is not None and abs(observed - 0.5) < 1e-6, "control: what was observed may pull as far as it likes"


def test_without_anything_observed_the_first_scale_is_taken_and_relative_depth_follows_memory() -> None:
    first = _asked(2.0, "generated", None)
    assert first.scale is not None and abs(first.scale - 0.5) < 1e-6
    relative = _asked(2.0, "generated", 1.0, scale_source="median")
    assert relative.scale is not None and abs(relative.scale - 0.5) < 1e-6
