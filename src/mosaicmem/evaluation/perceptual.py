"""A perceptual distance that needs no downloaded weights: `perceptual-gabor`, not LPIPS.

What it is: pictures in opponent colours, each analysed by complex Gabor filters at four orientations and four octaves,
as the first stages of vision do. Per filter, two terms over small windows: *structure*, the complex-wavelet similarity
of Sampat et al. (2009), which forgives the consistent phase change of a small displacement but not a lost edge, and
*texture*, the similarity of local filter energy (the roles these terms have in DISTS, Ding et al. 2020). Both are
ratios, so contrast is normalised by what is there, and places where either picture has structure weigh most. A third
term compares local mean colour. The distance is one minus their weighted mean: 0 for equal pictures, 1 at most.

What it is not: it was fitted to no human judgement and knows no objects. Its numbers are comparable with each other,
never with LPIPS or DISTS.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.evaluation.metrics import MIN_MASK_SHARE, MeanState

LABEL = "perceptual-gabor (not LPIPS)"
OCTAVES, ORIENTATIONS = 4, 4
_WAVELENGTH, _SIGMA, _REACH = 4.0, 1.7, 4  # of the Gabor filters, in pixels of their octave
_WINDOW = 1.5  # sigma of the local statistics, in pixels of the octave
_FLOOR, _COLOUR_FLOOR = 4e-4, 4e-3  # energies on a [0, 1] scale below which nobody sees a difference
_FLAT = 0.05  # weight of a place without structure; 1 is that of a place full of it
_STRUCTURE, _TEXTURE, _COLOUR = 0.5, 0.25, 0.25
_OPPONENT = (
    (1 / 3, 1 / 3, 1 / 3),  # light
    (1 / 2, -1 / 2, 0.0),  # red against green
    (1 / 4, 1 / 4, -1 / 2),  # yellow against blue
)
MIN_SIZE = 8 * 2 ** (OCTAVES - 1)


def perceptual(
    frames: Float[Tensor, "n 3 H W"], truth: Float[Tensor, "n 3 H W"], data_range: float = 2.0
) -> Float[Tensor, " n"]:
    """`perceptual-gabor` distance of every frame from its truth, in [0, 1]; symmetric, float32, one frame at a time.

    Args:
        data_range: Distance between black and white: 2 for frames in [-1, 1].

    Raises:
        GeometryError: if the frames are smaller than 64 pixels on a side.
    """
    if min(frames.shape[-2:]) < MIN_SIZE:
        raise GeometryError(
            f"frames are {frames.shape[-1]}x{frames.shape[-2]}; {LABEL} looks at {OCTAVES} octaves and needs "
            f"{MIN_SIZE} pixels on a side"
        )
    # one by one: a sum over a batch would depend on who else is in it
    values = [_distance(a / data_range, b / data_range) for a, b in zip(frames.float(), truth.float(), strict=True)]
    return torch.stack(values) if values else frames.new_zeros(0).float()


def perceptual_state(
    frames: Float[Tensor, "n 3 H W"],
    truth: Float[Tensor, "n 3 H W"],
    mask: Bool[Tensor, "n H W"] | None = None,
    data_range: float = 2.0,
) -> MeanState:
    """`perceptual` as a mergeable mean over frames.

    With a mask, pixels outside are taken from `truth` in both pictures, so they count as perfect: report the mask share
    beside the number. Frames of which the mask covers less than 20 % are skipped.
    """
    keep = torch.ones(len(frames), dtype=torch.bool)
    if mask is not None:
        frames = torch.where(mask[:, None], frames, truth)
        keep = mask.flatten(1).float().mean(1) >= MIN_MASK_SHARE
    values = perceptual(frames[keep], truth[keep], data_range).double()
    return MeanState(float(values.sum()), len(values), 0, int((~keep).sum()))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    both = torch.einsum("oc,nchw->nohw", torch.tensor(_OPPONENT), torch.stack([a, b]))
    structure, texture, colour = [], [], []
    for octave in range(OCTAVES):
        if octave:
            both = F.avg_pool2d(both, 2)
        responses = _gabor(both)  # [2 3 o h w], complex
        energy = _window(responses.abs().square())
        cross = responses[0] * responses[1].conj()
        cross = torch.complex(_window(cross.real), _window(cross.imag)).abs()
        both_energy = energy[0] + energy[1]
        weight = both_energy / (both_energy + _FLOOR) + _FLAT  # a flat place says little about structure
        weight = weight / weight.sum()
        structure.append((weight * (2 * cross + _FLOOR) / (both_energy + _FLOOR)).sum())
        amount = energy.sqrt()
        texture.append((weight * (2 * amount[0] * amount[1] + _FLOOR) / (both_energy + _FLOOR)).sum())
        mean = _window(both)
        apart = (mean[0] - mean[1]).square().sum(0)
        colour.append((_COLOUR_FLOOR / (apart + _COLOUR_FLOOR)).mean())
    parts = [torch.stack(part).mean() for part in (structure, texture, colour)]
    return (1 - _STRUCTURE * parts[0] - _TEXTURE * parts[1] - _COLOUR * parts[2]).clamp(min=0)


def _gabor(pictures: Tensor) -> Tensor:
    """Complex responses `[n c o h w]` of every channel to every orientation."""
    n, c, h, w = pictures.shape
    flat = F.pad(pictures, (_REACH,) * 4, mode="reflect").flatten(0, 1)[:, None]
    out = F.conv2d(flat, _filters()).view(n, c, 2, ORIENTATIONS, h, w)
    return torch.complex(out[:, :, 0].contiguous(), out[:, :, 1].contiguous())


@cache
def _filters() -> Tensor:
    """Even filters, then odd ones, `[2 o 1 k k]` flattened; each sees no constant and answers its own wave with 1."""
    x = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64)
    v, u = torch.meshgrid(x, x, indexing="ij")
    envelope = torch.exp(-(u**2 + v**2) / (2 * _SIGMA**2))
    envelope /= envelope.sum()
    even, odd = [], []
    for k in range(ORIENTATIONS):
        angle = math.pi * k / ORIENTATIONS
        phase = 2 * math.pi / _WAVELENGTH * (u * math.cos(angle) + v * math.sin(angle))
        wave = envelope * phase.cos()
        even.append(2 * (wave - envelope * wave.sum()))
        odd.append(2 * envelope * phase.sin())
    return torch.stack(even + odd)[:, None].float()


def _window(values: Tensor) -> Tensor:
    """Gaussian local mean over the last two dimensions, edges mirrored."""
    reach = math.ceil(2 * _WINDOW)
    x = torch.arange(-reach, reach + 1, dtype=values.dtype)
    kernel = torch.exp(-(x**2) / (2 * _WINDOW**2))
    kernel /= kernel.sum()
    h, w = values.shape[-2:]
    flat = F.pad(values.reshape(-1, 1, h, w), (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(flat, kernel[None, None, :, None]), kernel[None, None, None, :]).view(values.shape)
