"""How one stands and goes, and the two ways to see: generated, or from memory alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.generation.backend import Models
from mosaicmem.generation.clock import Clock
from mosaicmem.generation.events import RolloutEvent
from mosaicmem.generation.rollout import RolloutConfig, rollout_step, statistics, to_u8
from mosaicmem.generation.state import RolloutState
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.live.commands import Move
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.retrieval import RetrievalConfig, retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import canvas
from mosaicmem.models.synthetic import Compositor, push_pull
from mosaicmem.models.vae import VAE
from mosaicmem.models.world_model import WorldModel

STEEPEST = 75.0
"""Degrees that one can look up or down."""

Seen = tuple[RolloutState, RolloutEvent, Mosaic | None]
Step = Callable[[RolloutState, Cameras], Seen]


@dataclass(frozen=True)
class Maker:
    """What makes the frames.

    Attributes:
        models: The networks; the autoencoder is that of memory.
        config: Settings of the rollout, retrieval among them.
        generates: False shows memory alone, whatever the generator is.
    """

    models: Models
    config: RolloutConfig
    generates: bool = True

    @property
    def label(self) -> str:
        """What stands beside every frame."""
        return self.models.label if self.generates else "[memory]"

    @property
    def retrieval(self) -> RetrievalConfig:
        """How memory is asked, by the generator and for all that is shown of memory."""
        asked = self.config.retrieval
        return asked.inventing() if self.generates and self.models.generator.invents else asked

    @property
    def frames(self) -> int:
        """Frames of the shortest step."""
        return self.models.vae.temporal if self.generates else 1

    def step(self, state: RolloutState, cameras: Cameras, memory: bool) -> Seen:
        """A frame for each of `cameras`; the mosaic of the last one, where it is known already."""
        if not self.generates:
            return recall_step(self.models.vae, state, cameras, self.retrieval)
        models = self.models if memory else without_memory(self.models)
        return *rollout_step(models, state, cameras, self.config), None


def recall_step(vae: VAE, state: RolloutState, cameras: Cameras, config: RetrievalConfig) -> Seen:
    """What memory alone shows along a path, holes hatched; nothing is written. One view at a time."""
    clock, frames, shares, mosaic = Clock(), [], [], None
    cameras = cameras.to(dtype=torch.float64)
    for camera in cameras:
        with clock("retrieve"):
            mosaic = retrieve(state.store, camera, state.grid, config)
        with clock("decode"):
            frames.append(remembered(vae, state.store, mosaic, config)[0])
        shares.append(float(mosaic.coverage[0]))
    numbers = np.arange(state.next_frame, state.next_frame + len(frames))
    pictures = np.stack([hatched(to_u8(f[None])[0], g) for f, g in frames])
    new = replace(
        state,
        last_frame=frames[-1][0],
        camera=cameras[len(cameras) - 1],
        next_frame=state.next_frame + len(frames),
        anchor_pending=False,
    )
    event = RolloutEvent(
        frames_u8=pictures,
        frames=numbers,
        mosaic_u8=pictures[:0],
        mosaic_frames=numbers[:0],
        mosaic_coverage=np.zeros(0),
        coverage=np.array(shares),
        written=(),
        timings=clock.seconds,
        store=statistics(state.store),
        label="[memory]",
    )
    return new, event, mosaic


def remembered(
    vae: VAE, store: PatchStore, mosaic: Mosaic, config: RetrievalConfig
) -> list[tuple[Float[Tensor, "3 H W"], np.ndarray]]:
    """For each view what memory shows, holes filled smoothly, and `[H W]` which pixels it shows."""
    s = mosaic.grid.stride
    good = mosaic.good.repeat_interleave(s, 1).repeat_interleave(s, 2).numpy()
    if not len(store):
        return [(torch.zeros(3, mosaic.grid.height, mosaic.grid.width), g) for g in good]
    latents, cells = canvas(store, mosaic, config.tau, kernel=vae.kernel)
    return list(zip(vae.decode_image(push_pull(latents.float(), cells)), good, strict=True))


def hatched(picture: np.ndarray, good: np.ndarray) -> np.ndarray:
    """A picture with diagonal hatching where memory shows nothing."""
    height, width = good.shape
    y, x = np.mgrid[:height, :width]
    period = max(4, width // 16)
    lines = np.where(((x + y) % period < period / 2)[..., None], np.uint8(58), np.uint8(34))
    return np.where(good[..., None], picture, lines)


def without_memory(models: Models) -> Models:
    """The same models, whose generator reads no memory."""
    generator = models.generator
    if isinstance(generator, Compositor):
        return replace(models, generator=replace(generator, use_memory=False))
    if isinstance(generator, WorldModel):
        blind = WorldModel(generator.network, generator.name, generator.sampling, use_memory=False)
        return replace(models, generator=blind)
    return models


def path_of(move: Move, start: Cameras, up: Float[Tensor, "3"], frames: int) -> Cameras:
    """The `frames` cameras of a step that leads away from `start`, evenly; whoever looks up or down walks level.

    Args:
        up: Unit direction of the world's up.
    """
    c2w = start.to(dtype=torch.float64).c2w[0]
    right, forward = c2w[:3, 0], c2w[:3, 2]
    up = up.double()
    level = forward - up * (forward @ up)
    if float(level.norm()) < 1e-6:  # straight up or down: the way the top of the picture points
        level = -c2w[:3, 1] - up * (-c2w[:3, 1] @ up)
    level = torch.nn.functional.normalize(level, dim=0)
    sideways = torch.nn.functional.normalize(torch.linalg.cross(level, up), dim=0)
    shift = move.right * sideways - move.down * up + move.forward * level
    now = math.degrees(math.asin(max(-1.0, min(1.0, float(forward @ up)))))
    low, high = min(-STEEPEST, now), max(STEEPEST, now)
    tilt = max(low, min(high, now + move.tilt)) - now
    share = torch.arange(1, frames + 1, dtype=torch.float64) / frames
    yaws = se3.axis_angle(up.expand(frames, 3), -math.radians(move.yaw) * share)
    tilts = se3.axis_angle(right.expand(frames, 3), math.radians(tilt) * share)
    R = yaws @ tilts @ c2w[:3, :3]
    places = se3.make_transform(R, c2w[:3, 3] + share[:, None] * shift)
    return Cameras.from_c2w(places, start.Ks.double().expand(frames, 3, 3).clone(), start.width, start.height)


def upright(cameras: Cameras) -> Float[Tensor, "3"]:
    """The world's up, unit float64, guessed from cameras that were held level: their right sides lie in the ground.

    Where they all look one way that does not decide, and up is what the pictures' tops agree on.
    """
    cameras = cameras.to(dtype=torch.float64)
    mean = torch.nn.functional.normalize(cameras.up.mean(0), dim=0)
    right = cameras.right
    flat = right.T @ right / len(right) + 0.02 * (torch.eye(3, dtype=torch.float64) - torch.outer(mean, mean))
    up = torch.linalg.eigh(flat).eigenvectors[:, 0]
    return up if float(up @ mean) >= 0 else -up
