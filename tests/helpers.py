"""What several test files need: where the shared data lies, and the scenes that golden numbers were taken from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mosaicmem.depth import bowl_depth as bowl_depth
from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.trajectories import orbit

ROOT = Path(__file__).resolve().parents[1]


def shared_data(*parts: str) -> Path:
    """A file or folder of real recordings beside the repository; the test is skipped where it is absent."""
    path = ROOT.parent.joinpath("shared", "data", *parts)
    if not path.exists():
        pytest.skip(f"needs {Path('../shared/data', *parts)}, which is not beside this checkout")
    return path


def circle32(dtype: torch.dtype = torch.float32) -> Cameras:
    """32 cameras at `(5 cos a, 1, 5 sin a)`, `a = 2 pi i / 32`, looking at the origin, world up +y; 64x64, f = 64."""
    eye, target, up = torch.tensor([[5.0, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=dtype)[:, None]
    start = Cameras.from_fov(look_at(eye, target, up), 64, 64)
    return orbit(start, (0, 0, 0), (0, 1, 0), degrees=-360, frames=32, endpoint=False)


def random_rotations(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """`[n 3 3]` uniformly random rotations."""
    Q, R = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator, dtype=torch.float64))
    Q = Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    Q[..., 0] *= torch.det(Q)[:, None]
    return Q.to(dtype)


def random_cameras(
    n: int, generator: torch.Generator, *, width: int = 48, height: int = 32, dtype: torch.dtype = torch.float64
) -> Cameras:
    """`n` cameras near the origin that look roughly along +z, with different focal lengths and centres."""

    def uniform(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1

    eye, target = uniform(n, 3), uniform(n, 3) + torch.tensor([0.0, 0, 6], dtype=torch.float64)
    up = torch.tensor([0.0, -1, 0], dtype=torch.float64) + 0.3 * uniform(n, 3)
    Ks = torch.zeros(n, 3, 3, dtype=torch.float64)
    Ks[:, 0, 0], Ks[:, 1, 1] = width * (1 + 0.3 * uniform(n)), width * (1 + 0.3 * uniform(n))
    Ks[:, 0, 2], Ks[:, 1, 2] = width / 2 + 2 * uniform(n), height / 2 + 2 * uniform(n)
    Ks[:, 2, 2] = 1
    return Cameras(look_at(eye, target, up).to(dtype), Ks.to(dtype), width, height)
