"""Rows of the memory benchmark differ by what they say they differ by, and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from tests.tiny_models import write_tiny_model

from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.frechet import RandomFeatures
from mosaicmem.evaluation.judge import Scores, judge
from mosaicmem.evaluation.rows import (
    GENERATED,
    RECENT,
    ROWS,
    TITLES,
    make_row,
    observed_state,
    recent_only,
    without_memory,
)
from mosaicmem.evaluation.trials import Trial, TrialConfig, make_trial
from mosaicmem.generation import rollout as rollout_module
from mosaicmem.generation.backend import Models, load_models
from mosaicmem.generation.rollout import rollout_step
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.generator import WindowRequest
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE
from mosaicmem.worlds.episodes import Event


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    return load_models(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def trial() -> Trial:
    return make_trial(0, TrialConfig(size=64, every=8, longest=16, judged_every=5))


@pytest.fixture(scope="module")
def state(models, trial):
    return observed_state(models, trial, seed=0)


@pytest.fixture(scope="module")
def made(models, trial, state):
    return {row: make_row(row, models, trial, state).frames for row in ROWS}


def worth(frames: torch.Tensor, trial: Trial) -> Scores:
    return judge(frames, trial, RandomFeatures(), pose_frames=2)


def test_every_row_has_frames_and_a_title_and_no_two_rows_are_the_same(made, trial):
    assert set(TITLES) == set(ROWS)
    for frames in made.values():
        assert frames.shape == trial.truth.rgb.shape and frames.dtype == torch.float32
        assert float(frames.abs().max()) <= 1 + 1e-6
    for i, a in enumerate(ROWS):
        for b in ROWS[i + 1 :]:
            assert not torch.equal(made[a], made[b]), (a, b)


def test_observed_frames_are_remembered_at_their_own_times(state, trial):
    assert tuple(group.keyframe.frame for group in state.store) == trial.remembered
    assert state.next_frame == trial.mark + 1
    assert state.prompt == trial.episode.prompt(trial.mark + 1)
    assert all(group.keyframe.origin == "observed" for group in state.store)


def test_rows_are_told_what_begins_on_the_way_when_it_begins(models, monkeypatch):
    """A light that goes out in the second window: told from its first frame on, and led away from the words before."""
    asked: list[tuple[int, int, str, str]] = []

    def step(models, state, cameras, config):
        asked.append((state.next_frame, len(cameras), state.prompt, state.avoid))
        return rollout_step(models, state, cameras, config)

    monkeypatch.setattr(rollout_module, "rollout_step", step)
    trial = make_trial(0, TrialConfig(size=64, every=8, longest=32))
    start = trial.mark + 1
    happens = (Event(5, "a door opens"), Event(start + 20, "the light goes out"))
    told = replace(trial, episode=replace(trial.episode, happens=happens))
    frames = make_row("full", models, told, observed_state(models, told, seed=0)).frames
    first = f"{trial.episode.caption} a door opens."
    second = f"{first} the light goes out."
    assert len(frames) == len(trial) == 32
    assert asked == [
        (start, 16, first, ""),
        (start + 16, 4, first, ""),
        (start + 20, 12, second, first),
    ]


def test_rows_are_a_function_of_trial_and_seed(models, trial, state, made):
    assert torch.equal(make_row("full", models, trial, state).frames, made["full"])
    other = observed_state(models, trial, seed=1)
    assert not torch.equal(make_row("full", models, trial, other).frames, made["full"])


def test_cameras_only_reads_no_memory_and_full_does(models, trial, state, made):
    empty = replace(state, store=PatchStore.empty())
    assert torch.equal(make_row("cameras_only", models, trial, empty).frames, made["cameras_only"])
    assert not torch.equal(make_row("full", models, trial, empty).frames, made["full"])


def test_last_frames_remembers_the_newest_keyframes_alone(models, trial, state, made):
    kept = recent_only(state)
    assert [g.keyframe.frame for g in kept.store] == list(trial.remembered[-RECENT:])
    assert torch.equal(make_row("last_frames", models, trial, kept).frames, made["last_frames"])
    older = replace(state, store=PatchStore.from_groups(list(state.store.groups)[: -RECENT - 1]))
    with_anchor = recent_only(older)
    assert len(with_anchor.store) == RECENT
    assert with_anchor.store.groups[-1].keyframe.frame == trial.mark, "the last frame is always among them"


def test_without_cameras_only_the_cameras_are_gone(models, trial, state, made):
    still = models.generator.with_sampling(use_cameras=False)
    assert torch.equal(make_row("full", replace(models, generator=still), trial, state).frames, made["no_prope"])


@dataclass(frozen=True)
class Oracle:
    """A generator that knows the truth: latents of the true frames."""

    models: Models
    trial: Trial
    state_frame: int
    name = "oracle"
    label = "[external:oracle]"
    use_memory = True
    invents = True
    subframes = reads_past = False

    def generate(self, request: WindowRequest) -> torch.Tensor:
        whole = torch.cat([self.trial.observed.rgb[-1:], self.trial.truth.rgb])
        clip = whole[: len(request.cameras)].transpose(0, 1)[None]
        return self.models.vae.encode_video(clip)[0, :, 1:].transpose(0, 1).contiguous()


def test_a_generator_that_knows_the_truth_scores_as_the_autoencoder_does(models, trial, state, made):
    oracle = replace(models, generator=Oracle(models, trial, trial.mark), refiner=None)
    shown = make_row("full", oracle, trial, state)
    assert float((shown.frames - made["vae"]).abs().max()) <= 1.01 / 255, "frames are handed out in 8 bits"
    ours, ceiling = worth(shown.frames, trial), worth(made["vae"], trial)
    assert ours.values["psnr"] == pytest.approx(ceiling.values["psnr"], abs=0.05)
    assert ours.values["ssim"] == pytest.approx(ceiling.values["ssim"], abs=0.01)
    assert ours.values["psnr"] > worth(made["unrefined"], trial).values["psnr"]


def test_truth_is_perfect_in_every_column(trial):
    found = worth(trial.truth.rgb, trial)
    assert found.values["psnr"] == 60 and found.values["ssim"] == pytest.approx(1)
    assert found.values["perceptual"] == pytest.approx(0, abs=1e-6)
    assert found.values["rotation_degrees"] < 0.01 and found.values["translation_metres"] < 1e-3
    assert found.counts["pose_frames"] > 0 == found.counts["pose_failures"]
    assert found.motion.compute()["motion_share"] == pytest.approx(1)
    assert found.places.compute()["motion_direction"] == pytest.approx(1)


def test_what_is_frozen_is_caught_by_motion_alone(trial):
    """Time stopped: every other column is as good as the truth's, since it looks at what is at rest."""
    assert trial.motion is not None
    frozen = trial.truth.rgb.clone()
    frozen[list(trial.judged)] = trial.motion.static
    found = worth(frozen, trial)
    assert found.motion.compute()["motion_share"] == 0
    assert found.places.compute()["motion_direction"] == 0
    assert found.values["psnr"] > 45 and found.values["ssim"] > 0.97  # both see the shadow


