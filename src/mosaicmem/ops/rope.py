"""Rotary position embedding over (t, y, x) in Wan's layout, at real-valued positions.

Channels are split into three bands t | y | x; within a band, channels `(2n, 2n+1)` are one vector that turns by
`pos * theta^(-2n / band)`. Nothing is tabulated, so fractional and negative positions are as good as any other.
"""

from __future__ import annotations

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError

THETA = 10_000.0


def split_bands(head_dim: int) -> tuple[int, int, int]:
    """Channels of the (t, y, x) bands: `d_y = d_x = 2 floor(d / 6)`, `t` takes the rest.

    Raises:
        ConfigError: if `head_dim` is odd or not positive.
    """
    if head_dim < 2 or head_dim % 2:
        raise ConfigError(f"rotary embedding turns pairs of channels: head_dim must be even and >= 2, got {head_dim}")
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rope_cos_sin(
    pos: Float[Tensor, "*b L 3"], head_dim: int, theta: float = THETA
) -> tuple[Float[Tensor, "*b L pairs"], Float[Tensor, "*b L pairs"]]:
    """Cosine and sine of every pair's angle.

    Args:
        pos: Positions (t, y, x): t in latents, y and x in tokens; integers at token centres.
        head_dim: Channels of a head.
        theta: Base of the frequencies.

    Returns:
        Two tensors with `head_dim / 2` entries a token, float64 for float64 positions, else float32.

    Raises:
        ConfigError: if `head_dim` is odd.
        GeometryError: if positions come in 16 bits, where the fractions that they carry are already lost.
    """
    if pos.dtype in (torch.bfloat16, torch.float16):
        raise GeometryError(
            f"positions came as {pos.dtype}, which cannot hold fractions of a token at 40 tokens; expected float32 "
            "or float64. Keep positions out of model.to(dtype)"
        )
    angles = []
    for axis, band in enumerate(split_bands(head_dim)):
        n = torch.arange(band // 2, dtype=torch.float64, device=pos.device)
        omega = (theta ** (-2 * n / max(band, 1))).to(pos.dtype)
        angles.append(pos[..., axis, None] * omega)
    angle = torch.cat(angles, dim=-1)
    return angle.cos(), angle.sin()


def apply_rope(
    x: Float[Tensor, "b heads L d"],
    cos: Float[Tensor, "#b L pairs"],
    sin: Float[Tensor, "#b L pairs"],
    *,
    inverse: bool = False,
) -> Float[Tensor, "b heads L d"]:
    """Turn each channel pair: `a' = a cos - b sin`, `b' = a sin + b cos`; `inverse` turns back.

    The rotation runs in the angles' precision, the result has the dtype of `x`.
    """
    pairs = x.to(torch.promote_types(x.dtype, cos.dtype)).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # compilers know no complex numbers, and need none to make this one pass
        (a, b), c, s = pairs.unbind(-1), cos[:, None], -sin[:, None] if inverse else sin[:, None]
        return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2).to(x.dtype)
    # A pair is a complex number and a turn is one multiplication: one pass over x instead of six.
    if pairs.stride(-1) != 1 or pairs.storage_offset() % 2 or any(step % 2 for step in pairs.stride()[:-1]):
        pairs = pairs.contiguous()  # what view_as_complex cannot look at in place
    pairs = torch.view_as_complex(pairs)
    turn = torch.complex(cos, -sin if inverse else sin).to(pairs.dtype)
    return torch.view_as_real(pairs * turn[:, None]).flatten(-2).to(x.dtype)
