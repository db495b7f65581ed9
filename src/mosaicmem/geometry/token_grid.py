"""`TokenGrid`: the only place that divides by a stride.

Frames, latents, tokens and pixels of a model are tied together by four integers. Everything else asks this class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem._shapes import Float, Int, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers


@dataclass(frozen=True)
class TokenGrid:
    """Grids of one image size under a VAE and a patch embedding.

    Attributes:
        width, height: Image size, pixels; multiples of `token_stride`.
        stride: Pixels per latent cell (the VAE's spatial stride; 16 for Wan 2.2 5B).
        patch: Latent cells per token, along each axis (2 for Wan).
        temporal: Raw frames per latent after the first (4 for Wan; 1 = every frame its own latent).

    Raises:
        ConfigError: if the size is not a multiple of `token_stride`; the message names the nearest sizes that are.
    """

    width: int
    height: int
    stride: int = 8
    patch: int = 2
    temporal: int = 4

    def __post_init__(self) -> None:
        if min(self.stride, self.patch, self.temporal) < 1:
            raise ConfigError(f"strides must be at least 1, got {self}")
        s = self.token_stride
        if self.width < s or self.height < s or self.width % s or self.height % s:
            near = [(max(1, round(x / s)) * s) for x in (self.width, self.height)]
            raise ConfigError(
                f"image size {self.width}x{self.height} is not a multiple of the token size {s} px "
                f"(VAE stride {self.stride} x patch {self.patch}); the nearest that is: {near[0]}x{near[1]}"
            )

    @property
    def token_stride(self) -> int:
        """Pixels per token."""
        return self.stride * self.patch

    @property
    def cells(self) -> tuple[int, int]:
        """`(h, w)` of the latent grid."""
        return self.height // self.stride, self.width // self.stride

    @property
    def tokens(self) -> tuple[int, int]:
        """`(m, n)` of the token grid."""
        return self.height // self.token_stride, self.width // self.token_stride

    @property
    def tokens_per_latent(self) -> int:
        m, n = self.tokens
        return m * n

    def cell_centers(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "h w 2"]:
        """Pixel coordinates (u, v) of latent cell centres."""
        h, w = self.cells
        return pixel_centers(w, h, stride=self.stride, dtype=dtype)

    def token_centers(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "m n 2"]:
        """Pixel coordinates (u, v) of token centres."""
        m, n = self.tokens
        return pixel_centers(n, m, stride=self.token_stride, dtype=dtype)

    def pixels_to_cells(self, uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        """Pixel to latent coordinates `u / s - 1/2`: integer exactly at cell centres."""
        return uv / self.stride - 0.5

    def pixels_to_tokens(self, uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        """Pixel to token (RoPE) coordinates `u / s - 1/2`: integer exactly at token centres."""
        return uv / self.token_stride - 0.5

    def num_latents(self, num_frames: int) -> int:
        """Latents that `num_frames` raw frames need; a last partial group counts as one."""
        if num_frames < 1:
            raise ConfigError(f"a window needs at least one frame, got {num_frames}")
        return 1 + -(-(num_frames - 1) // self.temporal)

    def num_frames(self, num_latents: int) -> int:
        """Raw frames behind `num_latents` full latents."""
        if num_latents < 1:
            raise ConfigError(f"a window needs at least one latent, got {num_latents}")
        return 1 + (num_latents - 1) * self.temporal

    def frames_of_latents(self, num_frames: int) -> Int[Tensor, "l k"]:
        """Raw frame behind sub-frame `k` of latent `l`: `raw(0, k) = 0`, `raw(l, k) = 4 (l - 1) + 1 + k` for stride 4.

        A last partial group repeats its last real frame.
        """
        l = torch.arange(self.num_latents(num_frames))[:, None]
        k = torch.arange(self.temporal)[None, :]
        raw = torch.where(l == 0, torch.zeros_like(k), (l - 1) * self.temporal + 1 + k)
        return raw.clamp(max=num_frames - 1)

    def reference_cameras(self, cameras: Cameras) -> Cameras:
        """The camera of each latent: that of the last raw frame of its group."""
        return cameras[self.frames_of_latents(len(cameras))[:, -1]]

    def subframe_viewmats(self, cameras: Cameras) -> tuple[Float[Tensor, "l k 4 4"], Float[Tensor, "l k 3 3"]]:
        """View matrices and intrinsics of the raw frames behind each latent, for PRoPE."""
        index = self.frames_of_latents(len(cameras))
        return cameras.viewmats[index], cameras.Ks[index]
