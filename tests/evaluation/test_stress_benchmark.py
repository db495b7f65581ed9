"""The stress lab spoils what it says, alignment and confidence repair what they can, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.apps.conftest import write_recording

from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.stress_benchmark import (
    SKY_DEPTH,
    VARIANTS,
    Clip,
    Score,
    StressConfig,
    recall,
    recorded_clip,
    remember,
    run_stress,
    spoil,
    summarize_stress,
    world_clip,
)
from mosaicmem.worlds import make_scene
from mosaicmem.worlds.film import film

TINY = StressConfig(worlds=1, frames=64, every=4, asked=4, width=48, height=32)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames of a room with exact depth."""
    scene = make_scene(5, movers=False)
    walk = scene.walk(5, 40, width=48, height=32)[:9]
    shown = film(scene, walk, finer=1)
    return write_recording(tmp_path_factory.mktemp("data") / "recording", walk, shown.rgb, shown.depth)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return world_clip(0, "sky", TINY)


def spoilt(clip: Clip, stress: str):
    return spoil(clip, stress, torch.Generator().manual_seed(0))


def test_each_row_spoils_what_it_says_and_nothing_else(clip: Clip) -> None:
    true = clip.seen
    known = true.depth > 0
    exact, scaled, drift = (spoilt(clip, name) for name in ("exact", "scale 1.1", "drift 2 cm"))
    noise, sky = spoilt(clip, "noise 10 %"), spoilt(clip, "sky")
    for name in ("depth", "confidence", "rgb"):
        assert torch.equal(getattr(exact, name), getattr(true, name))
    assert torch.equal(scaled.depth[0], true.depth[0]), "the first frame sets the scale"
    torch.testing.assert_close(scaled.depth[1:], 1.1 * true.depth[1:])
    moved = (drift.cameras.centers - true.cameras.centers).norm(dim=-1)
    torch.testing.assert_close(moved, 0.02 * torch.arange(len(moved)).double(), rtol=0, atol=1e-5)
    assert torch.equal(drift.depth, true.depth)
    error = (noise.depth[1:] / true.depth[1:]).log().abs()[known[1:]]
    believed = noise.confidence[1:][known[1:]]
    assert float(error[believed < 0.3].mean()) > 4 * float(error[believed > 0.7].mean()) > 0
    assert bool((sky.depth[~known] == SKY_DEPTH).all()) and torch.equal(sky.depth[known], true.depth[known])
    assert torch.equal(sky.confidence == 0, ~known) and float((~known).double().mean()) > 0.02


def test_alignment_undoes_a_scale_and_confidence_leaves_the_sky_out(clip: Clip) -> None:
    def memory(stress: str, align: bool, believe: bool):
        return remember(spoilt(clip, stress), TINY, align=align, believe=believe)

    honest = memory("exact", True, False)
    for stress in ("scale 1.05", "scale 1.1"):
        store = memory(stress, True, False)
        for a, b in zip(store, honest, strict=True):
            both = a.keyframe.valid & b.keyframe.valid
            torch.testing.assert_close(a.keyframe.depth[both], b.keyframe.depth[both], rtol=1e-3, atol=0)
    raw = memory("scale 1.1", False, False)
    wrong = raw.group(1).keyframe.depth / memory("exact", False, False).group(1).keyframe.depth
    assert float(wrong.nanmedian()) == pytest.approx(1.1), "negative control: unaligned, it stays"
    sky = clip.seen.depth <= 0
    for believe in (False, True):
        valid = torch.stack([group.keyframe.valid for group in memory("sky", False, believe)])
        assert bool((valid & sky).any()) is not believe


def test_errors_cost_what_is_shown(clip: Clip) -> None:
    found = {
        stress: recall(remember(spoilt(clip, stress), TINY, align=False, believe=False), clip, TINY)
        for stress in ("exact", "scale 1.1", "drift 2 cm", "noise 10 %")
    }
    coverage, exact = found.pop("exact")
    assert coverage > 0.9 and exact > 30
    assert all(value < exact for _, value in found.values()), found
    blind = remember(spoilt(clip, "exact"), StressConfig(min_confidence=1.0), align=False, believe=False)
    assert recall(blind, clip, TINY)[0] == coverage, "without confidence, its threshold is nothing"


def test_moving_things_are_left_out_where_they_are_believed_to_move() -> None:
    clip = world_clip(0, "moving things", TINY)
    assert float(clip.moving.double().mean()) > 0.02
    for believe in (False, True):
        store = remember(spoilt(clip, "moving things"), TINY, align=False, believe=believe)
        valid = torch.stack([group.keyframe.valid for group in store])
        assert bool((valid & clip.moving).any()) is not believe


def test_rows_and_their_means() -> None:
    scores = list(run_stress(StressConfig(1, 16, 4, 2, 32, 24, stresses=("exact", "sky"))))
    assert [(s.stress, s.variant) for s in scores] == [(a, b) for a in ("exact", "sky") for b in VARIANTS]
    a, b = Score("a", "sky", "aligned", 0.5, 20.0), Score("b", "sky", "aligned", 0.7, math.nan)
    others = [Score("a", "sky", variant, 0.0, math.nan) for variant in VARIANTS if variant != "aligned"]
    rows = summarize_stress([a, b, *others])
    assert rows["sky"]["aligned"] == {"coverage": pytest.approx(0.6), "psnr": 20.0, "clips": 2}
    assert math.isnan(rows["sky"]["both"]["psnr"])


def test_a_recording_takes_the_place_of_worlds(recording) -> None:
    config = StressConfig(every=2, asked=2, width=48, height=32)
    clip = recorded_clip(recording, config)
    assert len(clip.seen.cameras) == 3 and len(clip.cameras) == 2
    assert clip.truth.shape[-2:] == (32, 48) and bool((clip.seen.depth > 0).any())
    with pytest.raises(ConfigError, match="9 frames; to recall 12"):
        recorded_clip(recording, StressConfig())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"worlds = 0.*every = 1.*multiples of 8.*unknown rows fog"):
        StressConfig(worlds=0, every=1, width=100, stresses=("fog",))
