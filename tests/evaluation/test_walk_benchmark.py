"""Walks that come home: where they lead, and what is measured at their end."""

from __future__ import annotations

import math

import pytest
import torch
from tests.tiny_models import write_tiny_model

from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.walk_benchmark import (
    WalkConfig,
    run_walks,
    saturation,
    sharpness,
    summarize_walks,
    walk_paths,
)
from mosaicmem.generation.backend import load_models
from mosaicmem.geometry.se3 import rotation_angle
from mosaicmem.worlds.episodes import HELD_OUT

FAST = WalkConfig(worlds=1, long=192, short=16, size=64, every=80)


def test_both_walks_begin_and_end_at_one_camera_and_go_at_an_ordinary_speed():
    episode, paths = walk_paths(0, WalkConfig(size=64))
    assert episode.seed in HELD_OUT and episode.seed > HELD_OUT.start + 9999
    assert {name: len(path) for name, path in paths.items()} == {"long": 481, "short": 97}
    for path in paths.values():
        c2w = path.c2w
        assert torch.allclose(c2w[-1], c2w[0], atol=1e-6)
        assert torch.allclose(path.viewmats[0], paths["long"].viewmats[0])
        assert float(c2w[:, :3, 3].diff(dim=0).norm(dim=-1).max()) < 0.09
        assert float(torch.rad2deg(rotation_angle(c2w[1:, :3, :3], c2w[:-1, :3, :3])).max()) < 3.2
        assert bool(episode.scene.is_free(c2w[::8, :3, 3], 0.2).all())
    turned = rotation_angle(paths["short"].c2w[48, :3, :3], paths["short"].c2w[0, :3, :3])
    assert math.degrees(float(turned)) == pytest.approx(117, abs=5)  # 120 about the vertical, seen 4 degrees tilted


def test_a_walk_is_scored_at_its_end_and_drawn_over_its_length(tmp_path):
    folder = write_tiny_model(tmp_path / "tiny")
    (result,) = run_walks(lambda: load_models(folder), WalkConfig(**{**vars(FAST), "without_memory": True}))
    assert set(result.walks) == {"long", "short", "long_without", "short_without"}
    walk = result.walks["long"]
    assert walk.frames[0] == 0 and walk.frames[-4:] == (189, 190, 191, 192)
    assert walk.curves["psnr"][0] > 40, "the first frame is the given one, in 8 bits"
    assert walk.psnr_end == pytest.approx(sum(walk.curves["psnr"][-4:]) / 4, abs=1e-4)
    assert walk.psnr_end < walk.ceiling or walk.ceiling < 20
    assert walk.curves["saturation"][0] == pytest.approx(walk.curves["true_saturation"][0], abs=0.01)
    assert result.walks["long"].curves["latent"] != result.walks["long_without"].curves["latent"]
    report = summarize_walks([result])
    change = result.walks["long"].psnr_end - result.walks["short"].psnr_end
    assert report["long_minus_short"]["psnr_end"] == pytest.approx(change)
    assert report["walks"]["long"]["curves"]["frame"] == [float(f) for f in walk.frames]


def test_saturation_and_sharpness_in_closed_form():
    grey = torch.full((1, 3, 8, 8), 0.3)
    assert float(saturation(grey)) == 0 and float(sharpness(grey)) == 0
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 8, 8)
    assert float(saturation(red)) == 1
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 3, 8, 8)
    assert float(sharpness(stripes)) == pytest.approx(0.5)  # every neighbour across, none down


@pytest.mark.parametrize("wrong", [{"worlds": 0}, {"long": 40}, {"short": 8}, {"every": 0}])
def test_impossible_walks_are_refused(wrong):
    with pytest.raises(ConfigError):
        WalkConfig(**wrong)
