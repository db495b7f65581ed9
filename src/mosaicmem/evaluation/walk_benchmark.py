"""Does a long walk come home? 480 generated frames that end where they began, beside 96.

Nothing is given but the first picture: its depth, and that of every generated frame, comes from the model's own
network. Both walks begin with the same picture. The long one goes through every room of its world, turns round, comes
back and turns to where it began; the short one turns away on the spot and back. At the end both show the first view
again, and what had been seen in it is compared with the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError, refuse
from mosaicmem.evaluation.bootstrap import mean_interval, paired_interval
from mosaicmem.evaluation.metrics import MIN_MASK_SHARE, psnr
from mosaicmem.evaluation.parallel import Loader, each_world
from mosaicmem.evaluation.revisit import covisible
from mosaicmem.evaluation.rows import WINDOW, without_memory
from mosaicmem.generation.backend import Models
from mosaicmem.generation.rollout import RolloutConfig, from_u8, rollout, to_u8
from mosaicmem.generation.script import Script
from mosaicmem.generation.state import start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.se3 import rotation_angle
from mosaicmem.geometry.trajectories import look_around, there_and_back
from mosaicmem.worlds.episodes import FPS, HELD_OUT, Episode, make_episode, movers
from mosaicmem.worlds.film import film

FIRST = HELD_OUT.start + 10_000
"""Seeds of these worlds: apart from those of the memory benchmark."""
END = 4  # frames at the end, one latent, whose mean is the score
_METRES, _DEGREES = 0.075, 2.75  # a frame at most, which is how quickly the model's world moves
_CANDIDATES = 50  # seeds tried for each world until its rooms make a walk of that length at that speed
_TURN = 2.5  # degrees a frame of the short walk

Length = Literal["long", "short"]


@dataclass(frozen=True)
class WalkConfig:
    """What is run.

    Attributes:
        worlds: Held-out worlds.
        long, short: Generated frames; multiples of 16.
        seed: Of the noise.
        size: Side of the frames, pixels.
        every: Frames between two that the curves look at.
        without_memory: Also walk both without memory.
        rollout: How frames are generated.
    """

    worlds: int = 8
    long: int = 480
    short: int = 96
    seed: int = 0
    size: int = 128
    every: int = 8
    without_memory: bool = False
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        refuse(
            (not 1 <= self.worlds <= 1000, f"worlds = {self.worlds}: expected 1 to 1000"),
            (min(self.long, self.short) < 16, f"{self.short} and {self.long} frames: expected at least 16"),
            (bool(self.long % 16 or self.short % 16), f"{self.short} and {self.long} frames: expected multiples of 16"),
            (self.every < 1, f"every = {self.every}: expected at least 1"),
        )


@dataclass(frozen=True)
class Walked:
    """One generated walk.

    Attributes:
        psnr_end: Of the last frames, on what the first picture shows, dB.
        ceiling: The same of the truth through the autoencoder.
        frames: Numbers of the frames in the curves.
        curves: By name, one value for each of `frames`, NaN where it does not apply; `true_...` are those of the truth.
        seconds: A frame.
        pictures: `(frame, title) -> [H W 3]`.
    """

    psnr_end: float
    ceiling: float
    frames: tuple[int, ...]
    curves: dict[str, list[float]]
    seconds: float
    pictures: dict[tuple[int, str], NDArray[np.uint8]]


@dataclass(frozen=True)
class WalkResult:
    """One world: its walks by `"long"`, `"short"`, and `"long_without"`, `"short_without"` where asked for."""

    seed: int
    walks: dict[str, Walked]


def walk_paths(index: int, config: WalkConfig) -> tuple[Episode, dict[Length, Cameras]]:
    """World `index` and both paths through it; every path begins and ends at the same camera.

    Raises:
        GeometryError: if no candidate makes a walk of that length at an ordinary speed.
    """
    for seed in range(FIRST + _CANDIDATES * index, FIRST + _CANDIDATES * (index + 1)):
        episode = make_episode(seed, size=config.size, with_event=False)
        size = {"width": config.size, "height": config.size}
        path = episode.scene.walk(seed, config.long + 1, "there_and_back", **size).to(dtype=torch.float64)
        if not _hurries(path):
            half = config.short // 2
            away = look_around(path[0], degrees=_TURN * half, frames=half + 1, up=(0.0, -1.0, 0.0))
            return episode, {"long": path, "short": there_and_back(away)}
    raise GeometryError(f"no world among {_CANDIDATES} allows a walk of {config.long} frames; try a longer one")


def run_walks(load: Loader, config: WalkConfig | None = None, *, processes: int = 1) -> Iterator[WalkResult]:
    """One world after the other, in order; hand them to `summarize_walks`."""
    config = config or WalkConfig()
    yield from each_world(partial(run_walk_world, config=config), list(range(config.worlds)), load, processes)


def run_walk_world(models: Models, index: int, config: WalkConfig) -> WalkResult:
    """All walks of one world."""
    episode, paths = walk_paths(index, config)
    walks = {}
    for name, cameras in paths.items():
        walks[name] = _walk(models, episode, cameras, config)
        if config.without_memory:
            blind = replace(models, generator=without_memory(models.generator))
            walks[f"{name}_without"] = _walk(blind, episode, cameras, config)
    return WalkResult(episode.seed, walks)


def summarize_walks(results: Sequence[WalkResult]) -> dict[str, Any]:
    """Scores at the end with intervals, long minus short, and the curves of every world."""

    def ends(name: str) -> list[float]:
        return [result.walks[name].psnr_end for result in results]

    out: dict[str, Any] = {"walks": {}}
    for name in results[0].walks:
        found = mean_interval(ends(name))
        ceiling = mean_interval([result.walks[name].ceiling for result in results])
        out["walks"][name] = {
            "psnr_end": found.mean, "low": found.low, "high": found.high, "worlds": found.count,
            "ceiling": ceiling.mean,
            "seconds_per_frame": float(np.mean([result.walks[name].seconds for result in results])),
            "curves": _mean_curves([result.walks[name] for result in results]),
        }  # fmt: skip
    change = paired_interval(ends("long"), ends("short"))
    out["long_minus_short"] = {"psnr_end": change.mean, "low": change.low, "high": change.high}
    out["worlds"] = [
        {"seed": result.seed, **{name: walked.psnr_end for name, walked in result.walks.items()}} for result in results
    ]
    return out


def saturation(frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " n"]:
    """Mean distance of a frame's colours from grey: largest minus smallest channel, 0 to 1."""
    return ((frames.amax(1) - frames.amin(1)) / 2).flatten(1).mean(1)


