"""What the library needs from a video autoencoder, whichever network is behind it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import GeometryError


@runtime_checkable
class VAE(Protocol):
    """Frames in [-1, 1] to latents and back.

    Two modes, never mixed: an *image-mode* latent holds one frame encoded alone, which is what memory stores; a
    *video* latent after the first holds `temporal` consecutive frames (frames `1 + (l - 1) temporal ...` of the clip,
    Wan's causal grouping). The first latent of a clip holds one frame and equals the image-mode latent of that frame.

    What comes from a device goes back to it, wherever the weights lie.
    """

    @property
    def name(self) -> str:
        """Short identity, written into results."""
        ...

    @property
    def stride(self) -> int:
        """Pixels per latent cell along each axis."""
        ...

    @property
    def temporal(self) -> int:
        """Raw frames per latent after the first."""
        ...

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def kernel(self) -> Float[Tensor, "k k t c"] | None:
        """How its image-mode latents are read between cells (`ops.latent_kernel`), on the CPU; None for bilinearly."""
        ...

    def encode_image(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Every frame alone."""
        ...

    def decode_image(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """One frame a latent: the frame itself in image mode, the last frame of the group otherwise."""
        ...

    def encode_video(self, video: Float[Tensor, "b 3 t H W"]) -> Float[Tensor, "b c l h w"]:
        """The first frame alone, then groups of `temporal`; a partial last group repeats its last frame."""
        ...

    def decode_video(self, latents: Float[Tensor, "b c l h w"]) -> Float[Tensor, "b 3 t H W"]:
        """All frames: `t = 1 + (l - 1) temporal`."""
        ...


def check_image_size(frames: Tensor, stride: int) -> None:
    """Raise `GeometryError` unless the last two axes of `frames` are multiples of `stride`."""
    height, width = frames.shape[-2:]
    if height % stride or width % stride or not height or not width:
        raise GeometryError(
            f"frames of {width}x{height} pixels, but the autoencoder halves them down to cells of {stride} px; "
            f"expected a width and a height that are multiples of {stride}"
        )


def group_frames(video: Float[Tensor, "b 3 t H W"], temporal: int) -> Float[Tensor, "b 3 l k H W"]:
    """Frames by latent (Wan's grouping): the first frame `temporal` times, then groups of `temporal`.

    A partial last group repeats its last frame.
    """
    frames = video.shape[2]
    if not frames:
        raise GeometryError("an empty clip cannot be encoded; expected at least one frame")
    latents = 1 + -(-(frames - 1) // temporal)
    l, k = (torch.arange(count, device=video.device) for count in (latents, temporal))
    l, k = l[:, None], k[None, :]
    raw = torch.where(l == 0, 0, (l - 1) * temporal + 1 + k).clamp(max=frames - 1)
    return video[:, :, raw]


def ungroup_frames(groups: Float[Tensor, "b 3 l k H W"]) -> Float[Tensor, "b 3 t H W"]:
    """Inverse of `group_frames` for whole groups; of the first group the last slot is kept."""
    first, rest = groups[:, :, 0, -1:], groups[:, :, 1:].flatten(2, 3)
    return torch.cat([first, rest], dim=2)
