"""What of a generated window enters memory: depth for its reference frames, hygiene, lifting, insertion.

Depth is never invented. Without an estimator it is what memory itself renders, and holes stay unknown; with one, its
depth is scaled to agree with memory where both know, so that new patches land where old ones lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.generation.backend import Models
from mosaicmem.generation.clock import Clock
from mosaicmem.generation.state import RolloutState, cells_to_pixels
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.memory.lifting import LiftingConfig, lift
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.patches import Keyframe
from mosaicmem.memory.store import PatchStore


@dataclass(frozen=True)
class KeyframeConfig:
    """What is remembered of generated frames.

    Attributes:
        write: False leaves memory as it was.
        interval: Write the reference frame of every so many latents; 0 = off.
        min_novel: A frame is written if the share of its cells that memory did not show, and that can be lifted, is
            above this. What memory showed need not be remembered twice.
        lifting: Depth hygiene.
    """

    write: bool = True
    interval: int = 1
    min_novel: float = 0.0
    lifting: LiftingConfig = field(default_factory=LiftingConfig)

    def __post_init__(self) -> None:
        if self.interval < 0 or not 0 <= self.min_novel < 1:
            raise ConfigError(f"interval = {self.interval}, min_novel = {self.min_novel}: expected >= 0 and 0 to 1")


MIN_INLIERS, MIN_INLIER_SHARE, INLIER_LOG = 16, 0.10, 0.2


@dataclass(frozen=True)
class WindowDepth:
    """Depth of the reference frames of a window.

    Attributes:
        depth: `[l H W]` z-depth, 0 = unknown.
        confidence: `[l H W]`, or None.
        scale: Factor that the estimate was multiplied by; the state's previous one if there was no estimate.
        source: `memory`, `estimated`, `carried` or `none`, as in `RolloutEvent.depth_source`.
    """

    depth: Float[Tensor, "l H W"]
    confidence: Float[Tensor, "l H W"] | None
    scale: float
    source: str


def window_depth(
    models: Models, state: RolloutState, frames: Float[Tensor, "l 3 H W"], cameras: Cameras, mosaic: Mosaic
) -> WindowDepth:
    """Depth of generated frames: the estimator's, aligned to memory; without an estimator, what memory renders."""
    rendered = cells_to_pixels(torch.where(mosaic.good, mosaic.depth, 0), state.grid)
    if not len(frames):
        return WindowDepth(rendered, None, state.depth_scale, "none")
    if models.depth is None:
        return WindowDepth(rendered, None, state.depth_scale, "memory" if bool(mosaic.good.any()) else "none")
    estimate = models.depth.estimate(frames, cameras)
    found = _align(estimate.depth, rendered)
    scale = state.depth_scale if found is None else found
    depth = torch.where(estimate.depth.isfinite() & (estimate.depth > 0), estimate.depth * scale, 0).float()
    return WindowDepth(depth, estimate.confidence, scale, "carried" if found is None else "estimated")


def write_keyframes(
    models: Models,
    state: RolloutState,
    frames: Float[Tensor, "l 3 H W"],
    cameras: Cameras,
    numbers: Sequence[int],
    depth: WindowDepth,
    mosaic: Mosaic,
    config: KeyframeConfig,
    clock: Clock,
) -> tuple[PatchStore, tuple[int, ...]]:
    """Memory after a window, and the global numbers of the frames that entered it.

    Only what memory did not show is novel. A generator that does not invent (`Generator.invents`) has nothing novel:
    its smooth fill of holes is no content to remember.
    """
    store, written = state.store, []
    if not (config.write and config.interval and models.generator.use_memory and models.generator.invents):
        return store, ()
    for i in range(config.interval - 1, len(frames), config.interval):
        liftable = cells_to_pixels((~mosaic.good[i : i + 1]).float(), state.grid)[0] * (depth.depth[i] > 0)
        if float(liftable.mean()) <= config.min_novel:
            continue  # saves the encoding
        with clock("lift"):
            keyframe = lift(
                models.vae.encode_image(frames[i : i + 1])[0],
                depth.depth[i],
                cameras[i],
                state.grid,
                confidence=None if depth.confidence is None else depth.confidence[i],
                frame=numbers[i],
                time=numbers[i] / state.fps,
                origin="generated",
                config=config.lifting,
            )
            novel = float((keyframe.valid & ~mosaic.good[i]).double().mean())
        if novel > config.min_novel:
            with clock("insert"):
                store = store.insert(keyframe)
            written.append(numbers[i])
    return store, tuple(written)


def context_of(
    state: RolloutState,
    anchor: Float[Tensor, "c h w"],
    depth: Float[Tensor, "H W"],
    camera: Cameras,
    number: int,
    lifting: LiftingConfig,
) -> Keyframe | None:
    """The newest frame with all the depth known for it; None if that is nothing."""
    if not bool((depth > 0).any()):
        return None
    time = number / state.fps
    return lift(anchor, depth, camera, state.grid, frame=number, time=time, origin="generated", config=lifting)


def _align(new: Float[Tensor, "l H W"], stored: Float[Tensor, "l H W"]) -> float | None:
    """Median factor from `new` to `stored` depth where both are known; None if too few pixels agree with it."""
    both = (new > 0) & new.isfinite() & (stored > 0)
    if int(both.sum()) < MIN_INLIERS:
        return None
    log_ratio = (stored[both].double() / new[both].double()).log()
    middle = log_ratio.median()
    inliers = int(((log_ratio - middle).abs() < INLIER_LOG).sum())
    enough = inliers >= max(MIN_INLIERS, MIN_INLIER_SHARE * len(log_ratio))
    return float(middle.exp()) if enough else None
