"""Autoencoder and depth: samples are functions of the step, losses fall, and what is measured is what it is called."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.training.clips import WALL, make_clip
from tests.training.test_ahead import equal
from torch import nn

from mosaicmem.errors import ConfigError
from mosaicmem.models.depth_net import DepthNetConfig
from mosaicmem.models.video_vae import VideoVAE, VideoVAEConfig
from mosaicmem.training.ahead import batches
from mosaicmem.training.cache import ClipCache, write_clip
from mosaicmem.training.depth_task import DepthTask, DepthTaskConfig, _worn
from mosaicmem.training.vae_task import VAETask, VAETaskConfig

SMALL_VAE = VideoVAEConfig(channels=8, image_widths=(8, 8), group_widths=(8, 8), blocks=1)
SMALL_DEPTH = DepthNetConfig(widths=(8, 8, 24), attention=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(2):
        write_clip(folder / f"{seed}.safetensors", make_clip(seed))
    return ClipCache(folder, keep=2)


def vae_task(clips, **settings) -> VAETask:
    torch.manual_seed(0)
    config = VAETaskConfig(**{"batch": 4, "crop": 16, **settings})
    return VAETask(clips, clips.names(), [make_clip(5)], config, SMALL_VAE)


def depth_task(clips, **settings) -> DepthTask:
    torch.manual_seed(0)
    config = DepthTaskConfig(**{"batch": 4, **settings})
    return DepthTask(clips, clips.names(), [make_clip(5)], config, SMALL_DEPTH)


@pytest.mark.parametrize("make", [vae_task, depth_task])
def test_workers_make_the_batches_that_the_trainer_would(clips, make):
    task = make(clips)
    (made,) = batches(task, range(3, 4), workers=1)
    assert equal(made, task.batch(3, 0, 1)) and not equal(made, task.batch(4, 0, 1))


@pytest.mark.parametrize("make", [vae_task, depth_task])
def test_a_batch_is_a_function_of_step_and_rank(clips, make):
    a, b = make(clips), make(clips)
    b.batch(9, 0, 1)
    first, again = a.batch(2, 0, 1), b.batch(2, 0, 1)
    assert all(torch.equal(x, y) for x, y in zip(first[:2], again[:2]))
    halves = [a.batch(2, rank, 2) for rank in (0, 1)]
    for i in range(4):
        assert all(torch.equal(halves[i % 2][part][i // 2], first[part][i]) for part in (0, 1))
    assert not torch.equal(a.batch(3, 0, 1)[0], first[0])
    assert not torch.equal(make(clips, seed=1).batch(2, 0, 1)[0], first[0])


def test_groups_are_the_four_frames_of_one_latent(clips):
    """Every group that is drawn is frames 4l - 3 .. 4l of a clip, cut or mirrored, and never another four."""
    task = vae_task(clips, crop=32)
    whole = [clips.load(name).frames(slice(None)) for name in clips.names()]
    groups = torch.cat([f[1:49].reshape(-1, 12, 32, 32) for f in whole])
    for group in torch.cat([task.batch(step, 0, 1)[1] for step in range(4)]):
        candidates = torch.cat([groups, groups.flip(-1)])
        assert (candidates == group).flatten(1).all(1).any()


def test_the_autoencoder_starts_as_principal_components_and_learns(clips):
    task = vae_task(clips)
    start = task.evaluate(task.module)
    blank = VideoVAE(SMALL_VAE)
    assert start["held_out_image"] > task.evaluate(blank)["held_out_image"] + 5
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        torch.manual_seed(0)
        loss, _ = task.loss(task.module, task.batch(0, 0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_psnr_of_a_known_error_is_in_closed_form(clips):
    """A decoder that answers the truth plus 0.2 has 20 dB: error 0.1 of a range of 1."""
    task = vae_task(clips)
    clip = make_clip(5)
    dim = clip.frames(slice(None)) * 0.5

    class Off:
        rgb = clip.rgb

        def __len__(self) -> int:
            return 17

        def frames(self, index):
            return dim[index]

    task._held_out = [Off()]  # pyright: ignore[reportAttributeAccessIssue]
    for coder in (task.module.image, task.module.group):
        coder.encode = lambda frames: frames  # pyright: ignore[reportAttributeAccessIssue]
        coder.decode = lambda frames: frames + 0.2  # pyright: ignore[reportAttributeAccessIssue]
    found = task.evaluate(task.module)
    assert found["held_out_image"] == pytest.approx(20, abs=1e-3)
    assert found["held_out_group"] == pytest.approx(20, abs=1e-3)


def test_depth_of_a_wall_is_learnt_and_measured(clips):
    task = depth_task(clips, worn=0.0)
    frames, depth, cameras = task.batch(0, 0, 1)
    assert torch.equal(depth, torch.full_like(depth, WALL))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2)
    for step in range(60):
        loss, _ = task.loss(task.module, task.batch(step, 0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    log_depth = task.module(frames, cameras)[0].detach()
    relative = float((log_depth.exp() / WALL - 1).abs().mean())
    assert relative < 0.1
    found = task.evaluate(task.module)
    assert found["held_out_abs_rel"] < 0.1 and found["held_out_sky_right"] == 1.0


def test_pixels_without_depth_teach_the_sky_and_nothing_else(clips):
    task = depth_task(clips)
    frames, depth, cameras = task.batch(0, 0, 1)
    holes = depth.clone()
    holes[:, :16] = 0
    log_depth = torch.full_like(depth, WALL).log().requires_grad_()
    sky = torch.zeros_like(depth, requires_grad=True)

    class Says(nn.Module):
        def forward(self, *_):
            return log_depth, torch.zeros_like(depth), sky

    loss, metrics = task.loss(Says(), (frames, holes, cameras))
    loss.backward()
    assert metrics["abs_rel"] < 1e-6
    assert log_depth.grad is not None and sky.grad is not None
    assert (log_depth.grad[:, :15] == 0).all()
    assert (sky.grad[:, :16] < 0).all() and (sky.grad[:, 16:] > 0).all()


def test_worn_frames_are_blurred_and_noisy_by_little():
    grey = torch.full((3, 32, 32), 0.3)
    errors = [float((_worn(grey, np.random.default_rng(i)) - 0.3).square().mean().sqrt()) for i in range(30)]
    assert min(errors) < 0.02 and 0.06 < max(errors) < 0.085  # blur leaves grey alone, noise is up to 0.08
    step = grey.clone()
    step[:, :, 16:] = -0.3
    jumps = [float(-_worn(step, np.random.default_rng(i)).mean((0, 1)).diff().min()) for i in range(30)]
    assert 0.05 < min(jumps) < 0.2 and 0.3 < max(jumps) < 0.45  # of 0.6


@pytest.mark.parametrize("make", [vae_task, depth_task])
def test_pictures_are_sheets(clips, make):
    task = make(clips)
    sheet = task.picture(task.module)
    assert sheet.dtype.name == "uint8" and sheet.ndim == 3 and sheet.shape[2] == 3
    assert sheet.shape[0] % 32 == 0 and sheet.std() > 1
    config = task.config()
    assert config["task"] == task.name and config["settings"]["batch"] == 4
    assert config["data"] == {"clips": 2, "first": "0", "last": "1"}


@pytest.mark.parametrize(
    ("config", "wrong"),
    [(VAETaskConfig, {"batch": 0, "crop": 12, "edges": -1.0, "shift": -1.0, "noise": math.nan, "seed": -1}),
     (DepthTaskConfig, {"batch": 0, "worn": 1.1, "seed": -1})],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name_and_all_at_once(config, wrong):
    for name, value in wrong.items():
        with pytest.raises(ConfigError, match=rf"^{name} = {value}: expected[^;]*$"):
            config(**{name: value})
    with pytest.raises(ConfigError, match=".*".join(f"{name} = " for name in wrong)):
        config(**wrong)
