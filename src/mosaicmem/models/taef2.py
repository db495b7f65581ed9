"""TAEF2: the tiny pretrained autoencoder of FLUX.2 latents (32 channels, 8x down), as `taesd` publishes it.

An image autoencoder: it has no notion of time, so every frame is its own latent. Layers are numbered as in the
published checkpoints, so these load unchanged. Widths come from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import InputError, MissingWeightsError
from mosaicmem.io.files import read_bytes
from mosaicmem.models.devices import home_of
from mosaicmem.models.vae import check_image_size

ENCODER_FILE = "taef2_encoder.safetensors"
DECODER_FILE = "taef2_decoder.safetensors"
MAX_WEIGHT_BYTES = 512 * 2**20

_GROUPS = 4


class TAEF2(nn.Module):
    """The real image VAE behind our `VAE` protocol: `stride` 8, `temporal` 1, float32, frozen.

    Latents need no normalisation (mean about 0, standard deviation about 0.85 on photographs).
    """

    name = "taef2"
    stride = 8
    temporal = 1

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.channels = encoder, decoder, channels
        # a fifth faster on CPUs; torch's own stubs do not know the argument
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @staticmethod
    def from_pretrained(folder: Path | str) -> TAEF2:
        """Read `taef2_encoder.safetensors` and `taef2_decoder.safetensors` of `folder`.

        Raises:
            MissingWeightsError: a file is absent.
            InputError: a file is no safetensors file, or its keys or shapes are not those of this network.
        """
        folder = Path(folder)
        paths = [folder / ENCODER_FILE, folder / DECODER_FILE]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise MissingWeightsError(
                f"{folder}: no {' and no '.join(missing)}; put both files of the TAEF2 autoencoder "
                f"({ENCODER_FILE} and {DECODER_FILE}, published by the taesd project, MIT) into this folder"
            )
        encoder_state, decoder_state = (_read_weights(path) for path in paths)
        width = _dimension(encoder_state, "0.weight", 0, paths[0])
        channels = _dimension(encoder_state, "14.weight", 0, paths[0])
        encoder_wide = _dimension(encoder_state, "11.pool.0.weight", 0, paths[0])
        decoder_width = _dimension(decoder_state, "1.weight", 0, paths[1])
        decoder_wide = _dimension(decoder_state, "3.pool.0.weight", 0, paths[1])
        encoder = _load(lambda: _encoder(width, encoder_wide, channels), encoder_state, paths[0])
        decoder = _load(lambda: _decoder(decoder_width, decoder_wide, channels), decoder_state, paths[1])
        return TAEF2(encoder, decoder, channels)

    @property
    def kernel(self) -> None:
        """None was fitted: cells are read bilinearly."""
        return None

    def encode_image(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Latents of frames in [-1, 1]; height and width are multiples of 8, else `GeometryError`."""
        check_image_size(frames, self.stride)
        cells = (frames.shape[-2] // self.stride, frames.shape[-1] // self.stride)
        if not len(frames):
            return frames.new_zeros(0, self.channels, *cells)
        # one frame at a time: full-resolution activations of a clip would take gigabytes
        at = home_of(self)
        return torch.cat([self.encoder(frame[None].to(at) / 2 + 0.5) for frame in frames]).to(frames.device)

    def decode_image(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Frames in [-1, 1]."""
        if not len(latents):
            return latents.new_zeros(0, 3, latents.shape[-2] * self.stride, latents.shape[-1] * self.stride)
        at = home_of(self)
        frames = [self.decoder(latent[None].to(at)).clamp(0, 1) * 2 - 1 for latent in latents]
        return torch.cat(frames).to(latents.device)

    def encode_video(self, video: Float[Tensor, "b 3 t H W"]) -> Float[Tensor, "b c t h w"]:
        """Every frame is its own latent."""
        latents = self.encode_image(video.transpose(1, 2).flatten(0, 1))
        return latents.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)

    def decode_video(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 t H W"]:
        """Every latent is its own frame."""
        frames = self.decode_image(latents.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (latents.shape[0], latents.shape[2])).transpose(1, 2)


class _Clamp(nn.Module):
    """Soft limit of latents to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    """`ReLU(conv(x) + x)`; with `wide` channels, `x` first takes a residual normalised over the whole image."""

    def __init__(self, width: int, wide: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))
        self.pool = None
        if wide is not None:
            self.pool = nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False),
                nn.GroupNorm(_GROUPS, wide),
                nn.ReLU(),
                nn.Conv2d(wide, width, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def _conv(n_in: int, n_out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=bias)


def _encoder(width: int, wide: int, channels: int) -> nn.Sequential:
    down = {2, 6, 10}
    layers: list[nn.Module] = [_conv(3, width)]
    layers += [
        _conv(width, width, stride=2, bias=False) if i in down else _Block(width, wide if i > 10 else None)
        for i in range(1, 14)
    ]
    return nn.Sequential(*layers, _conv(width, channels))


def _decoder(width: int, wide: int, channels: int) -> nn.Sequential:
    def stage(blocks: int, wide: int | None = None) -> list[nn.Module]:
        return [_Block(width, wide) for _ in range(blocks)]

    def up() -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), _conv(width, width, bias=False)]

    head: list[nn.Module] = [_Clamp(), _conv(channels, width), nn.ReLU()]
    return nn.Sequential(*head, *stage(3, wide), *up(), *stage(3), *up(), *stage(3), *up(), *stage(1), _conv(width, 3))


def _read_weights(path: Path) -> dict[str, Tensor]:
    data = read_bytes(path, MAX_WEIGHT_BYTES)
    try:
        state = load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); download it again") from error
    for key, value in state.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise InputError(f"{path}: weight {key!r} is {value.dtype} or not finite; expected finite floats")
    return {key: value.float() for key, value in state.items()}


def _dimension(state: Mapping[str, Tensor], key: str, axis: int, path: Path) -> int:
    if key not in state or state[key].ndim != 4:
        found = tuple(state[key].shape) if key in state else "nothing"
        raise InputError(f"{path}: weight {key!r} is {found}; expected a convolution, so this is no TAEF2 checkpoint")
    size = state[key].shape[axis]
    if size < 1:
        raise InputError(f"{path}: weight {key!r} is empty")
    return size


def _load(make: Callable[[], nn.Sequential], state: dict[str, Tensor], path: Path) -> nn.Sequential:
    with torch.device("meta"):  # sizes come from the file: compare before anything of that size is allocated
        try:
            network = make()
        except ValueError as error:
            raise InputError(f"{path}: layer widths do not fit together ({error})") from error
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        key = wrong[0]
        raise InputError(
            f"{path}: {len(wrong)} weights do not fit; first {key!r}: found {found.get(key, 'nothing')}, "
            f"expected {expected.get(key, 'nothing')}"
        )
    network.load_state_dict(state, assign=True)
    return network
