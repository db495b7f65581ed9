"""Memory as a coloured point cloud, rendered into a view: what systems without a spatial latent memory keep.

It knows colours and places exactly and nothing else: what moves stands still where it was seen, what was never seen is
a smooth fill. A baseline, not a generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.geometry.warps import bilinear_taps, z_buffer
from mosaicmem.models.synthetic import push_pull

_MIN_WEIGHT = 0.05  # of a pixel that a point touches; below, it neither colours nor hides
_SAME_SURFACE = 0.03  # relative depth behind the nearest within which points are blended
_NEAR = 0.05  # points nearer than this are not drawn, world units


@dataclass(frozen=True)
class PointCloud:
    """Points with colours.

    Attributes:
        points: `[p 3]` in the world.
        colours: `[p 3]` in [-1, 1].
    """

    points: Float[Tensor, "p 3"]
    colours: Float[Tensor, "p 3"]

    @staticmethod
    def of(
        rgb: Float[Tensor, "n 3 H W"], depth: Float[Tensor, "n H W"], cameras: Cameras
    ) -> PointCloud:  # fmt: skip
        """One point for every pixel with known depth."""
        uv = pixel_centers(cameras.width, cameras.height, dtype=torch.float64).reshape(1, -1, 2)
        points, colours = [], []
        for colour, z, camera in zip(rgb, depth.double(), cameras, strict=True):
            known = (z > 0).flatten()
            points.append(camera.to(dtype=torch.float64).unproject(uv, z.reshape(1, -1))[0, known])
            colours.append(colour.flatten(1).T[known])
        return PointCloud(torch.cat(points).float(), torch.cat(colours).float())

    def render(self, camera: Cameras) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
        """The view of one camera and the pixels that points landed on; the others are filled smoothly.

        A point touches the four pixels around it; of those that touch a pixel, the ones on the nearest surface are
        blended by how near they land.
        """
        uv, z, inside = camera.to(dtype=torch.float32).project(self.points[None])
        keep = (inside[0] & (z[0] > _NEAR)).nonzero().squeeze(-1)
        size = camera.width * camera.height
        index, weight = bilinear_taps(uv[0, keep] - 0.5, camera.width, camera.height)
        tap, depth, weight = index.flatten(), z[0, keep].repeat_interleave(4), weight.flatten()
        touched = weight > _MIN_WEIGHT
        tap, depth, weight = tap[touched], depth[touched], weight[touched]
        front = depth <= (1 + _SAME_SURFACE) * z_buffer(tap, depth, size)[tap]
        tap, weight = tap[front], weight[front]
        colour = self.colours[keep].repeat_interleave(4, 0)[touched][front]
        total = torch.zeros(size).index_add(0, tap, weight)
        mixed = torch.zeros(size, 3).index_add(0, tap, weight[:, None] * colour)
        shape = (camera.height, camera.width)
        known = (total > 0).view(shape)
        picture = (mixed / total.clamp(min=1e-9)[:, None]).T.reshape(3, *shape)
        return push_pull(picture[None], known[None])[0], known
