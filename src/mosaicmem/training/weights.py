"""What an error of the world model counts: by channel, by what moves, and by what it does to pixels."""

from __future__ import annotations

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.models.video_vae import VideoVAE
from mosaicmem.training.latent_clip import LatentClip


def pixel_loss(
    decoder: VideoVAE, guess: Float[Tensor, "b c g h w"], x0: Float[Tensor, "b c g h w"],
    weight: Float[Tensor, "b 1 g h w"], cells: int,
) -> Tensor:  # fmt: skip
    """What is wrong in the decoded frames of a random square of every latent.

    Squared error of pixels and half of that of their differences along x and y: errors of two cells that do not fit
    show at the edge between them, which no error of latents tells. The truth is what the decoder makes of `x0`.
    """
    h, w = x0.shape[-2:]
    rows, columns = min(cells, h), min(cells, w)
    top, left = (int(torch.randint(side + 1, ())) for side in (h - rows, w - columns))

    def square(x: Tensor) -> Tensor:
        return x[..., top : top + rows, left : left + columns].transpose(1, 2).flatten(0, 1)

    with torch.no_grad():
        truth = decoder.decode_groups(square(x0))
    error = decoder.decode_groups(square(guess)) - truth
    share = square(weight).repeat_interleave(decoder.stride, -2).repeat_interleave(decoder.stride, -1)[:, None]
    share = share / weight.mean()
    across = (share[..., 1:] * error.diff(dim=-1).square()).mean() + (
        share[..., 1:, :] * error.diff(dim=-2).square()
    ).mean()
    return (share * error.square()).mean() + across / 2


def channel_weights(gain: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Weights of mean 1, in proportion to what a channel does to pixels: halfway between latents and pixels."""
    weight = gain.clamp(min=1e-4)
    return weight / weight.mean()


def cell_weights(clip: LatentClip, groups: slice, more: float) -> Float[Tensor, "1 g h w"]:
    """A cell that shows moving things alone counts `1 + more`."""
    if clip.moving is None:
        return torch.ones_like(clip.groups[groups, 0])[None]
    return 1 + more * clip.moving[groups][None]
