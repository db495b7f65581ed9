"""Frames made sharp by what memory shows of them: the last step of decoding.

A group latent holds four frames in as many numbers as an image latent holds one, so a generated frame is coarser than
what memory has of the same place (28 dB against 35 of our autoencoder). The refiner looks at both, cell by cell, as
image latents: what was generated, decoded and encoded again, and what memory shows at that very frame. It takes
memory's content where the two mean the same surface, and leaves what was generated where something has moved or nothing
is known. It sees one frame at a time and never what memory does not show.

Two settings say how far that goes (docs/models.md has their price). What has moved is told faintly and lost first, so
not all of a refined frame is taken; and where nothing moves, memory's own detail can be, wherever both agree
(`settled`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.models._residual import ResidualBlock
from mosaicmem.models.devices import home_of
from mosaicmem.models.vae import VAE

REFINE = 0.9
"""Share of a refinement that is taken, where nobody says another."""

TAKEN = 0.75
"""What is taken of memory where it agrees entirely: the errors of both are partly their own."""


@dataclass(frozen=True)
class RefinerConfig:
    """Sizes.

    Attributes:
        channels: Of an image latent.
        width: Channels inside.
        blocks: Residual blocks of two convolutions; every one looks two cells further.
    """

    channels: int = 24
    width: int = 112
    blocks: int = 3

    def __post_init__(self) -> None:
        if min(self.channels, self.width, self.blocks) < 1:
            raise ConfigError(f"{self}: expected at least 1 of everything")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RefinerConfig:
        """From a file's header.

        Raises:
            ConfigError: on an unknown setting.
        """
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown settings of a refiner: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As a file's header holds it."""
        return asdict(self)


class Refiner(nn.Module):
    """Image latents of generated frames and of memory to image latents.

    `made + gate * (shown - made) + rest`, gate and rest by a small convolutional network. It starts as the identity
    of what was made but for a quarter of memory. `gain [c]` says how much a unit of each channel changes the decoded
    pixels.
    """

    gain: Tensor

    def __init__(self, config: RefinerConfig | None = None) -> None:
        super().__init__()
        self.config = config or RefinerConfig()
        c, width = self.config.channels, self.config.width
        self.register_buffer("gain", torch.ones(c))
        self.first = nn.Conv2d(2 * c + 1, width, 1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(self.config.blocks))
        self.last = nn.Conv2d(width, 2 * c, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            self.last.bias[:c] = -1.0  # pyright: ignore[reportOptionalSubscript]

    def forward(
        self, made: Float[Tensor, "n c h w"], shown: Float[Tensor, "n c h w"], good: Bool[Tensor, "n h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Image latents of frames.

        Args:
            made: Of what was generated.
            shown: What memory shows, see `conditioning.canvas`; whatever it holds where it is not good, is not read.
            good: Cells of `shown` that memory serves.
        """
        known = good[:, None].to(made.dtype)
        shown = torch.where(good[:, None], shown.to(made.dtype), made)
        x = self.first(torch.cat([made, shown - made, known], dim=1))
        for block in self.blocks:
            x = block(x)
        gate, rest = self.last(F.silu(x)).chunk(2, dim=1)
        return made + gate.sigmoid() * (shown - made) + rest


def settled(
    fine: Float[Tensor, "n c h w"], shown: Float[Tensor, "n c h w"], good: Bool[Tensor, "n h w"],
    gain: Float[Tensor, " c"], agree: float,
) -> Float[Tensor, "n c h w"]:  # fmt: skip
    """Latents with memory's content where both agree: `fine + TAKEN exp(-(d / agree)^2) (shown - fine)`.

    `d` is the difference in decoded pixels, root mean square over a cell and those around it that memory serves.

    Args:
        fine: What was made of a frame.
        shown: What memory shows of it; whatever it holds where it is not good, is not read.
        good: Cells of `shown` that memory serves; all others stay as they are.
        gain: How much a unit of each channel changes the decoded pixels.
        agree: Difference at which two surfaces are the same to a third; 0 takes nothing.
    """
    if not agree:
        return fine
    known = good[:, None].to(fine.dtype)
    change = torch.where(good[:, None], shown.to(fine.dtype) - fine, 0)
    squares = (gain[:, None, None] * change).square().sum(1, keepdim=True)
    squares, count = (F.avg_pool2d(x, 3, stride=1, padding=1) for x in (squares, known))
    return fine + TAKEN * torch.exp(-squares / (count.clamp(min=1e-6) * agree**2)) * change


@torch.inference_mode()
def refine(
    refiner: Refiner, vae: VAE, frames: Float[Tensor, "n 3 H W"], shown: Float[Tensor, "n c h w"],
    good: Bool[Tensor, "n h w"], share: float = 1.0, agree: float = 0.0,
) -> Float[Tensor, "n 3 H W"]:  # fmt: skip
    """Frames in [-1, 1], on their device; those of which memory shows nothing stay as they are, bit for bit.

    Args:
        frames: As decoded, in [-1, 1].
        shown, good: See `Refiner.forward`.
        share: How far to go from the frames to what the refiner makes of them.
        agree: See `settled`.
    """
    known = good.flatten(1).any(-1)
    if not bool(known.any()):
        return frames
    out, at = frames.clone(), home_of(refiner)
    shown, good, known = shown[known].to(at), good[known].to(at), known.to(frames.device)
    made = vae.encode_image(frames[known].to(at))
    fine = settled(made + share * (refiner(made, shown, good) - made), shown, good, refiner.gain, agree)
    out[known] = vae.decode_image(fine).to(out)
    return out
