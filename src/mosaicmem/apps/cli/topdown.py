"""A map seen from above: the camera path coloured by time, view frusta, and remembered patches in their own colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mosaicmem.apps.cli.pictures import FAINT, GRID, INK, PAPER, Picture, font, nice_step, number, ticks
from mosaicmem.geometry.cameras import Cameras

Array = NDArray[np.float64]

_EARLY, _MIDDLE, _LATE = np.array([38, 70, 200]), np.array([205, 45, 120]), np.array([245, 150, 20])
_SCALE = 2  # drawn larger and reduced, for smooth lines


@dataclass(frozen=True)
class Points:
    """Patches on the map: `xyz [q 3]` world, `rgb [q 3]` uint8, `radius [q]` world units."""

    xyz: Array
    rgb: Picture
    radius: Array


@dataclass(frozen=True)
class Ground:
    """Axes of the map in the world: right and forward of the first camera, level with the mean up of all cameras."""

    origin: Array
    right: Array
    forward: Array
    up: Array

    @staticmethod
    def of(cameras: Cameras) -> Ground:
        """The ground under these cameras."""
        cameras = cameras.to(dtype=torch.float64)
        up = _unit(cameras.up.mean(0).numpy(), np.array([0.0, -1.0, 0.0]))
        right = cameras.right[0].numpy()
        right = _unit(right - up * (right @ up), _any_level(up))
        return Ground(cameras.centers[0].numpy(), right, np.cross(up, right), up)

    def flat(self, points: Array) -> Array:
        """`[n 2]`: to the right and forward of the first camera, world units."""
        return (points - self.origin) @ np.stack([self.right, self.forward], 1)

    def height(self, points: Array) -> Array:
        """`[n]` above the first camera, world units."""
        return (points - self.origin) @ self.up


def draw_map(
    cameras: Cameras, points: Points | None, title: str, unit: str, size: int = 860, frusta: int = 14
) -> Picture:
    """The map as a picture about `size` pixels wide.

    Points higher than every camera (a ceiling) are left out, as a plan of a room does; `unit` names the world's unit.
    """
    cameras = cameras.to(dtype=torch.float64)
    ground = Ground.of(cameras)
    centers = cameras.centers.numpy()
    path = ground.flat(centers)
    shown = None
    if points is not None and len(points.xyz):
        below = ground.height(points.xyz) <= ground.height(centers).max() + 1e-6
        shown = Points(points.xyz[below], points.rgb[below], points.radius[below])
    low, high = _bounds(path, ground.flat(shown.xyz) if shown is not None else None)
    sheet = _Sheet(low, high, size)
    sheet.axes(unit)
    if shown is not None:
        sheet.patches(ground, shown)
    reach = 0.09 * float((high - low).max())
    sheet.frusta(ground, cameras, reach, frusta)
    sheet.path(path)
    sheet.legend(title, len(path), 0 if shown is None else len(shown.xyz))
    return sheet.finish()


def time_color(share: float) -> tuple[int, int, int]:
    """Blue at the start, magenta half way, orange at the end."""
    a, b, t = (_EARLY, _MIDDLE, 2 * share) if share < 0.5 else (_MIDDLE, _LATE, 2 * share - 1)
    r, g, blue = np.rint(a + (b - a) * t).astype(int)
    return int(r), int(g), int(blue)


class _Sheet:
    left, right, top, bottom = 64, 20, 76, 54

    def __init__(self, low: Array, high: Array, size: int) -> None:
        span = high - low
        inner = size - self.left - self.right
        tall = int(np.clip(inner * span[1] / span[0], 0.45 * inner, 1.2 * inner))
        self.low, self.high = low, high
        self.zoom = min(inner / span[0], tall / span[1])
        self.inner = (inner, tall)
        middle = (low + high) / 2
        half = np.array(self.inner) / self.zoom / 2
        self.low, self.high = middle - half, middle + half
        self.width, self.height = size, tall + self.top + self.bottom
        self.image = Image.new("RGB", (self.width * _SCALE, self.height * _SCALE), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def at(self, xy: Array) -> Array:
        """Map coordinates to drawing pixels; forward is up."""
        x = self.left + (xy[..., 0] - self.low[0]) * self.zoom
        y = self.top + (self.high[1] - xy[..., 1]) * self.zoom
        return np.stack([x, y], -1) * _SCALE

    def axes(self, unit: str) -> None:
        k, (w, h) = _SCALE, self.inner
        step = nice_step(float((self.high - self.low).max()), 8)
        for axis in (0, 1):
            count = max(1, round(float(self.high[axis] - self.low[axis]) / step))
            for tick in ticks(float(self.low[axis]), float(self.high[axis]), count):
                point = self.low.copy()
                point[axis] = tick
                x, y = self.at(point)
                if axis == 0:
                    self.draw.line([(x, self.top * k), (x, (self.top + h) * k)], GRID, k)
                    self.draw.text((x, (self.top + h + 12) * k), number(tick), FAINT, font(12 * k), anchor="mm")
                else:
                    self.draw.line([(self.left * k, y), ((self.left + w) * k, y)], GRID, k)
                    self.draw.text(((self.left - 8) * k, y), number(tick), FAINT, font(12 * k), anchor="rm")
        self.draw.rectangle(
            [self.left * k, self.top * k, (self.left + w) * k, (self.top + h) * k], outline=FAINT, width=k
        )
        where = ((self.left + w / 2) * k, (self.top + h + 36) * k)
        self.draw.text(where, f"to the right of the first camera ({unit})", FAINT, font(13 * k), anchor="mm")
        side = Image.new("RGB", (300 * k, 18 * k), PAPER)
        text = f"forward ({unit})"
        ImageDraw.Draw(side).text((150 * k, 9 * k), text, FAINT, font(13 * k), anchor="mm")
        self.image.paste(
            side.crop((60 * k, 0, 240 * k, 18 * k)).rotate(90, expand=True), (2 * k, int(self.top + h / 2 - 90) * k)
        )

    def patches(self, ground: Ground, points: Points) -> None:
        order = np.argsort(ground.height(points.xyz), kind="stable")
        centers = self.at(ground.flat(points.xyz))[order]
        radii = np.clip(points.radius[order] * self.zoom * 0.9, 1.2, 14.0) * _SCALE
        x0, y0 = self.left * _SCALE, self.top * _SCALE
        x1, y1 = x0 + self.inner[0] * _SCALE, y0 + self.inner[1] * _SCALE
        for (x, y), r, color in zip(centers, radii, points.rgb[order], strict=True):
            if x0 + r < x < x1 - r and y0 + r < y < y1 - r:
                self.draw.rectangle([x - r, y - r, x + r, y + r], fill=tuple(int(c) for c in color))

    def frusta(self, ground: Ground, cameras: Cameras, reach: float, count: int) -> None:
        n = len(cameras)
        overlay = Image.new("RGBA", self.image.size, (0, 0, 0, 0))
        draw = ImageDraw.Draw(overlay)
        for i in np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int)):
            K, c2w = cameras.Ks[i].numpy(), cameras.c2w[i].numpy()
            edges = np.array([[(u - K[0, 2]) / K[0, 0], 0.0, 1.0] for u in (0.0, float(cameras.width))])
            corners = c2w[:3, 3] + edges @ c2w[:3, :3].T * reach
            triangle = [tuple(p) for p in self.at(ground.flat(np.stack([c2w[:3, 3], *corners])))]
            color = time_color(i / max(1, n - 1))
            draw.polygon(triangle, fill=(*color, 46))
            draw.line([*triangle, triangle[0]], (*color, 255), 2)
        self.image.paste(overlay, (0, 0), overlay)
        self.draw = ImageDraw.Draw(self.image)

    def path(self, path: Array) -> None:
        at = self.at(path)
        for color, width in ((None, 9), ("time", 5)):
            for i in range(len(at) - 1):
                fill = PAPER if color is None else time_color(i / max(1, len(at) - 2))
                self.draw.line([tuple(at[i]), tuple(at[i + 1])], fill, width)
        # the start is the larger dot, so that a path that ends where it began shows both
        for index, share, r in ((0, 0.0, 15), (-1, 1.0, 8)):
            x, y = at[index]
            self.draw.ellipse([x - r - 3, y - r - 3, x + r + 3, y + r + 3], fill=PAPER)
            self.draw.ellipse([x - r, y - r, x + r, y + r], fill=time_color(share))

    def legend(self, title: str, frames: int, patches: int) -> None:
        k = _SCALE
        self.draw.text((self.left * k, 22 * k), title, INK, font(17 * k), anchor="lm")
        text = (
            f"{patches:,} patches in their own colours; path and frusta by time"
            if patches
            else "path and frusta by time"
        )
        self.draw.text((self.left * k, 50 * k), text, FAINT, font(13 * k), anchor="lm")
        x1 = self.width - self.right - 8 - self.draw.textlength(str(frames - 1), font(12 * k)) / k
        x0 = x1 - 130
        for x in range(int(x0 * k), int(x1 * k)):
            self.draw.line([(x, 44 * k), (x, 56 * k)], time_color((x / k - x0) / (x1 - x0)))
        self.draw.text(((x0 - 6) * k, 50 * k), "pose 0", FAINT, font(12 * k), anchor="rm")
        self.draw.text(((x1 + 6) * k, 50 * k), str(frames - 1), FAINT, font(12 * k), anchor="lm")

    def finish(self) -> Picture:
        return np.array(self.image.resize((self.width, self.height), Image.Resampling.LANCZOS))


def _bounds(path: Array, points: Array | None) -> tuple[Array, Array]:
    low, high = path.min(0), path.max(0)
    if points is not None and len(points):
        # a few far outliers must not shrink the room to a dot
        low = np.minimum(low, np.quantile(points, 0.005, axis=0))
        high = np.maximum(high, np.quantile(points, 0.995, axis=0))
    span = np.maximum(high - low, 1e-3 * max(1.0, float(np.abs(high).max())))
    span = np.maximum(span, 0.25 * span.max())
    middle = (low + high) / 2
    return middle - 0.57 * span, middle + 0.57 * span


def _unit(v: Array, fallback: Array) -> Array:
    length = float(np.linalg.norm(v))
    return v / length if length > 1e-9 else fallback


def _any_level(up: Array) -> Array:
    axis = np.eye(3)[int(np.abs(up).argmin())]
    level = axis - up * (axis @ up)
    return level / np.linalg.norm(level)
