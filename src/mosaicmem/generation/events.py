"""What a rollout tells its viewers. Values only: a viewer, a recorder or a metric needs no model to read them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

STAGES = ("retrieve", "denoise", "decode", "depth", "lift", "insert", "show")


@dataclass(frozen=True)
class StoreStatistics:
    """How much is remembered.

    Attributes:
        keyframes: Groups in memory; an edit can make several of one keyframe.
        patches: Patches with known depth.
        bytes: Payload: latents, depth, confidence and masks.
    """

    keyframes: int
    patches: int
    bytes: int


@dataclass(frozen=True)
class RolloutEvent:
    """One window of a rollout: `n` new frames from `l` latents.

    Attributes:
        frames_u8: `[n H W 3]` new frames, RGB.
        frames: `[n]` their global indices, consecutive.
        mosaic_u8: `[l H W 3]` what memory showed, hatched in holes; no picture if that was switched off.
        mosaic_frames: `[l]` global index of the frame each mosaic stands under: the last one of its latent.
        mosaic_coverage: `[l]` share of cells that memory served.
        coverage: `[n]` the same for every frame; 1 for a given first frame, which is not generated.
        written: Global indices of the frames that entered memory.
        timings: Seconds by stage (`STAGES`): `retrieve` includes read-out and conditioning, `lift` the encoding of
            keyframes and of the next anchor, `show` the pictures of mosaics.
        store: Memory after this window.
        label: `[synthetic]`, `[trained:NAME]` or `[external:NAME]`; stands beside every number made from this event.
        prompt: Text of this window.
        tokens: Memory tokens the generator was given.
        depth_source: Where the depth of new keyframes came from: `memory` (rendered), `estimated` (scale aligned to
            memory), `carried` (previous scale kept) or `none`.
        warnings: For the user, in plain words.
    """

    frames_u8: NDArray[np.uint8]
    frames: NDArray[np.int64]
    mosaic_u8: NDArray[np.uint8]
    mosaic_frames: NDArray[np.int64]
    mosaic_coverage: NDArray[np.float64]
    coverage: NDArray[np.float64]
    written: tuple[int, ...]
    timings: dict[str, float]
    store: StoreStatistics
    label: str
    prompt: str = ""
    tokens: int = 0
    depth_source: str = "none"
    warnings: tuple[str, ...] = field(default=())
