"""Training of the refiner: its frames are the world model's, and it learns to take memory where memory is right."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.training.clips import CHANNELS, MICRO, micro_vae, world_task, write_world

from mosaicmem.errors import ConfigError
from mosaicmem.models.refiner import RefinerConfig
from mosaicmem.training.loop import TrainConfig, fit
from mosaicmem.training.refiner_task import RefinerBatch, RefinerTask, RefinerTaskConfig

SMALL = RefinerConfig(CHANNELS, width=8, blocks=1)
PLAIN = {"no_memory": 0.0, "no_cameras": 0.0, "no_text": 0.0, "degrade": 0.0, "echo": 0.0, "depth_error": 0.0}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("latents"))


class Answer(torch.nn.Module):
    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = torch.nn.Parameter(latents)

    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        return self.latents


def task_of(paths, **settings) -> RefinerTask:
    vae = micro_vae()
    world = world_task(paths, vae, MICRO, **PLAIN, rehearse=0.0, recent=0.0)
    torch.manual_seed(0)
    config = RefinerTaskConfig(**{"batch": 4, "windows": 8, "pixel_cells": 4, **settings})
    return RefinerTask(world, vae, SMALL, config)


def test_frames_are_the_last_ones_of_the_groups_that_the_world_model_makes(paths):
    task = task_of(paths, truth=0.0)
    batch = task.batch(1)
    samples, windows = task._world.samples(range(4, 8))
    vae, groups = task._vae, task._world.guess(windows)
    video = torch.cat([torch.zeros_like(groups[:, :, :1]), groups], dim=2)
    last = vae.decode_video(video)[:, :, 4::4].transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(batch.made, vae.encode_image(last), rtol=1e-4, atol=1e-4)
    assert batch.made.shape == batch.shown.shape == batch.still.shape == (8, CHANNELS, 4, 4)
    for i, sample in enumerate(samples):
        assert torch.equal(batch.still[2 * i : 2 * i + 2], sample["still"])
        latents, good = sample["shown"]
        assert torch.equal(batch.shown[2 * i : 2 * i + 2], latents) and torch.equal(batch.good[2 * i : 2 * i + 2], good)
    assert bool(batch.good.any())


def test_the_refiner_knows_what_a_channel_does_to_pixels(paths):
    vae = micro_vae()
    world = world_task(paths, vae, MICRO, **PLAIN, rehearse=0.0, recent=0.0)
    world.module.gain[0] = torch.linspace(0.1, 0.4, CHANNELS)
    assert torch.equal(RefinerTask(world, vae, SMALL).module.gain, world.module.gain[0])


def test_some_windows_are_the_truths_and_windows_come_round_again(paths):
    made, mixed, true = (task_of(paths, truth=share).batch(0).made for share in (0.0, 0.5, 1.0))
    same = [(a == made).flatten(1).all(1)[::2] for a in (mixed, true)]
    assert 0 < int(same[0].sum()) < 4 and not bool(same[1].any())
    task = task_of(paths)
    assert task.batch(2) is task.batch(0) and task.batch(1) is not task.batch(0)
    whole = task.batch(1)
    halves = [task_of(paths).batch(1, rank, 2) for rank in (0, 1)]
    for rank, half in enumerate(halves):
        torch.testing.assert_close(half.made, whole.made.unflatten(0, (4, 2))[rank::2].flatten(0, 1))
    with pytest.raises(ConfigError, match="multiple of the batch, 4"):
        RefinerTaskConfig(batch=4, windows=10)
    wrong: list[dict[str, Any]] = [
        {"batch": 0},
        {"pixel_cells": 0},
        {"pixels": math.nan},
        {"pixels": -1.0},
        {"seed": -1},
    ]
    for settings in wrong:
        ((name, value),) = settings.items()
        with pytest.raises(ConfigError, match=f"^{name} = {value}: expected"):
            RefinerTaskConfig(**settings)


def test_the_loss_is_0_on_the_truth_and_counts_pixels_as_much_as_asked(paths):
    task, more = task_of(paths, pixels=10.0), task_of(paths, pixels=30.0)
    batch = task.batch(0)

    assert float(task.loss(Answer(batch.still), batch)[0].detach()) == 0
    losses = []
    for one in (task, more):
        torch.manual_seed(3)
        loss, metrics = one.loss(Answer(batch.still + 0.3), batch)
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(metrics["latent_error"] + 10 * metrics["pixel_error"], rel=1e-4)
    assert losses[1] - losses[0] == pytest.approx(20 * metrics["pixel_error"], rel=1e-4)


def test_an_error_where_things_move_counts_more(paths):
    """The same error in one cell or in another: as their weights, of latents and of pixels."""
    task = task_of(paths, pixels=0.0)
    batch = task.batch(0)
    assert torch.equal(batch.weight, task._world.samples(range(4))[1].weight[:, 0].flatten(0, 1))
    weight = torch.ones_like(batch.weight)
    weight[:, 1, 2] = 5.0
    batch = replace(batch, weight=weight)
    errors = []
    for cell in ((1, 2), (2, 1)):
        wrong = batch.still.clone()
        wrong[:, :, cell[0], cell[1]] += 1
        errors.append(task.loss(Answer(wrong), batch)[1])
    assert errors[0]["latent_error"] == pytest.approx(5 * errors[1]["latent_error"])
    assert errors[0]["pixel_error"] > 2 * errors[1]["pixel_error"] > 0


def test_it_learns_to_take_memory_where_memory_is_right(paths, tmp_path):
    """The wall stands still and depth is exact: memory shows the truth, and a random world model nothing like it."""
    task = task_of(paths, pixels=0.0)
    batch = task.batch(0)
    before, made = _error(task, batch), task.evaluate(task.module)["held_out_made_psnr"]
    config = TrainConfig(steps=200, lr=3e-2, warmup=5, ema=0.9, evaluate_every=200, log_every=50)
    fit(task, config, tmp_path / "run")
    assert _error(task, batch) < 0.2 * before
    blind = replace(batch, good=torch.zeros_like(batch.good))
    assert _error(task, batch) < 0.5 * _error(task, blind), "and without memory it cannot"
    found = task.evaluate(task.module)
    assert found["held_out_made_psnr"] == made != found["held_out_refined_psnr"]
    sheet = task.picture(task.module)
    assert sheet.shape[2] == 3 and sheet.shape[1] == 4 * 32 and sheet.dtype.name == "uint8"


@torch.no_grad()
def _error(task: RefinerTask, batch: RefinerBatch) -> float:
    return float((task.module(batch.made, batch.shown, batch.good) - batch.still).square().mean())
