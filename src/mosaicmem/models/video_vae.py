"""A small video autoencoder with Wan's time structure: the first frame alone, then groups of four.

Each mode (one frame, a group of frames) has a coder of its own, because their latents are different things: an image
latent is a picture, a group's is a picture and its motion. A coder is a linear map of 8x8 pixel blocks, which starts as
the principal components of the data, plus a convolutional network that learns what the linear map cannot say. Groups do
not look at each other, so decoding a stream group by group gives the pixels of decoding it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.models._residual import ResidualBlock
from mosaicmem.models.devices import home_of
from mosaicmem.models.vae import check_image_size, group_frames, ungroup_frames

_FINE = 4  # pixels per cell of the finer of the two levels that a network works at


@dataclass(frozen=True)
class VideoVAEConfig:
    """Sizes of a `VideoVAE`.

    Attributes:
        channels: Of a latent.
        image_widths, group_widths: Channels at 4 and at 8 pixels a cell, of the coder of one frame and of a group.
        blocks: Residual blocks per level.
        temporal: Frames of a group.
        stride: Pixels per latent cell.
    """

    channels: int = 48
    image_widths: tuple[int, int] = (48, 96)
    group_widths: tuple[int, int] = (96, 160)
    blocks: int = 2
    temporal: int = 4
    stride: int = 8

    def __post_init__(self) -> None:
        if self.stride != 2 * _FINE or min(self.channels, self.blocks, self.temporal) < 1:
            raise ConfigError(f"{self}: expected stride {2 * _FINE}, and at least one channel, block and frame")

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> VideoVAEConfig:
        """From what `to_dict` gave; lists become tuples."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})  # pyright: ignore


class Coder(nn.Module):
    """Frames of one mode to a latent and back: a linear map of blocks plus a network.

    Args:
        frames: Raw frames per latent.
        widths: Channels at 4 and at 8 pixels a cell.
    """

    def __init__(self, frames: int, widths: tuple[int, int], config: VideoVAEConfig) -> None:
        super().__init__()
        self.frames, self.stride = frames, config.stride
        fine, coarse = widths
        pixels, patches = 3 * frames * config.stride**2, 3 * frames * _FINE**2
        self.project = nn.Conv2d(pixels, config.channels, 1)
        self.unproject = nn.Conv2d(config.channels, pixels, 1)
        self.encoder = nn.Sequential(
            nn.Conv2d(patches, fine, 1),
            *[ResidualBlock(fine) for _ in range(config.blocks)],
            nn.Conv2d(fine, coarse, 2, stride=2),
            *[ResidualBlock(coarse) for _ in range(config.blocks)],
            nn.SiLU(),
            nn.Conv2d(coarse, config.channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.channels, coarse, 3, padding=1),
            *[ResidualBlock(coarse) for _ in range(config.blocks)],
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            *[ResidualBlock(fine) for _ in range(config.blocks)],
            nn.SiLU(),
            nn.Conv2d(fine, patches, 3, padding=1),
        )
        for last in (self.encoder[-1], self.decoder[-1]):
            nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]

    def encode(self, frames: Float[Tensor, "n f H W"]) -> Float[Tensor, "n c h w"]:
        """Frames stacked along channels, frame-major."""
        blocks = F.pixel_unshuffle(frames, self.stride)
        return self.project(blocks) + self.encoder(F.pixel_unshuffle(frames, _FINE))

    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f H W"]:
        """Frames stacked along channels; not clamped."""
        blocks = F.pixel_shuffle(self.unproject(latents), self.stride)
        return blocks + F.pixel_shuffle(self.decoder(latents), _FINE)

    @torch.no_grad()
    def start_from(self, frames: Float[Tensor, "n f H W"]) -> Float[Tensor, " c"]:
        """Set the linear map to the principal components of some frames, each scaled to unit variance.

        Returns:
            The standard deviation that each component had.
        """
        cells = F.pixel_unshuffle(frames, self.stride).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = cells.mean(0)
        values, vectors = torch.linalg.eigh((cells - mean).T @ (cells - mean) / len(cells))
        count = self.project.out_channels
        basis, spread = vectors.flip(1)[:, :count], values.flip(0)[:count].clamp(min=1e-12).sqrt()
        encode = basis.T / spread[:, None]
        self.project.weight.copy_(encode[:, :, None, None])
        self.project.bias.copy_(-encode @ mean)  # pyright: ignore[reportOptionalMemberAccess]
        self.unproject.weight.copy_((basis * spread)[:, :, None, None])
        self.unproject.bias.copy_(mean)  # pyright: ignore[reportOptionalMemberAccess]
        return spread.float()


