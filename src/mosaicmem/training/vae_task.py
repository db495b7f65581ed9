"""Training of the video autoencoder on clips: two coders, one loss each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mosaicmem._shapes import Float, Tensor, UInt8
from mosaicmem.errors import InputError, refuse
from mosaicmem.models.video_vae import Coder, VideoVAE, VideoVAEConfig
from mosaicmem.training.cache import Clip, ClipCache


@dataclass(frozen=True)
class VAETaskConfig:
    """What the autoencoder is trained on.

    Attributes:
        batch: Crops a step, of one frame and of a group each.
        crop: Side of a crop, pixels.
        edges: Weight of the difference of gradients, which keeps edges sharp.
        shift: Weight of the error after latents were resampled by a fraction of a cell: memory does that to latents,
            and a decoder that was never shown it answers with blur (after EQ-VAE, arXiv:2502.09509).
        noise: Spread of the noise on latents, in units of a latent's own.
        seed: Of all draws.
    """

    batch: int = 16
    crop: int = 64
    edges: float = 0.5
    shift: float = 0.25
    noise: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        cell, told = VideoVAEConfig.stride, {k: getattr(self, k) for k in ("edges", "shift", "noise", "seed")}
        refuse(
            (self.batch < 1, f"batch = {self.batch}: expected 1 or more"),
            (self.crop < 1 or self.crop % cell > 0, f"crop = {self.crop}: expected a multiple of {cell} pixels"),
            *((not told[name] >= 0, f"{name} = {told[name]}: expected 0 or more") for name in told),
        )


class VAETask:
    """Reconstruct frames and groups of frames (see `training.task.Task`)."""

    name = "vae"
    needs_weights = False

    def __init__(
        self, clips: ClipCache, names: Sequence[str], held_out: Sequence[Clip], config: VAETaskConfig | None = None,
        model: VideoVAEConfig | None = None,
    ) -> None:  # fmt: skip
        self.settings = config or VAETaskConfig()
        self.module = VideoVAE(model)
        self._clips, self._names, self._held_out = clips, list(names), list(held_out)
        self._start()

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
        """Crops `[b 3 S S]` and `[b 4*3 S S]`, a function of seed, step and rank alone."""
        share = range(rank, self.settings.batch, world_size)
        images, groups = zip(*(self._crop(step * self.settings.batch + i) for i in share), strict=True)
        return torch.stack(images), torch.stack(groups)

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Mean of both coders' losses; `psnr_image` and `psnr_group` of the batch."""
        assert isinstance(module, VideoVAE)
        image, image_error = self._coder_loss(module.image, batch[0])
        group, group_error = self._coder_loss(module.group, batch[1])
        metrics = {"psnr_image": _psnr(image_error), "psnr_group": _psnr(group_error)}
        return image + group, metrics

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Held-out PSNR of first frames and of groups, mean over frames."""
        assert isinstance(module, VideoVAE)
        first, rest = [], []
        for clip in self._held_out:
            for start in range(0, len(clip) - 16, 32):
                video = clip.frames(slice(start, start + 17)).to(module.mean)
                coded = _decoded(module, video).clamp(-1, 1)
                error = ((coded - video) / 2).square().mean((1, 2, 3))
                psnr = (-10 * error.clamp(min=1e-6).log10()).tolist()
                first.append(psnr[0])
                rest += psnr[1:]
        return {"held_out_image": float(np.mean(first)), "held_out_group": float(np.mean(rest))}

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
        """Truth above, reconstruction below: a first frame and the ends of two groups of four clips."""
        assert isinstance(module, VideoVAE)
        rows: list[Tensor] = []
        for clip in self._held_out[:4]:
            video = clip.frames(slice(0, 17)).to(module.mean)
            pick = [0, 1, 4, 8]
            rows += [torch.cat(list(video[pick]), -1), torch.cat(list(_decoded(module, video).clamp(-1, 1)[pick]), -1)]
        return ((torch.cat(rows, -2) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()

    def _start(self) -> None:
        rng = np.random.default_rng(self.settings.seed)
        images, groups = zip(*(self._crop(int(i)) for i in rng.integers(0, 2**40, 512)), strict=True)
        self.module.image.start_from(torch.stack(images))
        self.module.group.start_from(torch.stack(groups))

    def _crop(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.settings.seed, index))
        name = self._names[int(rng.integers(len(self._names)))]
        clip = self._clips.load(name)
        side, size = self.settings.crop, clip.rgb.shape[-1]
        if side > size:
            raise InputError(f"{self._clips.path(name)}: {size} pixels wide, crop = {side}; give a smaller task.crop")
        y, x = rng.integers(0, (size - side) // 2 + 1, 2) * 2
        latent = 1 + int(rng.integers((len(clip) - 1) // 4))
        view = clip.rgb[:, :, y : y + side, x : x + side]
        if rng.random() < 0.5:
            view = view.flip(-1)
        group = view[4 * latent - 3 : 4 * latent + 1].float() / 127.5 - 1
        image = view[int(rng.integers(len(clip)))].float() / 127.5 - 1
        return image, group.flatten(0, 1)

    def _coder_loss(self, coder: Coder, frames: Float[Tensor, "b f S S"]) -> tuple[Tensor, float]:
        latents = coder.encode(frames)
        noisy = latents + self.settings.noise * torch.randn_like(latents)
        coded = coder.decode(noisy)
        error = (coded - frames).square().mean()
        loss = error + 0.1 * (coded - frames).abs().mean() + 1e-4 * latents.square().mean()
        loss = loss + self.settings.edges * sum(
            (coded.diff(dim=d) - frames.diff(dim=d)).square().mean() for d in (-1, -2)
        )
        if self.settings.shift and coder.frames == 1:
            half = len(frames) // 2
            loss = loss + self.settings.shift * self._shift_loss(coder, latents[:half], frames[:half])
        return loss, float(error.detach())

    def _shift_loss(self, coder: Coder, latents: Tensor, frames: Tensor) -> Tensor:
        """Decode latents resampled at another place and scale; compare with the picture resampled likewise."""
        n, side = len(frames), frames.shape[-1]
        scale = 0.75 + 0.35 * torch.rand(n, 1, 1, 1)
        shift = (torch.rand(n, 1, 1, 2) - 0.5) * 2 * (1.1 - scale).clamp(min=0.05)
        theta = torch.cat([torch.eye(2).expand(n, 2, 2) * scale[:, 0], shift[:, 0].transpose(1, 2)], -1).to(latents)
        out = (n, 1, side, side)
        fine = F.affine_grid(theta, list(out), align_corners=False)
        coarse = F.affine_grid(theta, [n, 1, side // 8, side // 8], align_corners=False)
        moved = F.grid_sample(latents, coarse, align_corners=False, padding_mode="border")
        target = F.grid_sample(frames, fine, align_corners=False, padding_mode="border")
        inside = (fine.abs() < 1 - 4 / side).all(-1)[:, None]
        return ((coder.decode(moved) - target).square() * inside).mean()


def _decoded(module: VideoVAE, video: Float[Tensor, "t 3 H W"]) -> Float[Tensor, "t 3 H W"]:
    first = module.image.decode(module.image.encode(video[:1]))
    groups = video[1:].reshape(-1, 12, *video.shape[-2:])
    return torch.cat([first, module.group.decode(module.group.encode(groups)).reshape(-1, 3, *video.shape[-2:])])


def _psnr(error: float) -> float:
    return -10 * float(np.log10(max(error / 4, 1e-9)))
