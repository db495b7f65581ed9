"""Remembered patches seen from outside: a camera that circles them, the walk's path and the frustum of the view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mosaicmem.apps.tui.drawing import Array, Cells, Picture, braille, line

EYE, PATH = (255, 215, 0), (255, 110, 200)
"""Colours of the frustum of the view and of the path."""
MOST = 30_000
"""Points that are drawn; of more every so many-th."""
FAR = 3.0
"""Distance of the circling camera, in reaches of the cloud."""


@dataclass(frozen=True)
class Orbit:
    """Where one looks from: degrees around the world's up and above the ground, and how near."""

    yaw: float = 30.0
    pitch: float = 40.0
    zoom: float = 1.25

    def turned(self, yaw: float = 0.0, pitch: float = 0.0, zoom: float = 1.0) -> Orbit:
        """A little further."""
        near = min(max(self.zoom * zoom, 0.2), 20.0)
        return replace(self, yaw=(self.yaw + yaw) % 360, pitch=min(max(self.pitch + pitch, -89.0), 89.0), zoom=near)

    def axes(self, up: Array) -> Array:
        """`[3 3]` rows: right, down and forward of the circling camera, unit vectors of the world."""
        up = up / np.linalg.norm(up)
        level = np.eye(3)[np.argmin(np.abs(up))]
        level = level - up * (level @ up)
        level /= np.linalg.norm(level)
        beside = np.cross(level, up)
        a, b = np.radians(self.yaw), np.radians(self.pitch)
        forward = np.cos(b) * (np.cos(a) * level + np.sin(a) * beside) - np.sin(b) * up
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])


@dataclass(frozen=True)
class Sight:
    """What there is to see.

    Attributes:
        xyz, rgb: `[n 3]` patches and their colours.
        path: `[k 3]` where the walk went.
        frustum: `[5 3]` eye and the corners of its picture, clockwise; or none `[0 3]`.
        up: `[3]` of the world.
    """

    xyz: Array
    rgb: Picture
    path: Array
    frustum: Array
    up: Array


def draw(sight: Sight, orbit: Orbit, columns: int, rows: int) -> Cells:
    """The cloud as braille, the path and the frustum over it."""
    stride = max(1, -(-len(sight.xyz) // MOST))
    xyz, rgb = sight.xyz[::stride], sight.rgb[::stride]
    middle, reach = extent(xyz if len(xyz) else sight.frustum)
    dots, depth = project(xyz, orbit, sight.up, middle, reach, columns, rows)
    dots, rgb, depth = _enlarged(dots, rgb, depth, columns, rows)
    parts, colours, depths = [dots], [rgb], [depth]

    def over(points: Array, pairs: list[tuple[int, int]], colour: tuple[int, int, int], order: float) -> None:
        ends, z = project(points, orbit, sight.up, middle, reach, columns, rows)
        for a, b in pairs:
            if min(z[a], z[b]) <= 0 or not np.isfinite(ends[[a, b]]).all():
                continue
            stroke = line(ends[a], ends[b])
            parts.append(stroke)
            colours.append(np.tile(np.array(colour, np.uint8), (len(stroke), 1)))
            depths.append(np.full(len(stroke), order))

    over(sight.path, [(i, i + 1) for i in range(len(sight.path) - 1)], PATH, -1.0)
    if len(sight.frustum):
        over(sight.frustum, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)], EYE, -2.0)
    return braille(np.concatenate(parts), np.concatenate(colours), np.concatenate(depths), columns, rows)


def _enlarged(dots: Array, rgb: Picture, depth: Array, columns: int, rows: int) -> tuple[Array, Picture, Array]:
    """Squares in place of dots, where a large place would otherwise look empty."""
    width, height = 2 * columns, 4 * rows
    room = min(width, height) ** 2 / max(len(dots), 1)
    size = max(1, min(3, min(width, height) // 48, int((0.4 * room) ** 0.5)))
    if size == 1:
        return dots, rgb, depth
    corner = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 1, 2)
    times = size * size
    return (dots + corner).reshape(-1, 2), np.tile(rgb, (times, 1)), np.tile(depth, times)


def extent(xyz: Array) -> tuple[Array, float]:
    """The middle of a cloud, and the radius about it that holds nearly all of it."""
    if not len(xyz):
        return np.zeros(3), 1.0
    middle = np.median(xyz, axis=0)
    return middle, max(float(np.quantile(np.linalg.norm(xyz - middle, axis=1), 0.95)), 1e-6)


def project(
    xyz: Array, orbit: Orbit, up: Array, middle: Array, reach: float, columns: int, rows: int
) -> tuple[Array, Array]:
    """`[n 2]` dots and `[n]` depth in reaches; a point one reach beside the middle lies at the edge at zoom 1."""
    seen = (xyz - middle) / reach @ orbit.axes(up).T
    depth = seen[:, 2] + FAR
    width, height = 2 * columns, 4 * rows
    scale = orbit.zoom * min(width, height) / 2 * FAR / np.maximum(depth, 1e-3)
    dots = seen[:, :2] * scale[:, None] + [width / 2, height / 2]
    return np.where((depth > 1e-3)[:, None], dots, -1.0), depth


def frustum(pose: Array, K: Array, width: int, height: int, length: float) -> Array:
    """`[5 3]` the eye and the corners of its picture, `length` in front of it.

    Args:
        pose: `[4 4]` world from camera, OpenCV axes.
        K: `[3 3]` intrinsics, pixels.
    """
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    rays = np.concatenate([(corners - K[:2, 2]) / [K[0, 0], K[1, 1]], np.ones((4, 1))], 1) * length
    return np.concatenate([pose[:3, 3][None], rays @ pose[:3, :3].T + pose[:3, 3]])
