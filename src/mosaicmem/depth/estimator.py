"""The protocol of depth back ends, and those that need no network: exact, sensor, the bowl of the golden scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers


@dataclass(frozen=True)
class DepthInfo:
    """Where depth comes from.

    Attributes:
        model: Name of the back end.
        metric: World units are metres: true, false (relative), or None for unknown.
        scale_source: What fixed the scale: "exact", "sensor", "model", "poses" or "median" (own median is 1).
    """

    model: str
    metric: bool | None
    scale_source: str


@dataclass(frozen=True)
class DepthEstimate:
    """z-depth `[n H W]`, 0 = unknown; confidence `[n H W]`, larger is better, 0 where depth is unknown; its origin."""

    depth: Float[Tensor, "n H W"]
    confidence: Float[Tensor, "n H W"]
    info: DepthInfo


@runtime_checkable
class DepthEstimator(Protocol):
    """A depth back end."""

    def estimate(self, frames: Float[Tensor, "n 3 H W"], cameras: Cameras) -> DepthEstimate:
        """z-depth of frames in [-1, 1] seen by `cameras`.

        Raises:
            GeometryError: if frames and cameras differ in number or size.
        """
        ...


@runtime_checkable
class HasDepth(Protocol):
    """A rendering that carries depth."""

    @property
    def depth(self) -> Float[Tensor, "n H W"]:
        """z-depth, 0 = unknown."""
        ...


@runtime_checkable
class Renderable(Protocol):
    """A world that can say the depth of any view, such as `worlds.Scene`."""

    def render(self, cameras: Cameras, time: float = 0.0) -> HasDepth:
        """Frames of the world."""
        ...


@dataclass(frozen=True)
class ExactDepth:
    """Depth of a procedural scene, whatever the frames show: the truth, for tests and demonstrations.

    Attributes:
        scene: The world that the frames were rendered from.
        time: Second at which its moving things are looked at.
    """

    scene: Renderable
    time: float = 0.0

    def estimate(self, frames: Float[Tensor, "n 3 H W"], cameras: Cameras) -> DepthEstimate:
        """See `DepthEstimator`."""
        check_frames(frames, cameras)
        depth = self.scene.render(cameras, self.time).depth.to(frames)
        return DepthEstimate(depth, (depth > 0).to(frames), DepthInfo("exact", True, "exact"))


@dataclass(frozen=True)
class SensorDepth:
    """Depth that was recorded with the frames, one map per frame, in the frames' order.

    Attributes:
        maps: `[n H W]` z-depth; zero, negative or non-finite = unknown.
        metric: Whether `maps` are in metres.
    """

    maps: Float[Tensor, "n H W"]
    metric: bool | None = True

    def estimate(self, frames: Float[Tensor, "n 3 H W"], cameras: Cameras) -> DepthEstimate:
        """See `DepthEstimator`."""
        check_frames(frames, cameras)
        if self.maps.shape != frames[:, 0].shape:
            raise GeometryError(
                f"sensor depth of shape {list(self.maps.shape)} for frames of shape {list(frames.shape)}; expected one "
                "map per frame, of its size"
            )
        depth = known_or_zero(self.maps.to(frames))
        return DepthEstimate(depth, (depth > 0).to(frames), DepthInfo("sensor", self.metric, "sensor"))


@dataclass(frozen=True)
class BowlDepth:
    """The same bowl for every frame: a fixture with a closed form, not an estimate."""

    def estimate(self, frames: Float[Tensor, "n 3 H W"], cameras: Cameras) -> DepthEstimate:
        """See `DepthEstimator`."""
        check_frames(frames, cameras)
        depth = bowl_depth(cameras.width, cameras.height, frames.dtype).to(frames.device).expand(len(frames), -1, -1)
        return DepthEstimate(depth, torch.ones_like(depth), DepthInfo("bowl", False, "exact"))


def bowl_depth(width: int = 64, height: int = 64, dtype: torch.dtype = torch.float32) -> Float[Tensor, "H W"]:
    """z-depth `5 + |((u - W/2) / W, (v - H/2) / H)|` at pixel centres: the depth of scene circle-32."""
    size = torch.tensor([width, height], dtype=dtype)
    return 5 + ((pixel_centers(width, height, dtype=dtype) - size / 2) / size).norm(dim=-1)


def check_frames(frames: Float[Tensor, "n 3 H W"], cameras: Cameras) -> None:
    """Raise `GeometryError` unless there is one camera per frame, of the frame's size."""
    n, _, H, W = frames.shape
    if n != len(cameras) or (cameras.width, cameras.height) != (W, H):
        raise GeometryError(
            f"{n} frames of {W}x{H} pixels with {len(cameras)} cameras of {cameras.width}x{cameras.height}; expected "
            "one camera per frame, of its size (Cameras.resized)"
        )


def known_or_zero(depth: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Depth with everything that is no depth (negative, NaN, infinite) set to 0."""
    return torch.where(depth.isfinite() & (depth > 0), depth, torch.zeros_like(depth))
