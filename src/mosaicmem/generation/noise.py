"""Noise as a pure function of seed and frame: cutting a rollout into other windows, or resuming it, changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from mosaicmem._shapes import Float, Tensor


def frame_noise(seed: int, frames: Sequence[int], shape: tuple[int, ...]) -> Float[Tensor, "l *shape"]:
    """Standard normal noise of `shape` for every global frame index, float32, equal on equal (seed, frame, shape)."""
    if not frames:
        return torch.zeros(0, *shape)
    return torch.stack([torch.randn(shape, generator=_generator(seed, frame)) for frame in frames])


def _generator(seed: int, frame: int) -> torch.Generator:
    # hashed, since generators that are seeded with neighbouring numbers would be related
    digest = hashlib.sha256(f"{seed}:{frame}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