def sharpness(frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, " n"]:
    """Mean absolute difference of neighbouring pixels, in [0, 1] colours."""
    across, down = frames.diff(dim=-1).abs(), frames.diff(dim=-2).abs()
    return (across.flatten(1).mean(1) + down.flatten(1).mean(1)) / 4


def _walk(models: Models, episode: Episode, cameras: Cameras, config: WalkConfig) -> Walked:
    scene, times = episode.scene, torch.arange(len(cameras)) / FPS
    first = film(scene, cameras[0], times[:1], finer=2)
    state = start(models, first.rgb[0], cameras[0], fps=FPS, seed=config.seed * 1_000_003 + episode.seed)
    script = Script.of(episode.caption, episode.told).part(0, len(cameras))
    parts, seconds = [], 0.0
    for _, event in rollout(models, state, cameras, WINDOW, replace(config.rollout, show_mosaic=False), script):
        parts.append(from_u8(event.frames_u8))
        seconds += sum(event.timings.values())
    frames = torch.cat(parts)
    looked = sorted({*range(0, len(cameras), config.every), *range(len(cameras) - END, len(cameras))})
    truth = film(scene, cameras[looked], times[looked], finer=2)
    shown = frames[looked]
    known = seen_from_start(truth.depth, cameras[looked], first.depth[0], cameras[0])
    ids = movers(scene)
    known &= ~torch.isin(truth.object_id, ids)
    decibels = psnr(shown, truth.rgb, known).double()
    few = known.flatten(1).double().mean(1) < MIN_MASK_SHARE
    latents = models.vae.encode_image(shown), models.vae.encode_image(truth.rgb)
    curves = {"psnr": torch.where(few, torch.nan, decibels)}
    for prefix, pictures, coded in (("", shown, latents[0]), ("true_", truth.rgb, latents[1])):
        curves |= {
            f"{prefix}saturation": saturation(pictures),
            f"{prefix}sharpness": sharpness(pictures),
            f"{prefix}latent": coded.abs().flatten(1).mean(1),
        }
    again = models.vae.decode_image(latents[1][-END:])
    pictures = {(looked[i], "generated"): to_u8(shown[i : i + 1])[0] for i in _moments(len(looked))}
    pictures |= {(looked[i], "truth"): to_u8(truth.rgb[i : i + 1])[0] for i in _moments(len(looked))}
    return Walked(
        float(decibels[-END:].mean()),
        float(psnr(again, truth.rgb[-END:], known[-END:]).mean()),
        tuple(looked),
        {name: values.tolist() for name, values in curves.items()},
        seconds / len(frames),
        pictures,
    )


def seen_from_start(
    depth: Float[Tensor, "n H W"], cameras: Cameras, first: Float[Tensor, "H W"], camera: Cameras
) -> Bool[Tensor, "n H W"]:
    """Pixels whose surface the first picture shows."""
    found = [covisible(z, each, first, camera) for z, each in zip(depth, cameras, strict=True)]
    return torch.stack(found)


def _mean_curves(walks: Sequence[Walked]) -> dict[str, list[float]]:
    """Mean over worlds, of those that have a value."""
    out: dict[str, list[float]] = {"frame": [float(frame) for frame in walks[0].frames]}
    for name in walks[0].curves:
        values = torch.tensor([walk.curves[name] for walk in walks], dtype=torch.float64)
        out[name] = values.nanmean(0).tolist()
    return out


def _hurries(path: Cameras) -> bool:
    """Whether the camera goes faster than in the worlds that the model learned from."""
    c2w = path.c2w
    steps = c2w[:, :3, 3].diff(dim=0).norm(dim=-1)
    turns = torch.rad2deg(rotation_angle(c2w[1:, :3, :3], c2w[:-1, :3, :3]))
    return bool((steps / _METRES + turns / _DEGREES > 1.15).any())


def _moments(count: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, 7).round()})
