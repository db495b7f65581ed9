"""From posed frames with depth to keyframes: what `remember` and `world import` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.apps.cli.session import Session
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import lift
from mosaicmem.memory.patches import Keyframe
from mosaicmem.models.vae import VAE


@runtime_checkable
class Recording(Protocol):
    """Posed frames with depth, read one at a time."""

    @property
    def cameras(self) -> Cameras:
        """One for each frame, at the recording's own size."""
        ...

    @property
    def timestamps(self) -> Float[Tensor, " n"]:
        """Seconds."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int, width: int, height: int, /) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "H W"]]:
        """Colour in [-1, 1] and z-depth, 0 = unknown, of a frame at a size."""
        ...


@dataclass(frozen=True)
class Remembered:
    """One frame `index` of a recording, its keyframe, and what was read of it."""

    index: int
    keyframe: Keyframe
    rgb: Float[Tensor, "3 H W"]
    depth: Float[Tensor, "H W"]

    @property
    def depth_known(self) -> float:
        """Share of pixels whose depth is known."""
        return float((self.depth > 0).float().mean())


def remember_frames(
    recording: Recording, chosen: Sequence[int], vae: VAE, grid: TokenGrid, session: Session
) -> Iterator[Remembered]:
    """Read, encode and lift the chosen frames one after the other, with a bar and the times of each stage."""
    cameras = recording.cameras.to(dtype=torch.float64).resized(grid.width, grid.height)
    with session.console.progress("remembering", len(chosen)) as tick:
        for index in chosen:
            with session.stage("read"):
                rgb, depth = recording.read(index, grid.width, grid.height)
            with session.stage("encode"):
                latents = vae.encode_image(rgb[None])[0]
            with session.stage("lift"):
                time = float(recording.timestamps[index])
                config = session.config.lifting
                keyframe = lift(latents, depth, cameras[index], grid, frame=index, time=time, config=config)
            yield Remembered(index, keyframe, rgb, depth)
            tick()
