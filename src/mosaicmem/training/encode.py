"""Clips to latents, once, and what has to be measured of an autoencoder before a world model learns on its latents.

fit_statistics(vae, clips)            # in place: vae.mean, vae.std [2 c], so that latents have mean 0 and spread 1
network.gain.copy_(channel_gain(vae, latents))   # [2 c], of images and of groups
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import InputError
from mosaicmem.models.video_vae import Coder, VideoVAE
from mosaicmem.training.cache import STEP, Clip
from mosaicmem.training.world_task import LatentClip

_NUDGE = 0.25  # of a latent's own spread: small enough to be linear, large enough for float32


@torch.no_grad()
def fit_statistics(vae: VideoVAE, clips: Iterable[Clip]) -> None:
    """Set `vae.mean` and `vae.std` to those of the raw latents of some clips, per mode and channel.

    Images are frames 0, 4, 8 ..., groups are frames 1..4, 5..8, ...; whatever was fitted before does not matter.

    Raises:
        InputError: if there are no clips, or none with a group.
    """
    moments = torch.zeros(2, 3, vae.channels, dtype=torch.float64)  # count, sum, sum of squares
    for clip in clips:
        frames = clip.frames(slice(0, 1 + (len(clip) - 1) // STEP * STEP))
        groups = frames[1:].reshape(-1, 3 * STEP, *frames.shape[-2:])
        for mode, latents in enumerate((vae.image.encode(frames[::STEP]), vae.group.encode(groups))):
            cells = latents.transpose(0, 1).flatten(1).double()
            moments[mode] += torch.stack(
                [torch.full_like(cells[:, 0], cells.shape[1]), cells.sum(1), cells.square().sum(1)]
            )
    count, total, squares = moments.unbind(1)
    if not bool((count > 1).all()):
        raise InputError("no clips to measure latents on; render some first")
    mean = total / count
    vae.mean.copy_(mean)
    vae.std.copy_((squares / count - mean.square()).clamp(min=1e-8).sqrt())


@torch.no_grad()
def channel_gain(vae: VideoVAE, latents: Iterable[LatentClip], *, seed: int = 0) -> Float[Tensor, "2 c"]:
    """Root mean square change of decoded pixels (of [-1, 1]) per unit of each normalized channel.

    One channel is nudged up or down by a coin flip in every cell, so that cells do not help each other: the mean square
    over pixels is then a cell's mean square effect, whatever the reach of the decoder. A linear decoder with columns
    `w_c` over `n` pixel values has `std_c |w_c| / sqrt(n)`.

    Args:
        latents: Encoded clips with this VAE (after `fit_statistics`); a few dozen are plenty.
    """
    generator = torch.Generator().manual_seed(seed)
    total, count = torch.zeros(2, vae.channels, dtype=torch.float64), 0
    for clip in latents:
        for mode, (coder, cells) in enumerate(((vae.image, clip.image), (vae.group, clip.groups))):
            pick = torch.linspace(0, len(cells) - 1, min(4, len(cells))).long()
            raw = cells[pick] * vae.std[mode, :, None, None] + vae.mean[mode, :, None, None]
            total[mode] += _mean_square(coder, raw, vae.std[mode], generator)
        count += 1
    if not count:
        raise InputError("no encoded clips to measure the decoder on; encode some first")
    return (total / count).sqrt().float()


def _mean_square(
    coder: Coder, raw: Float[Tensor, "n c h w"], std: Float[Tensor, " c"], generator: torch.Generator
) -> Float[Tensor, " c"]:
    n, c, h, w = raw.shape
    out = torch.zeros(c, dtype=torch.float64)
    for channel in range(c):
        sign = torch.randint(0, 2, (n, h, w), generator=generator).to(raw) * 2 - 1
        nudge = torch.zeros_like(raw)
        nudge[:, channel] = _NUDGE * std[channel] * sign
        change = (coder.decode(raw + nudge) - coder.decode(raw - nudge)) / (2 * _NUDGE)
        out[channel] = change.double().square().mean()
    return out
