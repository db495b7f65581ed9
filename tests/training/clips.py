"""Small worlds to train on in seconds, and the smallest task that shows everything the loop does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.transformer import TransformerConfig
from mosaicmem.models.video_vae import VideoVAE, VideoVAEConfig
from mosaicmem.training.cache import STEP, Clip
from mosaicmem.training.latent_clip import LatentClip, write_latents
from mosaicmem.training.world_task import WorldTask, WorldTaskConfig

SIZE, FRAMES, WALL = 32, 49, 3.0  # pixels, frames, metres to the wall that every camera faces
CHANNELS = 4


def wall_cameras(frames: int = FRAMES, size: int = SIZE) -> Cameras:
    """Sideways along a wall and back, facing it; the wall is the plane z = 3."""
    x = 1.2 * torch.sin(torch.linspace(0, torch.pi, frames, dtype=torch.float64))
    eye = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], -1)
    ahead = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    return Cameras.from_fov(look_at(eye, eye + ahead, torch.tensor([0.0, -1, 0], dtype=torch.float64)), size, size, 70)


def painted(points: torch.Tensor, channels: int, seed: int) -> torch.Tensor:
    """Smooth paint of a plane, `[... 2] -> [... channels]` within [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    waves = 2.0 * torch.randn(channels, 2, generator=generator, dtype=points.dtype)
    return torch.sin(points @ waves.T + torch.arange(channels, dtype=points.dtype)) * 0.8


def make_clip(seed: int = 0, frames: int = FRAMES, size: int = SIZE, event: int | None = None) -> Clip:
    """The wall, filmed; with an event its colours are swapped from that frame on."""
    cameras = wall_cameras(frames, size)
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    focal, middle = cameras.Ks[0, 0, 0], cameras.Ks[0, 0, 2]
    rays = torch.stack([(x - middle) / focal, (y - middle) / focal], -1)
    points = cameras.centers[:, None, None, :2] + WALL * rays
    rgb = painted(points, 3, seed).permute(0, 3, 1, 2)
    at = frames if event is None else event
    rgb[at:] = rgb[at:].flip(1)
    depth = torch.full((1 + (frames - 1) // STEP, size, size), WALL)
    words = ("a room with a ball.", "the ball turns red") if event is not None else ("a room with a sofa.", "")
    return Clip(str(seed), ((rgb + 1) * 127.5).round().byte(), depth, cameras, *words, at)


def make_latents(seed: int = 0, frames: int = FRAMES, event: int | None = None) -> LatentClip:
    """The same wall as 4-channel latents, without an autoencoder: paint at the centres of cells."""
    clip = make_clip(seed, frames, event=event)
    cells = SIZE // 8
    v = (torch.arange(cells) + 0.5) * 8
    y, x = torch.meshgrid(v, v, indexing="ij")
    focal, middle = clip.cameras.Ks[0, 0, 0], clip.cameras.Ks[0, 0, 2]
    rays = torch.stack([(x - middle) / focal, (y - middle) / focal], -1)
    paint = painted(clip.cameras.centers[:, None, None, :2] + WALL * rays, CHANNELS, seed).permute(0, 3, 1, 2).float()
    image = paint[::STEP]
    return LatentClip(
        image, image + 0.01, paint[STEP::STEP], clip.depth, clip.cameras, clip.caption, clip.event, clip.event_frame
    )


def write_world(folder: Path, clips: int = 2, frames: int = FRAMES) -> list[Path]:
    """Encoded clips in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.safetensors" for i in range(clips)]
    for i, path in enumerate(paths):
        write_latents(path, make_latents(i, frames))
    return paths


GRID = TokenGrid(SIZE, SIZE, stride=8, patch=2, temporal=STEP)
MICRO = TransformerConfig(
    num_attention_heads=1, attention_head_dim=32, in_channels=CHANNELS, out_channels=CHANNELS, text_dim=16, freq_dim=16,
    ffn_dim=64, num_layers=1,
)  # fmt: skip


def world_task(
    paths: list[Path], vae: VideoVAE | None = None, model: TransformerConfig = MICRO, **settings: Any
) -> WorldTask:
    """A micro world model; `teacher` among the settings is that of the task."""
    teacher = settings.pop("teacher", None)
    torch.manual_seed(0)
    config = WorldTaskConfig(**{"batch": 4, "latents": 2, **settings})
    return WorldTask(paths, paths[:1], model, GRID, config, words=12, vae=vae, teacher=teacher)


def micro_vae() -> VideoVAE:
    """Random weights; a kernel between cells that is far from bilinear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = VideoVAE(VideoVAEConfig(CHANNELS, (8, 8), (8, 8), blocks=1)).requires_grad_(False)
        vae.between.normal_(std=0.3)
    return vae.eval()


class ToyTask:
    """Fit a line to points, with noise from torch's own generator in the loss, as dropout would have it."""

    name = "toy"
    needs_weights = False

    def __init__(self, batch: int = 4, bad: range = range(0), noise: float = 0.1) -> None:
        torch.manual_seed(1)
        self.first = nn.Linear(3, 16)
        self.module = nn.Sequential(self.first, nn.Tanh(), nn.Linear(16, 1))
        self.size, self.bad, self.noise, self.asked = batch, bad, noise, list[int]()

    def batch(self, step: int, rank: int, world_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(step)
        rows = [
            torch.from_numpy(np.random.default_rng((7, step * self.size + i)).standard_normal(3, np.float32))
            for i in range(rank, self.size, world_size)
        ]
        x = torch.stack(rows)
        y = x.sum(-1, keepdim=True)
        return x, y * float("nan") if step in self.bad else y

    def loss(self, module: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        x, y = batch
        return (module(x + self.noise * torch.randn_like(x)) - y).square().mean(), {}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"held_out": float(module(torch.ones(1, 3)).sum())}

    def picture(self, module: nn.Module) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)

    def config(self) -> dict[str, Any]:
        return {"task": self.name, "settings": {"batch": self.size, "noise": self.noise}, "model": {}, "data": {}}