def test_what_is_smeared_over_its_past_moves_less_than_what_moves(trial):
    """A ball that is everywhere it ever was: the places where it is now are right, the others are not."""
    assert trial.motion is not None
    chosen, smeared = list(trial.judged), trial.truth.rgb.clone()
    shown = torch.where(trial.swept[:, None], 0.9, trial.truth.rgb[chosen])
    smeared[chosen] = torch.where(trial.moving[chosen][:, None], trial.truth.rgb[chosen], shown)
    found = worth(smeared, trial).places.compute()["motion_direction"]
    assert found < 0.8


def test_the_frozen_last_frame_loses_against_any_that_follow_the_camera(made, trial):
    frozen, cloud = worth(made["copy_last"], trial), worth(made["point_cloud"], trial)
    assert bool((made["copy_last"] == trial.observed.rgb[-1]).all())
    assert cloud.values["psnr"] > frozen.values["psnr"] + 6
    assert cloud.values["perceptual"] < frozen.values["perceptual"]


def test_unknown_rows_and_generators_are_named(models, trial, state):
    with pytest.raises(ConfigError, match="no row 'best'"):
        make_row("best", models, trial, state)
    with pytest.raises(ConfigError, match="oracle"):
        without_memory(Oracle(models, trial, 0))


def test_the_compositor_can_stand_in_for_a_model(trial):
    models = Models(PixelShuffleVAE(8, 4), Compositor())
    state = observed_state(models, trial, 0)
    full, blind = (worth(make_row(row, models, trial, state).frames, trial) for row in ("full", "cameras_only"))
    assert full.values["psnr"] > blind.values["psnr"] + 2, "what had left the view is gone without memory"
    assert set(GENERATED) < set(ROWS)
