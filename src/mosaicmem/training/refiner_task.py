"""Training of the refiner: windows by a trained world model, with what memory shows of them, towards the true frames.

Only reference frames are looked at, the last of every group: of these the true image latents lie in the encoded clips.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import refuse
from mosaicmem.models.devices import home_of
from mosaicmem.models.refiner import Refiner, RefinerConfig
from mosaicmem.models.video_vae import VideoVAE
from mosaicmem.training.distributed import beside, on_device
from mosaicmem.training.weights import channel_weights, pixel_loss
from mosaicmem.training.world_task import WorldTask

HELD_OUT = 32  # windows


@dataclass(frozen=True)
class RefinerTaskConfig:
    """How samples are drawn.

    Attributes:
        batch: Windows a step.
        windows: So many are made by the world model; a step takes its share of them in turn.
        truth: Share of windows that are not generated but the autoencoder's of the truth.
        pixels: What an error in decoded pixels counts beside one in latents.
        pixel_cells: Side of the square, in cells, of every frame that is decoded for it.
        seed: Of all draws.
    """

    batch: int = 8
    windows: int = 2000
    truth: float = 0.1
    pixels: float = 10.0
    pixel_cells: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        refuse(
            (self.batch < 1, f"batch = {self.batch}: expected 1 or more"),
            (self.pixel_cells < 1, f"pixel_cells = {self.pixel_cells}: expected 1 or more"),
            (not 0 <= self.pixels < math.inf, f"pixels = {self.pixels}: expected 0 or more"),
            (self.seed < 0, f"seed = {self.seed}: expected 0 or more"),
            (not 0 <= self.truth <= 1, f"truth = {self.truth}: expected 0 to 1"),
        )
        refuse(
            (self.windows < self.batch, f"windows = {self.windows}: expected at least a batch, {self.batch}"),
            (
                self.windows % self.batch > 0,
                f"windows = {self.windows}: expected a multiple of the batch, {self.batch}",
            ),
        )


@dataclass(frozen=True)
class RefinerBatch:
    """One step's frames."""

    made: Float[Tensor, "n c h w"]  # image latents of generated frames
    shown: Float[Tensor, "n c h w"]
    good: Bool[Tensor, "n h w"]
    still: Float[Tensor, "n c h w"]  # of the true ones
    weight: Float[Tensor, "n h w"]  # of cells in the loss: more where things move


class RefinerTask:
    """See the module (and `training.task.Task`).

    Args:
        world: The trained world model with its clips; its settings say how samples are drawn.
        vae: Their autoencoder.
        model, config: Sizes of the refiner, and how it is trained.
    """

    name = "refiner"
    needs_weights = False  # of the refiner: those of the world model stay as they are

    def __init__(
        self, world: WorldTask, vae: VideoVAE, model: RefinerConfig | None = None,
        config: RefinerTaskConfig | None = None,
    ) -> None:  # fmt: skip
        self.settings = config or RefinerTaskConfig()
        self.module = Refiner(model or RefinerConfig(vae.channels))
        self.module.gain.copy_(world.module.gain[0])
        self._world, self._vae = world, vae.requires_grad_(False)
        self._decoder = self._vae
        world.module.eval().requires_grad_(False)
        self._weight = channel_weights(world.module.gain[0].cpu())[:, None, None]
        self._kept: dict[range, RefinerBatch] = {}  # what takes the world model a second is made once

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> RefinerBatch:
        """The frames of a step that belong to a rank: a function of seed, step and rank."""
        first = step * self.settings.batch % self.settings.windows
        mine = range(first + rank, first + self.settings.batch, world_size)
        if mine not in self._kept:
            self._kept[mine] = self._frames(mine)
        return self._kept[mine]

    def loss(self, module: nn.Module, batch: RefinerBatch) -> tuple[Tensor, dict[str, float]]:
        """Squared error of latents, weighted by what they do to pixels, and of pixels; cells count as in the world
        model's loss."""
        fine = module(batch.made, batch.shown, batch.good)
        share = (batch.weight / batch.weight.mean())[:, None]
        latents = (share * self._weight.to(fine) * (fine - batch.still).square()).mean()
        cells = self.settings.pixel_cells if torch.is_grad_enabled() else max(fine.shape[-2:])
        self._decoder = beside(self._decoder, fine)
        pixels = pixel_loss(self._decoder.decode_stills, fine, batch.still, cells, batch.weight)
        metrics = {"latent_error": float(latents.detach()), "pixel_error": float(pixels.detach())}
        return latents + self.settings.pixels * pixels, metrics

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """PSNR of held-out reference frames against the autoencoder's of the truth: as made, and refined."""
        errors: dict[str, list[float]] = {"made": [], "refined": []}
        for start in range(0, HELD_OUT, 8):
            frames = self._frames(range(10**6 + start, 10**6 + start + 8), held_out=True)
            batch = on_device(frames, home_of(module))
            fine = module(batch.made, batch.shown, batch.good)
            truth = self._vae.decode_image(batch.still)
            for name, latents in (("made", batch.made), ("refined", fine)):
                errors[name].append(float((self._vae.decode_image(latents) - truth).square().mean()) / 4)
        return {f"held_out_{name}_psnr": float(-10 * np.log10(np.mean(found))) for name, found in errors.items()}

    def config(self) -> dict[str, Any]:
        """Settings, sizes, and those of the world model."""
        world = self._world.config()
        model = self.module.config.to_dict()
        return {"task": self.name, "settings": asdict(self.settings), "model": model, "data": world["data"]}

    def picture(self, module: nn.Module) -> np.ndarray:
        """Truth, as made, what memory shows, refined: the last reference frame of some held-out windows."""
        batch = on_device(self._frames(range(10**6, 10**6 + 6), held_out=True), home_of(module))
        with torch.no_grad():
            fine = module(batch.made, batch.shown, batch.good)
        shown = torch.where(batch.good[:, None], batch.shown, 0)
        columns = [self._vae.decode_image(z[3::4]) for z in (batch.still, batch.made, shown, fine)]
        sheet = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)
        return ((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()

    def _frames(self, indices: range, *, held_out: bool = False) -> RefinerBatch:
        samples, windows = self._world.samples(list(indices), held_out=held_out)
        groups = self._world.guess(windows).cpu()
        if not held_out:
            exact = torch.tensor(
                [np.random.default_rng((self.settings.seed, i)).random() < self.settings.truth for i in indices]
            )
            groups = torch.where(exact[:, None, None, None, None], windows.latents[:, :, 1:], groups)
        l = groups.shape[2]
        last = self._vae.decode_groups(groups.transpose(1, 2).flatten(0, 1))[:, -1].clamp(-1, 1)
        blank = torch.zeros(l, *groups.shape[1:2], *groups.shape[3:]), torch.zeros(l, *groups.shape[3:]).bool()
        looks = [sample["shown"] if sample["shown"] is not None else blank for sample in samples]
        return RefinerBatch(
            self._vae.encode_image(last),
            torch.cat([latents.float() for latents, _ in looks]),
            torch.cat([good for _, good in looks]),
            torch.cat([sample["still"] for sample in samples]),
            windows.weight[:, 0].flatten(0, 1),
        )
