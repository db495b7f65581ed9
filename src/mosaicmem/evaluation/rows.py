"""Rows of the memory benchmark: each makes the frames of a trial its own way.

All that generate start from the same state (the same observed frames, the same noise), so that rows are compared pair
by pair. The others need no generator and say what the numbers mean: `vae` is what the autoencoder makes of the truth,
the ceiling of all that generate; `copy_last` freezes the last observed frame, which any measure must punish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.point_cloud import PointCloud
from mosaicmem.evaluation.revisit import copy_last
from mosaicmem.evaluation.trials import Trial
from mosaicmem.generation.backend import Models
from mosaicmem.generation.clock import Clock
from mosaicmem.generation.events import STAGES
from mosaicmem.generation.rollout import RolloutConfig, from_u8, rollout
from mosaicmem.generation.script import Script
from mosaicmem.generation.state import RolloutState, observe, start
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import Alignment
from mosaicmem.models.generator import Generator
from mosaicmem.models.synthetic import Compositor
from mosaicmem.models.world_model import WorldModel
from mosaicmem.worlds.episodes import FPS, Episode
from mosaicmem.worlds.scene import Rendering

GENERATED = ("full", "cameras_only", "last_frames", "rope", "latent", "no_prope", "unrefined")
REFERENCES = ("point_cloud", "copy_last", "vae")
ROWS = GENERATED + REFERENCES
TITLES = {
    "full": "full (mixture + PRoPE)",
    "cameras_only": "cameras only, no memory",
    "last_frames": "last frames only",
    "rope": "Warped RoPE only",
    "latent": "Warped Latent only",
    "no_prope": "mixture without PRoPE",
    "unrefined": "mixture, not refined",
    "point_cloud": "point-cloud rendering",
    "copy_last": "last frame, frozen",
    "vae": "autoencoder of the truth",
}
WINDOW = 17
RECENT = 4
"""Keyframes that the row `last_frames` remembers."""


@dataclass(frozen=True)
class Made:
    """What a row made of a trial.

    Attributes:
        frames: `[n 3 H W]` in [-1, 1].
        seconds: By stage, for all `n` frames.
        mosaic: What memory showed, by index among the `n`; only where asked for.
    """

    frames: Float[Tensor, "n 3 H W"]
    seconds: dict[str, float] = field(default_factory=dict)
    mosaic: dict[int, NDArray[np.uint8]] = field(default_factory=dict)


def observed_state(models: Models, trial: Trial, seed: int) -> RolloutState:
    """The state after the observed part: every remembered frame in memory, with exact depth and its own time.

    Noise is a function of `seed` and the world.
    """
    episode = trial.episode
    seed = seed * 1_000_003 + episode.seed
    prompt = episode.prompt(trial.mark + 1)
    return look(models, episode, trial.remembered, trial.observed, trial.recent, seed, prompt)


def look(
    models: Models, episode: Episode, frames: Sequence[int], shown: Rendering, recent: Rendering, seed: int, prompt: str
) -> RolloutState:  # fmt: skip
    """Walk along an episode up to a frame, remembering some.

    Args:
        frames: Which are remembered, the last one where generation goes on from.
        shown: What they show.
        recent: What the last few consecutive frames show, the last one of `frames` at their end.
    """
    cameras, last = episode.cameras, frames[-1]
    state = start(
        models, shown.rgb[0], cameras[frames[0]], shown.depth[0], fps=FPS, prompt=prompt, seed=seed
    )  # fmt: skip
    for i, frame in enumerate(frames[1:-1], start=1):
        one = slice(i, i + 1)
        state = observe(models, replace(state, next_frame=frame), shown.rgb[one], cameras[frame], shown.depth[one])
    if len(frames) > 1:
        first = last + 1 - len(recent.rgb)
        way = cameras[first : last + 1]
        state = observe(models, replace(state, next_frame=first), recent.rgb, way, recent.depth, every=len(way))
    return replace(state, anchor_pending=False)


def make_row(
    row: str, models: Models, trial: Trial, state: RolloutState, config: RolloutConfig | None = None
) -> Made:  # fmt: skip
    """The frames of one row.

    Args:
        row: One of `ROWS`.
        state: What `observed_state` gave; the same for all rows.
        config: Of the rollout; its alignment is replaced by the row's.

    Raises:
        ConfigError: on an unknown row, or a generator that this row cannot be made of.
    """
    if row in GENERATED:
        return _generate(row, models, trial, state, config or RolloutConfig(show_mosaic=False))
    makers: dict[str, Callable[[], Made]] = {
        "point_cloud": lambda: _point_cloud(trial),
        "copy_last": lambda: Made(copy_last(trial.observed.rgb[-1], len(trial))),
        "vae": lambda: _vae(models, trial),
    }
    if row not in makers:
        raise ConfigError(f"no row {row!r}; expected some of {', '.join(ROWS)}")
    return makers[row]()


def without_memory(generator: Generator) -> Generator:
    """The same generator, reading no memory."""
    if isinstance(generator, WorldModel):
        return WorldModel(generator.network, generator.name, generator.sampling, use_memory=False)
    if isinstance(generator, Compositor):
        return replace(generator, use_memory=False)
    raise ConfigError(f"the generator {generator.name!r} cannot be asked to go without memory")


def without_cameras(generator: Generator) -> Generator:
    """The same generator without cameras in its attention; one that has none there stays as it is."""
    return generator.with_sampling(use_cameras=False) if isinstance(generator, WorldModel) else generator


def recent_only(state: RolloutState, count: int = RECENT) -> RolloutState:
    """The state whose memory is its `count` newest keyframes, the last frame always among them."""
    groups = list(state.store.groups)
    context = state.context
    if context is not None and all(group.keyframe.frame != context.frame for group in groups):
        groups = list(PatchStore.from_groups(groups[1 - count :] if count > 1 else []).insert(context).groups)
    return replace(state, store=PatchStore.from_groups(groups[-count:]))


def _generate(row: str, models: Models, trial: Trial, state: RolloutState, config: RolloutConfig) -> Made:
    alignment: Alignment = row if row in ("rope", "latent") else "mixture"  # pyright: ignore[reportAssignmentType]
    config = replace(config, alignment=alignment)
    if row == "cameras_only":
        models = replace(models, generator=without_memory(models.generator), depth=None)
    elif row == "no_prope":
        models = replace(models, generator=without_cameras(models.generator))
    elif row == "unrefined":
        config = replace(config, refine=0.0)
    frames, mosaic = [], {}
    seconds: dict[str, float] = {stage: 0.0 for stage in STAGES}  # noqa: C420
    at = trial.mark + 1
    script = Script.of(trial.episode.caption, trial.episode.told).part(at, at + len(trial))
    before = recent_only if row == "last_frames" else None
    for _, event in rollout(models, state, trial.cameras, WINDOW, config, script, before):
        frames.append(from_u8(event.frames_u8))
        if config.show_mosaic:
            numbers = (event.mosaic_frames - at).tolist()
            mosaic.update(zip(numbers, event.mosaic_u8, strict=True))
        for stage, spent in event.timings.items():
            seconds[stage] += spent
    return Made(torch.cat(frames), seconds, mosaic)


def _point_cloud(trial: Trial) -> Made:
    clock = Clock()
    with clock("retrieve"):
        cloud = PointCloud.of(trial.observed.rgb, trial.observed.depth, trial.episode.cameras[list(trial.remembered)])
        frames = [cloud.render(camera)[0] for camera in trial.cameras]
    return Made(torch.stack(frames), clock.seconds)


def _vae(models: Models, trial: Trial) -> Made:
    """The truth through the autoencoder, in the windows of a rollout."""
    whole = torch.cat([trial.observed.rgb[-1:], trial.truth.rgb])
    parts, clock = [], Clock()
    for first in range(0, len(trial), WINDOW - 1):
        clip = whole[first : first + WINDOW].transpose(0, 1)[None]
        latents = models.vae.encode_video(clip)
        with clock("decode"):
            parts.append(models.vae.decode_video(latents)[0].transpose(0, 1)[1 : clip.shape[2]])
    return Made(torch.cat(parts), clock.seconds)
