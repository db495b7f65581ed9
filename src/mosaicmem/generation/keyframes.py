"""What of a generated window enters memory: hygiene, lifting, insertion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import refuse
from mosaicmem.generation.backend import Models
from mosaicmem.generation.clock import Clock
from mosaicmem.generation.depth import WindowDepth, cells_to_pixels
from mosaicmem.generation.state import RolloutState
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.memory.forgetting import forget
from mosaicmem.memory.lifting import LiftingConfig, lift
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.patches import Keyframe
from mosaicmem.memory.store import PatchStore
from mosaicmem.memory.superseding import imagined_in_free_space


@dataclass(frozen=True)
class KeyframeConfig:
    """What is remembered of generated frames.

    Attributes:
        write: False leaves memory as it was.
        interval: Write the reference frame of every so many latents; 0 = off.
        min_novel: A frame is written if the share of its cells that memory did not show, and that can be lifted, is
            above this. What memory showed need not be remembered twice.
        only_novel: Of a frame that is written, remember only cells that memory did not show. Then nothing is ever a
            memory of a memory, which guards against drift; what is seen from nearer later stays coarse.
        min_confidence: Pixels whose depth the estimator believes less are not remembered.
        consistent: Patches that lie where an observed frame saw free space are not remembered: what was observed is
            never hidden by what was imagined.
        memory_bytes: Largest payload of memory (`StoreStatistics.bytes`), or None. When a window's frames take it
            beyond, what costs least coverage is forgotten (`memory.forgetting`); the newest frame and whatever is
            pinned stay.
        lifting: Depth hygiene.
    """

    write: bool = True
    interval: int = 1
    min_novel: float = 0.0
    only_novel: bool = False
    min_confidence: float = 0.0
    consistent: bool = True
    memory_bytes: int | None = None
    lifting: LiftingConfig = field(default_factory=LiftingConfig)

    def __post_init__(self) -> None:
        refuse(
            (self.interval < 0, f"interval = {self.interval}: expected at least 0"),
            (not 0 <= self.min_novel < 1, f"min_novel = {self.min_novel}: expected 0 up to, not including, 1"),
            (not 0 <= self.min_confidence <= 1, f"min_confidence = {self.min_confidence}: expected 0 to 1"),
            (
                self.memory_bytes is not None and self.memory_bytes < 0,
                f"memory_bytes = {self.memory_bytes}: at least 0",
            ),
        )


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
        novel_pixels = cells_to_pixels((~mosaic.good[i : i + 1]).float(), state.grid)[0] > 0
        exclude = torch.zeros_like(novel_pixels)
        if depth.confidence is not None:
            exclude |= depth.confidence[i] < config.min_confidence
        if float((novel_pixels & (depth.depth[i] > 0) & ~exclude).float().mean()) <= config.min_novel:
            continue  # saves the encoding
        if config.only_novel:
            exclude |= ~novel_pixels
        with clock("lift"):
            keyframe = lift(
                models.vae.encode_image(frames[i : i + 1])[0],
                depth.depth[i],
                cameras[i],
                state.grid,
                confidence=None if depth.confidence is None else depth.confidence[i],
                exclude=exclude,
                frame=numbers[i],
                time=numbers[i] / state.fps,
                origin="generated",
                config=config.lifting,
            )
            if config.consistent:
                free = imagined_in_free_space(store, keyframe)
                keyframe = replace(keyframe, valid=keyframe.valid & ~free)
            novel = float((keyframe.valid & ~mosaic.good[i]).double().mean())
        if novel > config.min_novel:
            with clock("insert"):
                store = store.insert(keyframe)
            written.append(numbers[i])
    if written and config.memory_bytes is not None:
        with clock("insert"):
            store = forget(store, config.memory_bytes, keep={store.group(len(store) - 1).uid})
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
