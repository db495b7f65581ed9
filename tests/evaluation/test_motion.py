"""Motion of things, apart from the motion of the camera."""

import math

import pytest
import torch

from mosaicmem.evaluation.motion import MotionScore, motion_score, motion_truth
from mosaicmem.worlds import make_scene
from mosaicmem.worlds.episodes import movers


def ball_video(n: int = 6, size: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bright square that goes right over a panning gradient: truth, static, where it is, where it was."""
    x = torch.arange(size).float()
    truth, arrived = torch.empty(n, 3, size, size), torch.zeros(n, size, size, dtype=torch.bool)
    left = torch.zeros_like(arrived)
    for i in range(n):
        truth[i] = torch.sin((x + 3 * i) / 6) * 0.4
        arrived[i, 10:16, 4 + 3 * i : 10 + 3 * i] = True
        left[i, 10:16, 4:10] = True
    background = truth.clone()
    static = torch.where(left[:, None], 0.9, background)
    return torch.where(arrived[:, None], 0.9, background), static, arrived, left


def test_truth_is_one_frozen_is_none_and_half_is_half():
    truth, static, arrived, left = ball_video()
    mask = arrived | left

    def share(generated: torch.Tensor) -> float:
        return motion_score(generated, truth, mask, static).compute()["motion_share"]

    assert share(truth) == pytest.approx(1)
    assert share(static) == 0  # the camera pans in it all the same
    assert share((truth + static) / 2) == pytest.approx(0.5, abs=1e-6)
    assert share(2 * static - truth) == pytest.approx(-1, abs=1e-6)


def test_change_that_is_not_the_true_one_shows_in_amplitude_and_not_in_share(rng):
    truth, static, arrived, left = ball_video(6)
    flicker = static + 0.5 * torch.randn(static.shape, generator=rng)
    found = motion_score(flicker, truth, arrived | left, static).compute()
    assert abs(found["motion_share"]) < 0.1
    assert found["motion_amplitude"] > 0.5
    assert abs(found["motion_direction"]) < 0.1
    noisy = motion_score(
        truth + 0.5 * torch.randn(static.shape, generator=rng), truth, arrived | left, static
    ).compute()
    assert noisy["motion_share"] == pytest.approx(1, abs=0.1)
    assert noisy["motion_direction"] < 0.9


def test_what_vanishes_shows_only_the_half_in_which_it_leaves():
    truth, static, arrived, left = ball_video()
    background = torch.where(left[:, None], truth, static)  # the square is in neither place after it moved away
    background = torch.where((left & arrived)[:, None], static, background)
    all_of_it = motion_score(background, truth, arrived | left, static).compute()["motion_share"]
    assert 0.2 < all_of_it < 0.8
    assert motion_score(background, truth, arrived & ~left, static).compute()["motion_share"] == 0


def test_nothing_outside_the_mask_counts_and_parts_merge(rng):
    truth, static, arrived, left = ball_video()
    mask = arrived | left
    generated = truth + 0.1 * torch.randn(truth.shape, generator=rng)
    whole = motion_score(generated, truth, mask, static)
    outside = torch.where(mask[:, None], generated, torch.nan)
    assert motion_score(outside, truth, mask, static) == whole
    merged = motion_score(generated[:2], truth[:2], mask[:2], static[:2]).merge(
        motion_score(generated[2:], truth[2:], mask[2:], static[2:])
    )
    assert merged.compute() == pytest.approx(whole.compute())
    assert whole.pixels == int(mask.sum())


def test_where_nothing_moves_there_is_no_score():
    truth, _, arrived, _ = ball_video(1)
    found = motion_score(truth, truth, arrived, truth).compute()
    assert math.isnan(found["motion_share"])
    assert math.isnan(MotionScore().compute()["motion_amplitude"])


def _world_with_a_mover():
    for seed in range(20):
        scene = make_scene(seed, rooms=1, walls="vivid")
        for camera in scene.random_cameras(6, torch.Generator().manual_seed(seed), 48, 48):
            ids = scene.render(camera, 0.0).object_id
            if float(torch.isin(ids, movers(scene)).float().mean()) > 0.02:
                return scene, camera
    raise AssertionError("no world shows a mover")


def test_stopped_time_stops_everything_but_the_camera():
    scene, camera = _world_with_a_mover()
    cameras = camera[[0, 0, 0]]
    times = torch.tensor([0.0, 0.4, 0.9])
    film = motion_truth(scene, cameras, times, 0.0)
    torch.testing.assert_close(film.truth[0], film.static[0])
    torch.testing.assert_close(film.static[1], film.static[0])
    assert film.left.any()
    changed = (film.truth - film.static).abs().amax(1) > 0.05
    assert changed.any()
    later = motion_truth(scene, cameras, times, 0.9)
    torch.testing.assert_close(later.truth, film.truth)
    torch.testing.assert_close(later.truth[2], later.static[2])
    score = motion_score(film.truth, film.truth, film.mask, film.static).compute()
    assert score["motion_share"] == pytest.approx(1)
