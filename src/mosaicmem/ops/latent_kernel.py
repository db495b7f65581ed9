"""The interpolation kernel of an autoencoder: its latents, read between cells.

Bilinear reading takes latents for samples of a smooth picture. They are not: a channel that stands for a stripe inside
its cell means another stripe half a cell further on, and its mean with a neighbour means neither. What the encoder
would give for the picture shifted by part of a cell is, for an autoencoder that sees little beyond its cells, nearly a
linear function of the four cells around: one small matrix per shift, solved by least squares from pictures alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.errors import GeometryError

_BORDER = 1  # cells at the edge of a picture, of which the encoder saw a part only


@torch.no_grad()
def fit_kernel(
    encode: Callable[[Tensor], Tensor], frames: Float[Tensor, "n 3 H W"], stride: int, ridge: float = 1e-4
) -> Float[Tensor, "k k t c"]:
    """Solve `encode(shifted picture) = kernel applied to encode(picture)` for every shift by whole pixels.

    Args:
        encode: Frames `[n 3 H W]` to latents `[n c h w]`, each frame alone.
        frames: Some dozens; sides are multiples of `stride`, at least 5 cells.
        stride: Pixels of a cell.
        ridge: Of the least squares, relative to latents of unit spread.

    Returns:
        `[stride + 1, stride + 1, 4 c, c]`: for a shift by (y, x) pixels, from the four cells around (row-major).

    Raises:
        GeometryError: if frames are too small.
    """
    height, width = frames.shape[-2:]
    if height % stride or width % stride or min(height, width) < 5 * stride:
        raise GeometryError(f"frames of {width}x{height} pixels; expected multiples of {stride} from {5 * stride} on")
    inner = slice(_BORDER, -_BORDER)
    latents = encode(frames[..., : height - stride, : width - stride])
    h, w = (side - 1 for side in latents.shape[-2:])
    around = torch.cat([latents[..., a : a + h, b : b + w] for a in (0, 1) for b in (0, 1)], dim=1)
    given = around[..., inner, inner].movedim(1, -1).flatten(0, 2).double()
    gram = given.mT @ given
    gram.diagonal().add_(ridge * len(given))
    factor = torch.linalg.cholesky(gram)
    rows = []
    for y in range(stride + 1):
        for x in range(stride + 1):
            shifted = encode(frames[..., y : y + height - 2 * stride, x : x + width - 2 * stride])
            wanted = shifted[..., inner, inner].movedim(1, -1).flatten(0, 2).double()
            rows.append(torch.cholesky_solve(given.mT @ wanted, factor).float())
    return torch.stack(rows).unflatten(0, (stride + 1, stride + 1))


def read_between(
    latents: Float[Tensor, "s c h w"],
    valid: Bool[Tensor, "s h w"],
    source: Int64[Tensor, "*q"],
    cells: Float[Tensor, "*q 2"],
    kernel: Float[Tensor, "k k t c"],
) -> tuple[Float[Tensor, "*q c"], Bool[Tensor, "*q"]]:
    """Read latents at real-valued cells with a kernel; between whole pixels, kernels are mixed bilinearly.

    Args:
        latents: Stored latents.
        valid: Cells whose content may be read.
        source: Which latent each query reads, -1 for none.
        cells: Where, in latent coordinates (x, y), integer at cell centres.
        kernel: As `fit_kernel` gives it.

    Returns:
        Values, and whether all four cells around are there and valid; where not, the values are 0. Differentiable in
        `latents`.
    """
    _, c, h, w = latents.shape
    steps = kernel.shape[0] - 1
    flat, at = source.flatten(), cells.detach().reshape(-1, 2)
    last = at.new_tensor([w - 1, h - 1])
    corner = torch.where(at == last, last - 1, at.floor())  # the last cell's centre is read from the pair before it
    column, row = corner.nan_to_num(-2, -2, -2).long().unbind(-1)
    inside = (flat >= 0) & (column >= 0) & (column < w - 1) & (row >= 0) & (row < h - 1)
    index = (flat.clamp(min=0) * h + row.clamp(0, h - 2)) * w + column.clamp(0, w - 2)
    taps = index[:, None] + torch.tensor([0, 1, w, w + 1], device=index.device)
    known = inside & valid.flatten()[taps].all(-1)
    asked = known.nonzero().squeeze(1)
    part = (at[asked] - corner[asked]) * steps
    node = part.floor().clamp(0, steps - 1)
    fx, fy = (part - node).to(latents.dtype).unbind(-1)
    mix = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], dim=-1)
    table = latents.permute(0, 2, 3, 1).reshape(-1, c)
    bins = (node[:, 1] * steps + node[:, 0]).long()
    order = bins.argsort()
    kernel = kernel.to(latents.dtype)
    read = [latents.new_zeros(0, c)]
    for i, mine in enumerate(order.split(torch.bincount(bins, minlength=steps**2).tolist())):
        if len(mine):
            y, x = divmod(i, steps)
            content = table[taps[asked[mine]]].flatten(1)
            mixed = (mix[mine, :, None] * content[:, None]).flatten(1)
            read.append(mixed @ kernel[y : y + 2, x : x + 2].reshape(-1, c))
    values = latents.new_zeros(len(flat), c).index_put((asked[order],), torch.cat(read).to(latents.dtype))
    return values.view(*source.shape, c), known.view(source.shape)
