"""Depth networks of other projects behind our protocol. The network object is handed in; nothing is downloaded here.

What each network returns differs, and lifting from the wrong quantity bends the world: metric depth, relative depth and
inverse depth are told apart by the caller, never guessed from the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.depth.estimator import DepthEstimate, DepthInfo, check_frames, known_or_zero
from mosaicmem.errors import GeometryError, MissingExtraError
from mosaicmem.geometry.cameras import Cameras

_MIN_INVERSE = 1e-6
_MIN_VIEWS_WITH_POSES = 3  # the fit of poses to given ones has no solution for 1 and 2 views
_DA3_METRIC_FOCAL = 300.0


@dataclass(frozen=True)
class TransformersDepth:
    """A depth-estimation pipeline of `transformers`.

    Attributes:
        pipeline: Called with a list of PIL images, returns a dict with `predicted_depth` (`[h w]` or `[1 h w]`) for
            each. Its `depth` entry is an 8-bit picture for viewing and is never used.
        output: "metric" for networks that give metres (Depth Pro, ZoeDepth, Depth Anything V2 Metric), "inverse" for
            those that give inverse depth up to scale and shift (DPT, Depth Anything V2).
        name: For the record.
    """

    pipeline: Callable[[list[Any]], Any]
    output: Literal["metric", "inverse"]
    name: str = "transformers"

    @staticmethod
    def from_pretrained(model: str, output: Literal["metric", "inverse"], *, device: str = "cpu") -> TransformersDepth:
        """Build the pipeline of a local folder or a model name.

        Raises:
            MissingExtraError: if `transformers` is not installed.
        """
        try:
            import transformers  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("transformers", "depth", "depth estimation with a transformers pipeline") from error
        pipeline = transformers.pipeline("depth-estimation", model=model, device=device)
        return TransformersDepth(pipeline, output, model)

    def estimate(self, frames: Float[Tensor, "n 3 H W"], cameras: Cameras) -> DepthEstimate:
        """See `DepthEstimator`. Inverse depth comes back as depth whose median is 1 in each frame; align it."""
        from PIL import Image

        check_frames(frames, cameras)
        results = self.pipeline([Image.fromarray(picture) for picture in _bytes(frames)])
        results = [results] if isinstance(results, dict) else list(results)
        if len(results) != len(frames):
            raise GeometryError(f"{self.name} returned {len(results)} depth maps for {len(frames)} frames")
        maps = [torch.as_tensor(result["predicted_depth"]).float().reshape(_last_two(result)) for result in results]
        raw = torch.stack([_at_pixels(one[None], cameras)[0] for one in maps]).to(frames)
        if self.output == "metric":
            depth = known_or_zero(raw)
            return DepthEstimate(depth, (depth > 0).to(frames), DepthInfo(self.name, True, "model"))
        usable = raw.isfinite() & (raw > _MIN_INVERSE)
        depth = torch.where(usable, 1 / torch.where(usable, raw, torch.ones_like(raw)), torch.zeros_like(raw))
        return DepthEstimate(_unit_median(depth), usable.to(frames), DepthInfo(self.name, False, "median"))


@dataclass(frozen=True)
class DepthAnything3Depth:
    """A Depth Anything 3 model.

    Attributes:
        model: Has `inference(images, extrinsics=, intrinsics=, process_res=)`, which returns an object with `depth`
            `[n h w]`, `conf` `[n h w]` or None, at the processed size.
        output: "metric" for the METRIC model, whose output is multiplied by `focal / 300` with the focal length at the
            processed size; "metres" for NESTED; "relative" for the others, consistent across the views of one call.
        process_res: Longer side that the network works at, pixels.
    """

    model: Any
    output: Literal["metric", "metres", "relative"] = "relative"
    process_res: int = 504

    def estimate(self, frames: Float[Tensor, "n 3 H W"], cameras: Cameras) -> DepthEstimate:
        """See `DepthEstimator`. Cameras are handed to the network from three views on; below it would fail on them."""
        check_frames(frames, cameras)
        posed = len(frames) >= _MIN_VIEWS_WITH_POSES
        given = {
            "extrinsics": cameras.viewmats.float().cpu().numpy() if posed else None,
            "intrinsics": cameras.Ks.float().cpu().numpy() if posed else None,
        }
        result = self.model.inference(_bytes(frames), process_res=self.process_res, **given)
        raw = torch.as_tensor(np.asarray(result.depth)).to(frames)
        if raw.ndim != 3 or len(raw) != len(frames):
            raise GeometryError(f"the network returned depth of shape {list(raw.shape)} for {len(frames)} frames")
        if self.output == "metric":
            focal = cameras.resized(raw.shape[2], raw.shape[1]).Ks[:, [0, 1], [0, 1]].mean(-1).to(frames)
            raw = raw * (focal / _DA3_METRIC_FOCAL)[:, None, None]
        depth = known_or_zero(_at_pixels(raw, cameras))
        confidence = (depth > 0).to(frames)
        if getattr(result, "conf", None) is not None:
            conf = _at_pixels(torch.as_tensor(np.asarray(result.conf)).to(frames), cameras)
            confidence = confidence * known_or_zero(conf)
        metric = True if self.output != "relative" else None if posed else False
        source = "model" if self.output != "relative" else "poses" if posed else "median"
        if source == "median":
            depth = _unit_median(depth.flatten()[None]).view_as(depth)  # one scale for all views of the call
        return DepthEstimate(depth, confidence, DepthInfo("depth-anything-3", metric, source))


def _bytes(frames: Tensor) -> list[np.ndarray]:
    pixels = ((frames.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _last_two(result: dict[str, Any]) -> tuple[int, int]:
    shape = tuple(result["predicted_depth"].shape)
    if len(shape) < 2 or any(side != 1 for side in shape[:-2]):
        raise GeometryError(f"predicted_depth has shape {list(shape)}; expected one map [h w] per frame")
    return shape[-2], shape[-1]


def _at_pixels(maps: Tensor, cameras: Cameras) -> Tensor:
    """Maps of any size read at the nearest element to each pixel centre: averages across edges are no depth."""
    h, w = maps.shape[1:]
    rows = ((torch.arange(cameras.height) + 0.5) * h / cameras.height).long()
    columns = ((torch.arange(cameras.width) + 0.5) * w / cameras.width).long()
    return maps[:, rows][:, :, columns]


def _unit_median(depth: Tensor) -> Tensor:
    """Each leading entry divided by the median of its known depth."""
    scale = [one[one > 0].median() if bool((one > 0).any()) else one.new_ones(()) for one in depth]
    return depth / torch.stack(scale).view(-1, *[1] * (depth.ndim - 1))
