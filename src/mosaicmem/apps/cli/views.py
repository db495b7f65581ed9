"""From memory to pictures: what each view shows, as frames of bytes with their holes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.retrieval import RetrievalConfig, retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import canvas
from mosaicmem.models.synthetic import push_pull
from mosaicmem.models.vae import VAE


@dataclass(frozen=True)
class View:
    """What memory shows in one view.

    Attributes:
        frame: `[3 H W]` in [-1, 1]; holes are filled smoothly and mean nothing.
        good: `[H W]` pixels that memory serves.
        mosaic: The retrieval behind it.
    """

    frame: Float[Tensor, "3 H W"]
    good: Bool[Tensor, "H W"]
    mosaic: Mosaic

    @property
    def coverage(self) -> float:
        """Share of the view's cells that memory shows."""
        return float(self.mosaic.coverage[0])


def memory_views(
    store: PatchStore, cameras: Cameras, grid: TokenGrid, vae: VAE, config: RetrievalConfig
) -> Iterator[View]:
    """One view at a time, so that a long trajectory needs no more room than a short one."""
    for i in range(len(cameras)):
        mosaic = retrieve(store, cameras[i], grid, config)
        yield View(*picture(store, mosaic, vae), mosaic)


def picture(store: PatchStore, mosaic: Mosaic, vae: VAE) -> tuple[Tensor, Tensor]:
    """The first view of a mosaic as a frame `[3 H W]` and the pixels `[H W]` that memory serves."""
    grid = mosaic.grid
    good = mosaic.good[0].repeat_interleave(grid.stride, 0).repeat_interleave(grid.stride, 1)
    if not len(store):
        return torch.zeros(3, grid.height, grid.width), good
    latents, cells = canvas(store, mosaic)
    # a decoder looks at the cells around each pixel: holes of zeros would darken the rim of what is known
    return vae.decode_image(push_pull(latents, cells))[0], good


def to_u8(frames: Float[Tensor, "*n 3 H W"]) -> NDArray[np.uint8]:
    """`[... H W 3]` bytes, rounded."""
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(-3, -1).contiguous().numpy()


def to_float(frame: NDArray[np.uint8]) -> Float[Tensor, "3 H W"]:
    """Bytes `[H W 3]` to [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frame)).movedim(-1, 0).float() / 127.5 - 1


def patch_colors(store: PatchStore, vae: VAE) -> NDArray[np.uint8]:
    """`[q 3]` mean colour of every patch of the store, in the order of `store.centers`."""
    colors = []
    for index, group in enumerate(store):
        keyframe = group.keyframe
        frame = vae.decode_image(keyframe.latents[None])[0]
        size = keyframe.stride * keyframe.patch
        mean = torch.nn.functional.avg_pool2d(frame[None], size)[0].flatten(1).T
        colors.append(mean[store.patch_ids[store.offsets[index] : store.offsets[index + 1]].long()])
    if not colors:
        return np.zeros((0, 3), np.uint8)
    return ((torch.cat(colors).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
