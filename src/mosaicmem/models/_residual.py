"""The convolutional block that the autoencoder and the refiner are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from mosaicmem._shapes import Float, Tensor


class ResidualBlock(nn.Module):
    """`x + conv(silu(conv(silu(x))))`; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))
