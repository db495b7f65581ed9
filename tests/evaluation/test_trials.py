"""Trials: what counts as seen, on a scene whose answer is known, and on worlds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.point_cloud import PointCloud
from mosaicmem.evaluation.trials import KINDS, Trial, TrialConfig, covisible_with_any, make_trial
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.worlds.episodes import HELD_OUT, movers

SMALL = TrialConfig(size=64, every=16, longest=16, judged_every=5)
SIZE = 32


def looking(*sideways: float) -> Cameras:
    """Cameras that look along +z, moved along x; 90 degrees wide, so at depth d the image is 2 d across."""
    viewmats = torch.eye(4, dtype=torch.float64).repeat(len(sideways), 1, 1)
    viewmats[:, 0, 3] = -torch.tensor(sideways, dtype=torch.float64)
    return Cameras.from_fov(viewmats, SIZE, SIZE, 90.0)


def wall(depth: float, n: int = 1) -> torch.Tensor:
    return torch.full((n, SIZE, SIZE), depth)


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return [make_trial(i, SMALL) for i in range(3)]


def test_a_wall_is_seen_as_far_as_the_other_view_reaches():
    # at depth 2 the image is 4 wide: a step of 1 moves the wall by a quarter of the picture
    found = covisible_with_any(wall(2.0), looking(0.0), wall(2.0), looking(1.0))[0]
    assert not bool(found[:, : SIZE // 4].any()) and bool(found[:, SIZE // 4 :].all())
    both = covisible_with_any(wall(2.0), looking(0.0), wall(2.0, 2), looking(1.0, -1.0))[0]
    assert bool(both.all()), "two views together see all of it"


def test_what_stood_in_front_was_not_seen():
    post = wall(2.0)
    post[0, :, 12:20] = 1.0
    found = covisible_with_any(wall(2.0), looking(0.0), post, looking(0.0))[0]
    assert not bool(found[:, 12:20].any()) and bool(found[:, :12].all()) and bool(found[:, 20:].all())
    back = covisible_with_any(post, looking(0.0), wall(2.0), looking(0.0))[0]
    assert not bool(back[:, 12:20].any()), "nor was the post, by a view without it"
    sky = covisible_with_any(wall(0.0), looking(0.0), wall(0.0), looking(0.0))
    assert not bool(sky.any())


def test_a_point_cloud_shows_the_picture_it_was_made_of_and_fills_what_it_does_not_know(rng):
    rgb = torch.rand(1, 3, SIZE, SIZE, generator=rng) * 2 - 1
    cloud = PointCloud.of(rgb, wall(2.0), looking(0.0))
    same, known = cloud.render(looking(0.0))
    assert bool(known.all())
    assert torch.allclose(same, rgb[0], atol=1e-4)
    moved, known = cloud.render(looking(1.0))
    assert torch.allclose(moved[:, :, : 3 * SIZE // 4], rgb[0, :, :, SIZE // 4 :], atol=1e-4)
    assert not bool(known[:, 3 * SIZE // 4 + 1 :].any())
    assert bool(moved.isfinite().all()) and float(moved.abs().max()) <= 1 + 1e-5


def test_in_a_point_cloud_the_nearer_surface_hides_the_farther_and_unknown_depth_is_no_point():
    rgb = torch.stack([torch.full((3, SIZE, SIZE), 0.5), torch.full((3, SIZE, SIZE), -0.5)])
    depth = torch.cat([wall(2.0), wall(1.0)])
    depth[1, :, : SIZE // 2] = 0
    picture, _ = PointCloud.of(rgb, depth, looking(0.0, 0.0)).render(looking(0.0))
    assert torch.allclose(picture[:, :, : SIZE // 2], torch.tensor(0.5))
    assert torch.allclose(picture[:, :, SIZE // 2 :], torch.tensor(-0.5))


def test_trials_take_turns_in_kind_and_are_the_same_every_time(trials):
    assert [trial.episode.kind for trial in trials] == list(KINDS)
    assert [trial.episode.seed for trial in trials] == [HELD_OUT.start + i for i in range(3)]
    again = make_trial(1, SMALL)
    assert torch.equal(again.truth.rgb, trials[1].truth.rgb)
    assert torch.equal(again.covisible, trials[1].covisible)


def test_the_generated_part_follows_the_observed_one_and_ends_where_the_path_began(trials):
    for trial in trials:
        assert trial.mark + 1 + len(trial) == len(trial.episode)
        assert len(trial) == 16 and trial.mark % 16 == 0
        assert trial.remembered[0] == 0
        assert float((trial.cameras.c2w[-1] - trial.episode.cameras.c2w[0]).abs().max()) < 1e-6
        assert trial.judged[-1] == len(trial) - 1
        assert float(trial.times[0]) == pytest.approx((trial.mark + 1) / 24)
    places = {i % 4 for i in trials[0].judged}
    assert len(places) == min(4, len(trials[0].judged)), "every place in a latent is looked at"


def test_seen_and_unseen_share_no_pixel_and_leave_out_what_moves(trials):
    for trial in trials:
        assert not bool((trial.seen & trial.unseen).any())
        assert not bool(((trial.seen | trial.unseen) & trial.moving).any())
        assert not bool(((trial.seen | trial.unseen) & (trial.truth.depth == 0)).any())
        # the end has the pose of the beginning, which was remembered
        still = ~trial.moving[-1] & (trial.truth.depth[-1] > 0)
        assert float(trial.seen[-1][still].float().mean()) > 0.9
        assert bool((trial.swept | ~trial.moving[list(trial.judged)]).all())
        if len(movers(trial.episode.scene)):
            assert trial.motion is not None
            assert torch.equal(trial.motion.truth, trial.truth.rgb[list(trial.judged)])


def test_where_a_thing_was_counts_only_if_what_is_behind_it_was_seen():
    """A door that nobody looked through: what is behind it is anybody's guess, and no motion."""
    trial = make_trial(734, TrialConfig(size=64, every=8))
    assert trial.motion is not None
    chosen = list(trial.judged)
    here, known = trial.moving[chosen], trial.covisible[chosen]
    assert not bool((trial.swept & ~here & ~known).any()) and bool((trial.swept & ~here).any())
    assert bool((trial.swept | ~here).all())
    blind = replace(trial, covisible=torch.ones_like(trial.covisible))
    more = blind.swept & ~trial.swept
    assert int(more.sum()) > 500, "control: there is such a place, and without the rule it counts"


def test_a_turn_has_seen_most_and_more_memory_never_sees_less(trials):
    assert float(trials[0].seen.double().mean()) > 0.5
    finer = make_trial(0, TrialConfig(size=64, every=8, longest=16))
    assert bool((finer.covisible | ~trials[0].covisible).all())
    assert float(finer.covisible.double().mean()) > float(trials[0].covisible.double().mean())


@pytest.mark.parametrize("wrong", [{"size": 32}, {"size": 65}, {"every": 3}, {"longest": 24}, {"judged_every": 0}])
def test_impossible_trials_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrialConfig(**wrong)


def test_nothing_was_measured_by_accident_in_degrees():
    """The lens of the hand-made scene is the one its numbers assume."""
    assert float(looking(0.0).Ks[0, 0, 0]) == pytest.approx(SIZE / 2 / math.tan(math.radians(45)))
