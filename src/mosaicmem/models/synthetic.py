"""A VAE and a generator without any weights: everything they do can be said in a sentence and checked exactly.

They make the whole pipeline run, measurable to the bit, on any machine. Nothing here is learned, so everything they
produce carries the label `[synthetic]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.models.generator import WindowRequest
from mosaicmem.models.vae import check_image_size, group_frames, ungroup_frames

LABEL = "[synthetic]"


@dataclass(frozen=True)
class PixelShuffleVAE:
    """Rearranges pixels into channels: lossless to the bit in space and time.

    Channel order is `(k, rgb, row, column)`: time slot, colour, then the place inside the cell. A frame encoded alone
    fills all `temporal` slots, and so does the first frame of a clip.

    Attributes:
        stride: Pixels per cell; 1 keeps every pixel a cell.
        temporal: Frames per latent after the first.
    """

    stride: int = 1
    temporal: int = 1

    def __post_init__(self) -> None:
        if min(self.stride, self.temporal) < 1:
            raise ConfigError(f"strides must be at least 1, got {self}")

    @property
    def name(self) -> str:
        return f"pixel-shuffle-{self.stride}x{self.temporal}"

    @property
    def channels(self) -> int:
        return 3 * self.stride**2 * self.temporal

    @property
    def kernel(self) -> None:
        """Cells are pixels, which are read bilinearly."""
        return None

    def encode_image(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Every frame alone, repeated over the time slots; `GeometryError` unless the size fits the stride."""
        check_image_size(frames, self.stride)
        return F.pixel_unshuffle(frames, self.stride).repeat(1, self.temporal, 1, 1)

    def decode_image(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """The last time slot: the reference frame of the latent."""
        self._check_channels(latents.shape[1])
        return F.pixel_shuffle(latents[:, -3 * self.stride**2 :], self.stride)

    def encode_video(self, video: Float[Tensor, "b 3 t H W"]) -> Float[Tensor, "b c l h w"]:
        """First frame alone, then groups; a partial last group repeats its last frame."""
        check_image_size(video, self.stride)
        groups = group_frames(video, self.temporal).permute(0, 2, 3, 1, 4, 5)  # [b, l, k, 3, H, W]
        return F.pixel_unshuffle(groups, self.stride).flatten(2, 3).transpose(1, 2)

    def decode_video(self, latents: Float[Tensor, "b c l h w"]) -> Float[Tensor, "b 3 t H W"]:
        """All frames, the first one from its last slot."""
        self._check_channels(latents.shape[1])
        groups = latents.transpose(1, 2).unflatten(2, (self.temporal, 3 * self.stride**2))  # [b, l, k, 3 s s, h, w]
        return ungroup_frames(F.pixel_shuffle(groups, self.stride).permute(0, 3, 1, 2, 4, 5))

    def _check_channels(self, found: int) -> None:
        if found != self.channels:
            raise GeometryError(f"latents with {found} channels; {self.name} expects {self.channels}")


@dataclass(frozen=True)
class Compositor:
    """Shows memory where memory is and fills the rest smoothly. No weights, no noise, no prompt.

    The canvas (Warped Latent) is passed through untouched; holes take a pyramid fill of the cells around them
    (`push_pull`). A latent of which memory shows nothing at all holds the last frame.

    Attributes:
        use_memory: False gives the no-memory baseline: retrieval sees only the last frame, pushed into the new view by
            that frame's own depth. What has left the view is gone, as for a generator that is conditioned on its last
            frame and the camera. It is not "copy the last frame", which would not follow the camera.
        invents: Whether its fills are remembered as if they were content, where their depth is known. Then a hole
            that was filled once looks the same ever after.
    """

    use_memory: bool = True
    invents: bool = False

    name = "compositor"
    label = LABEL
    subframes = reads_past = False

    def generate(self, request: WindowRequest) -> Float[Tensor, "l c h w"]:
        """The canvas with its holes filled; equal requests give equal bits."""
        filled = push_pull(request.canvas, request.good)
        seen = request.good.flatten(1).any(1)[:, None, None, None]
        return torch.where(seen, filled, request.anchor)


def push_pull(values: Float[Tensor, "n c h w"], known: Bool[Tensor, "n h w"]) -> Float[Tensor, "n c h w"]:
    """Fill unknown cells smoothly from known ones, which keep their exact values (Gortler et al. 1996, "pull-push").

    Known cells are averaged down a pyramid until every cell of a level is known; on the way up every level takes the
    next coarser one, interpolated linearly, where it knows nothing itself. Unknown input values are never read. Where
    nothing is known the result is 0.
    """
    return _fill(torch.where(known[:, None], values, 0), known[:, None])


def _fill(values: Tensor, known: Tensor) -> Tensor:
    """`values` `[n c h w]`, 0 where not `known` `[n 1 h w]`, filled from its own pyramid."""
    h, w = values.shape[-2:]
    if h == 1 and w == 1:
        return values
    # a cell beyond an odd border is unknown, so averages run over the cells that exist
    pad = (0, w % 2, 0, h % 2)
    total = F.avg_pool2d(F.pad(values, pad), 2) * 4
    count = F.avg_pool2d(F.pad(known.to(values.dtype), pad), 2) * 4
    coarse = _fill(total / count.clamp(min=1), count > 0)
    up = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[..., :h, :w]
    return torch.where(known, values, up)
