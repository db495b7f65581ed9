"""What of a generated window enters memory: hygiene, lifting, insertion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.generation.backend import Models
from mosaicmem.generation.clock import Clock
from mosaicmem.generation.depth import WindowDepth, cells_to_pixels
from mosaicmem.generation.state import RolloutState
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