class VideoVAE(nn.Module):
    """The autoencoder of the shipped model; implements `models.vae.VAE`.

    It computes where its weights lie; frames and latents may come from any device and go back there.

    `mean` and `std` bring latents of both modes to zero mean and unit spread per channel; they are fitted to data after
    training, and are one where nothing was fitted. `between` is the interpolation kernel, fitted after them, zero until
    then.
    """

    mean: Tensor
    std: Tensor
    between: Tensor

    def __init__(self, config: VideoVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or VideoVAEConfig()
        self.image = Coder(1, self.config.image_widths, self.config)
        self.group = Coder(self.config.temporal, self.config.group_widths, self.config)
        self.register_buffer("mean", torch.zeros(2, self.config.channels))
        self.register_buffer("std", torch.ones(2, self.config.channels))
        shifts, c = self.config.stride + 1, self.config.channels
        self.register_buffer("between", torch.zeros(shifts, shifts, 4 * c, c))

    @property
    def name(self) -> str:
        """Short identity, written into results."""
        return f"video-vae-{self.config.channels}"

    @property
    def stride(self) -> int:
        """Pixels per latent cell."""
        return self.config.stride

    @property
    def temporal(self) -> int:
        """Frames per latent after the first."""
        return self.config.temporal

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.config.channels

    @property
    def kernel(self) -> Float[Tensor, "k k t c"] | None:
        """How image latents are read between cells, on the CPU, where memory is; None where that was not fitted."""
        between = self.between.cpu()
        return between if bool(between[0, 0].any()) else None

    @torch.no_grad()
    def encode_image(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Every frame alone."""
        check_image_size(frames, self.stride)
        latents = _one_by_one(self.image.encode, frames.to(home_of(self)))
        return self._normalized(latents, 0).to(frames.device)

    @torch.no_grad()
    def decode_image(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """One frame a latent, clamped to [-1, 1]."""
        frames = _one_by_one(self.image.decode, self._raw(latents.to(home_of(self)), 0))
        return frames.clamp(-1, 1).to(latents.device)

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b 3 t H W"]) -> Float[Tensor, "b c l h w"]:
        """The first frame alone, then groups; a partial last group repeats its last frame."""
        check_image_size(video, self.stride)
        video, back = video.to(home_of(self)), video.device
        groups = group_frames(video, self.temporal)  # [b 3 l k H W]
        first = self.encode_image(video[:, :, 0])[:, :, None]
        rest = groups[:, :, 1:].permute(0, 2, 3, 1, 4, 5)  # [b l k 3 H W]
        if not rest.shape[1]:
            return first.to(back)
        latents = self._normalized(_one_by_one(self.group.encode, rest.flatten(0, 1).flatten(1, 2)), 1)
        return torch.cat([first, latents.unflatten(0, rest.shape[:2]).transpose(1, 2)], dim=2).to(back)

    @torch.no_grad()
    def decode_video(self, latents: Float[Tensor, "b c l h w"]) -> Float[Tensor, "b 3 t H W"]:
        """All frames, clamped to [-1, 1]: one of the first latent, `temporal` of each other."""
        b, _, l, _, _ = latents.shape
        latents, back = latents.to(home_of(self)), latents.device
        first = self.decode_image(latents[:, :, 0])[:, :, None]
        if l == 1:
            return first.to(back)
        rest = self._raw(latents[:, :, 1:].transpose(1, 2).flatten(0, 1), 1)
        frames = _one_by_one(self.group.decode, rest).clamp(-1, 1)
        groups = frames.unflatten(1, (self.temporal, 3)).unflatten(0, (b, l - 1)).permute(0, 3, 1, 2, 4, 5)
        leading = first[:, :, :, None].expand(-1, -1, -1, self.temporal, -1, -1)
        return ungroup_frames(torch.cat([leading, groups], dim=2)).to(back)

    def decode_groups(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n t 3 H W"]:
        """`temporal` frames a latent, each latent alone, not clamped: differentiable in the latents, for training."""
        frames = self.group.decode(self._raw(latents.to(home_of(self)), 1))
        return frames.unflatten(1, (self.temporal, 3)).to(latents.device)

    def decode_stills(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """One frame an image latent, not clamped: differentiable in the latents, for training."""
        return self.image.decode(self._raw(latents.to(home_of(self)), 0)).to(latents.device)

    def _normalized(self, latents: Tensor, mode: int) -> Tensor:
        return (latents - self.mean[mode, :, None, None]) / self.std[mode, :, None, None]

    def _raw(self, latents: Tensor, mode: int) -> Tensor:
        return latents * self.std[mode, :, None, None] + self.mean[mode, :, None, None]


def _one_by_one(coder: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """As fast as a batch, and the bits of an entry do not depend on how many come with it."""
    if not len(batch):  # which pixel_unshuffle does not know how to handle
        return coder(batch.new_zeros(1, *batch.shape[1:]))[:0]
    return torch.cat([coder(entry[None]) for entry in batch])
