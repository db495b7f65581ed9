"""Depth of a single frame: a small network from colour and the camera's rays to metric z-depth and confidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mosaicmem._shapes import Float, Tensor
from mosaicmem.depth.estimator import DepthEstimate, DepthInfo, check_frames
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.models.devices import home_of

_CELL = 4  # pixels per cell of the finest level
MULTIPLE = 16  # image sizes must be multiples of this


@dataclass(frozen=True)
class DepthNetConfig:
    """Sizes of a `DepthNet`: channels at 4, 8 and 16 pixels a cell, and how many rounds of attention at 16."""

    widths: tuple[int, int, int] = (64, 112, 192)
    attention: int = 2

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> DepthNetConfig:
        """From what `to_dict` gave; lists become tuples."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})  # pyright: ignore


class DepthNet(nn.Module):
    """A U-shaped network with attention at its coarsest level.

    Depth is predicted as the log of the z-depth of a camera with a focal length of one image height, and brought to the
    real one: the same picture through a longer lens is farther away.
    """

    def __init__(self, config: DepthNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or DepthNetConfig()
        a, b, c = self.config.widths
        self.stem = nn.Conv2d(5 * _CELL**2, a, 1)
        self.fine, self.middle, self.coarse = _blocks(a, 2), _blocks(b, 2), _blocks(c, 2)
        self.down1, self.down2 = nn.Conv2d(a, b, 2, stride=2), nn.Conv2d(b, c, 2, stride=2)
        self.attention = nn.ModuleList(_Attention(c) for _ in range(self.config.attention))
        self.up2, self.up1 = nn.Conv2d(c, 4 * b, 1), nn.Conv2d(b, 4 * a, 1)
        self.middle_out, self.fine_out = _blocks(b, 2), _blocks(a, 2)
        self.head = nn.Conv2d(a, 3 * _CELL**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    def forward(
        self, frames: Float[Tensor, "n 3 H W"], cameras: Cameras
    ) -> tuple[Float[Tensor, "n H W"], Float[Tensor, "n H W"], Float[Tensor, "n H W"]]:
        """Log of z-depth; log of its spread (of a Laplace distribution, in log-depth); logit of having no depth."""
        x = self.stem(F.pixel_unshuffle(torch.cat([frames, _rays(cameras).to(frames)], 1), _CELL))
        fine = self.fine(x)
        middle = self.middle(self.down1(fine))
        coarse = self.coarse(self.down2(middle))
        for attention in self.attention:
            coarse = attention(coarse)
        middle = self.middle_out(middle + F.pixel_shuffle(self.up2(coarse), 2))
        fine = self.fine_out(fine + F.pixel_shuffle(self.up1(middle), 2))
        log_depth, log_spread, sky = F.pixel_shuffle(self.head(F.silu(fine)), _CELL).unbind(1)
        focal = (cameras.Ks[:, 1, 1] / cameras.height).to(frames)
        return log_depth + 1 + focal.log()[:, None, None], log_spread.clamp(-5, 2) - 1, sky


class LearnedDepth:
    """A `depth.DepthEstimator` with a trained `DepthNet`, which computes where its weights lie.

    Args:
        network: Weights, in evaluation mode.
        name: Short identity.
    """

    def __init__(self, network: DepthNet, name: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.name = name

    def to(self, device: torch.device | str) -> LearnedDepth:
        """Move the network there, and give itself back."""
        self.network.to(device)
        return self

    @torch.inference_mode()
    def estimate(self, frames: Float[Tensor, "n 3 H W"], cameras: Cameras) -> DepthEstimate:
        """See `depth.DepthEstimator`; the answer lies where the frames do. Confidence is `1 / (1 + spread)`, 0 where
        there is no depth, such as the sky.

        Raises:
            GeometryError: if the size is no multiple of 16, or frames and cameras differ.
        """
        check_frames(frames, cameras)
        if cameras.width % MULTIPLE or cameras.height % MULTIPLE:
            raise GeometryError(
                f"{cameras.width}x{cameras.height} pixels; the depth network needs multiples of {MULTIPLE} px"
            )
        log_depth, log_spread, sky = self.network(frames.to(home_of(self.network)).float(), cameras)
        known = sky < 0
        depth = torch.where(known, log_depth.exp(), 0.0)
        confidence = torch.where(known, 1 / (1 + log_spread.exp()), 0.0)
        depth, confidence = depth.to(frames.device), confidence.to(frames.device)
        return DepthEstimate(depth, confidence, DepthInfo(self.name, True, "model"))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


class _Attention(nn.Module):
    """Every cell looks at every other; where a cell is comes from its rays."""

    def __init__(self, width: int, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        n, c, h, w = x.shape
        y = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(y)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = y + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = y + self.down(F.gelu(self.up(self.norm2(y))))
        return y.transpose(1, 2).reshape(n, c, h, w)


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[_Block(width) for _ in range(count)])


def _rays(cameras: Cameras) -> Float[Tensor, "n 2 H W"]:
    """x/z and y/z of every pixel's ray."""
    pixels = pixel_centers(cameras.width, cameras.height, device=cameras.Ks.device)
    uv1 = F.pad(pixels.double().view(-1, 2), (0, 1), value=1.0)
    rays = torch.einsum("nij,pj->nip", cameras.invert_Ks().double(), uv1)
    return rays[:, :2].reshape(-1, 2, cameras.height, cameras.width).float()
