"""What an error of the world model counts: by channel, by what moves, and by what it does to pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Float, Tensor


def pixel_loss(
    decode: Callable[[Tensor], Tensor], guess: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"], cells: int,
    weight: Float[Tensor, "n h w"] | None = None,
) -> Tensor:  # fmt: skip
    """What is wrong in the decoded frames of a random square of every latent.

    Squared error of pixels and half of that of their differences along x and y: errors of two cells that do not fit
    show at the edge between them, which no error of latents tells. The truth is what the decoder makes of `truth`.

    Args:
        decode: Latents to frames `[n ... H W]`, differentiable.
        cells: Side of the square.
        weight: Of cells, brought to a mean of 1.
    """
    h, w = truth.shape[-2:]
    rows, columns = min(cells, h), min(cells, w)
    top, left = (int(torch.randint(side + 1, ())) for side in (h - rows, w - columns))
    square = (..., slice(top, top + rows), slice(left, left + columns))
    with torch.no_grad():
        wanted = decode(truth[square])
    error = decode(guess[square]) - wanted
    share = torch.ones_like(error)
    if weight is not None:
        stride = error.shape[-1] // columns
        share = (weight / weight.mean())[square].repeat_interleave(stride, -2).repeat_interleave(stride, -1)
        share = share.view(len(error), *[1] * (error.ndim - 3), *error.shape[-2:])
    across = (share[..., 1:] * error.diff(dim=-1).square()).mean()
    down = (share[..., 1:, :] * error.diff(dim=-2).square()).mean()
    return (share * error.square()).mean() + (across + down) / 2


def channel_weights(gain: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Weights of mean 1, in proportion to what a channel does to pixels: halfway between latents and pixels."""
    weight = gain.clamp(min=1e-4)
    return weight / weight.mean()


def cell_weights(
    moving: Float[Tensor, "b 1 g h w"], more: float, at_most: float | None = None
) -> Float[Tensor, "b 1 g h w"]:  # fmt: skip
    """A cell that shows moving things alone counts `1 + more`; less where so much moves that it outweighs the rest.

    Args:
        moving: Share of every cell that shows what moves.
        at_most: What all moving things of a window may count beyond 1, in windows. A ball is two cells of 256 and
            counts in full; a door that fills a third of the frame would be most of the loss. None: no limit.
    """
    extra = more * moving
    if at_most is not None:
        extra = extra * (at_most / extra.mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-9)).clamp(max=1)
    return 1 + extra


def wrong(error: Float[Tensor, "b c g h w"]) -> Float[Tensor, "b 1 g h w"]:
    """How far a square error is no detail but another thing, such as a wall where a door stands open: 0 to 1.

    Taken over a cell and its neighbours: 0 up to 0.15 of the spread of latents (what well-known places are told to), 1
    from 0.45 on.
    """
    around = F.pad(error.mean(1), (1, 1, 1, 1, 0, 0), mode="replicate")
    return ((F.avg_pool2d(around, 3, stride=1) - 0.15) / 0.3).clamp(0, 1)[:, None]
