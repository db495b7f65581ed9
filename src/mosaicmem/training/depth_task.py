"""Training of the depth network on the reference frames of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mosaicmem._shapes import Float, Tensor, UInt8
from mosaicmem.errors import refuse
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.models.depth_net import DepthNet, DepthNetConfig
from mosaicmem.models.devices import home_of
from mosaicmem.training.cache import STEP, Clip, ClipCache


@dataclass(frozen=True)
class DepthTaskConfig:
    """What the depth network is trained on.

    Attributes:
        batch: Frames a step.
        worn: Share of frames that are blurred and made noisy, as generated frames are.
        seed: Of all draws.
    """

    batch: int = 16
    worn: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        refuse(
            (self.batch < 1, f"batch = {self.batch}: expected 1 or more"),
            (not 0 <= self.worn <= 1, f"worn = {self.worn}: expected 0 to 1"),
            (self.seed < 0, f"seed = {self.seed}: expected 0 or more"),
        )


class DepthTask:
    """Metric depth with a spread, and where there is none (see `training.task.Task`)."""

    name = "depth"
    needs_weights = False

    def __init__(
        self, clips: ClipCache, names: Sequence[str], held_out: Sequence[Clip], config: DepthTaskConfig | None = None,
        model: DepthNetConfig | None = None,
    ) -> None:  # fmt: skip
        self.settings = config or DepthTaskConfig()
        self.module = DepthNet(model)
        self._clips, self._names, self._held_out = clips, list(names), list(held_out)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor, Cameras]:
        """Frames, z-depth and cameras of a rank: a function of seed, step and rank alone."""
        first = step * self.settings.batch
        rows = [self._frame(first + i) for i in range(rank, self.settings.batch, world_size)]
        frames, depth, cameras = zip(*rows, strict=True)
        return torch.stack(frames), torch.stack(depth), Cameras.cat(list(cameras))

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor, Cameras]) -> tuple[Tensor, dict[str, float]]:
        """Laplace likelihood of log-depth, its gradients, and the cross-entropy of having no depth."""
        frames, depth, cameras = batch
        log_depth, log_spread, sky = module(frames, cameras)
        known = depth > 0
        target = torch.where(known, depth, 1.0).log()
        error = (log_depth - target).abs()
        likelihood = (error * (-log_spread).exp() + log_spread)[known].mean()
        edges = torch.zeros(())
        for d in (-1, -2):
            both = known.narrow(d, 1, known.shape[d] - 1) & known.narrow(d, 0, known.shape[d] - 1)
            edges = edges + (log_depth.diff(dim=d) - target.diff(dim=d)).abs()[both].mean()
        none = F.binary_cross_entropy_with_logits(sky, (~known).float())
        relative = float(((log_depth.detach() - target).exp() - 1).abs()[known].mean())
        return likelihood + 3 * error[known].mean() + 2 * edges + none, {"abs_rel": relative}

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Held-out mean of |d - d*| / d* over pixels with depth, and the share of pixels whose sky is right."""
        relative, right = [], []
        for clip in self._held_out:
            for k in range(0, len(clip.depth), 3):
                camera, depth = clip.cameras[STEP * k], clip.depth[k]
                log_depth, _, sky = _answer(module, clip.frames([STEP * k]), camera)
                known = depth > 0
                relative.append(float(((log_depth[0].exp() - depth).abs() / depth.clamp(min=1e-3))[known].mean()))
                right.append(float(((sky[0] < 0) == known).float().mean()))
        return {"held_out_abs_rel": float(np.mean(relative)), "held_out_sky_right": float(np.mean(right))}

    def config(self) -> dict[str, Any]:
        """Settings, model sizes and the data's identity."""
        data = {"clips": len(self._names), "first": self._names[0], "last": self._names[-1]}
        return {
            "task": self.name,
            "settings": asdict(self.settings),
            "model": self.module.config.to_dict(),
            "data": data,
        }

    @torch.no_grad()
    def picture(self, module: nn.Module) -> UInt8[np.ndarray, "h w 3"]:
        """Frame, true depth and predicted depth of held-out clips, near bright."""
        rows = []
        for clip in self._held_out[:6]:
            log_depth, _, _ = _answer(module, clip.frames([0]), clip.cameras[0])
            maps = [torch.where(d > 0, 1 / d.clamp(min=0.3), 0) for d in (clip.depth[0], log_depth[0].exp())]
            top = float(maps[0].max().clamp(min=1e-3))
            grey = [(m / top).clamp(0, 1).expand(3, -1, -1) for m in maps]
            rows.append(torch.cat([(clip.frames([0])[0] + 1) / 2, *grey], -1))
        return (torch.cat(rows, -2) * 255).round().byte().permute(1, 2, 0).numpy()

    def _frame(self, index: int) -> tuple[Tensor, Tensor, Cameras]:
        rng = np.random.default_rng((self.settings.seed, index))
        clip = self._clips.load(self._names[int(rng.integers(len(self._names)))])
        k = int(rng.integers(len(clip.depth)))
        frame, depth, camera = clip.frames([STEP * k])[0], clip.depth[k], clip.cameras[STEP * k]
        if rng.random() < 0.5:  # mirrored worlds are worlds; cx is at the middle
            frame, depth = frame.flip(-1), depth.flip(-1)
        if rng.random() < self.settings.worn:
            frame = _worn(frame, rng)
        return frame, depth, camera


def _answer(module: nn.Module, frames: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """What the network says, back on the device of the frames."""
    where = home_of(module)
    log_depth, log_spread, sky = module(frames.to(where), cameras.to(device=where))
    return log_depth.to(frames), log_spread.to(frames), sky.to(frames)


def _worn(frame: Float[Tensor, "3 H W"], rng: np.random.Generator) -> Float[Tensor, "3 H W"]:
    """Blur and noise of random strength."""
    factor = float(rng.uniform(1.0, 3.0))
    small = F.interpolate(frame[None], scale_factor=1 / factor, mode="bilinear", antialias=True, align_corners=False)
    frame = F.interpolate(small, frame.shape[-2:], mode="bilinear", align_corners=False)[0]
    noise = torch.from_numpy(rng.standard_normal(frame.shape, dtype=np.float32))
    return frame + float(rng.uniform(0, 0.08)) * noise
