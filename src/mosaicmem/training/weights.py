"""What an error of the world model counts: by channel, by what moves, and by what it does to pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.store import PatchStore
from mosaicmem.training.cache import STEP
from mosaicmem.training.latent_clip import LatentClip


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
    clip: LatentClip, groups: slice, more: float, at_most: float | None = None,
    told: Float[Tensor, "g h w"] | None = None,
) -> Float[Tensor, "1 g h w"]:  # fmt: skip
    """A cell that shows moving things alone counts `1 + more`; less where so much moves that it outweighs the rest.

    Args:
        at_most: What all moving things of the window may count beyond 1, in windows. A ball is two cells of 256 and
            counts in full; a door that fills a third of the frame would be most of the loss. None: no limit.
        told: Share of each cell that memory shows of moving things (`moves_in_memory`), which counts as much as the
            truth's. A weight by the truth alone says that a ball is worth more than the wall where it is not, and who
            minimises that shows a ball wherever one might be.
    """
    if clip.moving is None:
        return torch.ones_like(clip.groups[groups, 0])[None]
    moving = clip.moving[groups] if told is None else torch.maximum(clip.moving[groups], told)
    extra = more * moving[None]
    limit = 1.0 if at_most is None else float((at_most / extra.mean().clamp(min=1e-9)).clamp(max=1))
    return 1 + limit * extra


def moves_in_memory(clip: LatentClip, store: PatchStore, mosaic: Mosaic) -> Float[Tensor, "l h w"]:
    """Share of each cell of a mosaic that was read from what moves by itself, as far as the clip says.

    Args:
        store: Keyframes of the clip.
        mosaic: Views of it, at the clip's grid.
    """
    out = torch.zeros(mosaic.source.shape)
    if clip.moving is None or not len(store):
        return out
    _, h, w = clip.moving.shape
    group = torch.tensor([max(g.keyframe.frame // STEP - 1, 0) for g in store])  # the group that ends with it
    x, y = (mosaic.source_uv / mosaic.grid.stride).long().unbind(-1)
    found = clip.moving[group[mosaic.source.clamp(min=0)], y.clamp(0, h - 1), x.clamp(0, w - 1)]
    return torch.where(mosaic.good, found, out)
