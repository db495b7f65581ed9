"""Pictures of a real lens as pinhole pictures of any size, and depth with them.

A pixel of the pinhole picture looks up where the lens shows it (the distortion of OpenCV, which COLMAP and nerfstudio
share): colours bilinearly, depth at the nearest source pixel, since an average across an edge is a point that exists
nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Lens:
    """Of one camera.

    Attributes:
        fx, fy, cx, cy: Pixels of a `width x height` image; the pinhole picture has the same.
        width, height: Of that image. Pictures and depth may come in another size of the same shape.
        distortion: `k1 k2 p1 p2`, or `k1 k2 k3 k4` of a fisheye.
        fisheye: Which.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    fisheye: bool = False

    @property
    def straight(self) -> bool:
        """A pinhole already."""
        return not self.fisheye and not any(self.distortion)

    def picture(self, pixels: Picture, width: int, height: int) -> Picture:
        """The pinhole picture at a size: averaged over pixels when it shrinks."""
        if not self.straight:
            u, v = self._lookup(self.width, self.height)
            h, w = pixels.shape[:2]
            at = torch.stack([2 * u / self.width - 1, 2 * v / self.height - 1], -1)
            at = F.interpolate(at.permute(2, 0, 1)[None].float(), (h, w), mode="nearest").permute(0, 2, 3, 1)
            image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
            straight = F.grid_sample(image, at, padding_mode="border", align_corners=False)
            pixels = straight[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
        if pixels.shape[:2] == (height, width):
            return pixels
        # BOX averages over the source area of each target pixel when shrinking; when growing it would repeat pixels
        grows = width > pixels.shape[1] or height > pixels.shape[0]
        method = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
        return np.array(Image.fromarray(pixels).resize((width, height), method))

    def nearest(self, values: NDArray[np.generic], width: int, height: int) -> NDArray[np.generic]:
        """A map at the pixel centres of the pinhole picture; 0 where the lens shows nothing."""
        u, v = self._lookup(width, height)
        h, w = values.shape
        rows, columns = (v * (h / self.height)).floor().long(), (u * (w / self.width)).floor().long()
        inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
        found = values[rows.clamp(0, h - 1).numpy(), columns.clamp(0, w - 1).numpy()]
        return np.where(inside.numpy(), found, np.zeros((), values.dtype))

    def _lookup(self, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the lens shows the pixel centres of a pinhole picture: `u`, `v` `[H W]` in pixels of its own image."""
        u = (torch.arange(width, dtype=torch.float64) + 0.5) * (self.width / width)
        v = (torch.arange(height, dtype=torch.float64) + 0.5) * (self.height / height)
        u, v = u.expand(height, width), v[:, None].expand(height, width)
        if self.straight:
            return u, v
        x, y = (u - self.cx) / self.fx, (v - self.cy) / self.fy
        r2 = x * x + y * y
        a, b, c, d = self.distortion
        if self.fisheye:
            r = r2.sqrt().clamp(min=1e-12)
            t = r.atan()
            t2 = t * t
            slope = 1 + t2 * (3 * a + t2 * (5 * b + t2 * (7 * c + t2 * 9 * d)))
            factor = t * (1 + t2 * (a + t2 * (b + t2 * (c + t2 * d)))) / r
            x, y = x * factor, y * factor
        else:
            slope = 1 + r2 * (3 * a + r2 * 5 * b)
            factor = 1 + r2 * (a + r2 * b)
            x, y = x * factor + 2 * c * x * y + d * (r2 + 2 * x * x), y * factor + c * (r2 + 2 * y * y) + 2 * d * x * y
        lost = torch.where(slope > 0, 0.0, torch.inf)  # beyond its turning point the polynomial says nothing
        return torch.nan_to_num(self.fx * x + self.cx + lost, nan=1e9).clamp(-1e9, 1e9), torch.nan_to_num(
            self.fy * y + self.cy + lost, nan=1e9
        ).clamp(-1e9, 1e9)
