"""How recall decays when what memory is given is wrong: scale and noise of depth, drifting poses, moving things, sky.

No model takes part. Some frames of a walk are remembered, spoilt in one way; frames half-way between them are recalled
at true cameras and compared with the truth: how much memory shows, and how right what it shows is. Each row is asked
four times, with and without scale alignment (`depth.alignment`, against what memory itself renders) and with and
without confidence (pixels that the source of depth does not believe are not remembered).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.depth.alignment import align_scale
from mosaicmem.errors import ConfigError, GeometryError, refuse
from mosaicmem.evaluation.metrics import psnr
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import LiftingConfig, PatchStore, RetrievalConfig, lift, retrieve
from mosaicmem.models.conditioning import canvas
from mosaicmem.worlds import RGBDFolder, Scene, make_scene
from mosaicmem.worlds.episodes import FPS, HELD_OUT, movers
from mosaicmem.worlds.film import film

FIRST = HELD_OUT.start + 20_000
"""Seeds of these worlds: apart from those of the other benchmarks."""
STRESSES = (
    "exact", "scale 1.05", "scale 1.1", "drift 1 cm", "drift 2 cm", "noise 5 %", "noise 10 %", "moving things", "sky",
)  # fmt: skip
VARIANTS = ("as it is", "aligned", "confidence", "both")
SKY_DEPTH = 20.0  # metres at which a source of depth that knows no sky puts it
PATCH = 8  # pixels; a cell is a pixel, so latents lose nothing and errors are memory's own
_TRIES = 60  # seeds tried for each world until one shows sky, or something that moves


@dataclass(frozen=True)
class StressConfig:
    """What is run.

    Attributes:
        worlds: Procedural walks, each row averaged over them.
        frames: Length of a walk, out and back.
        every: Frames between two that are remembered.
        asked: Frames that are recalled, evenly spread over the walk.
        width, height: Of the frames; multiples of 8.
        min_confidence: With confidence, pixels believed less are not remembered.
        seed: Of noise and drift.
        stresses: Rows.
        lifting, retrieval: Settings of memory.
    """

    worlds: int = 3
    frames: int = 160
    every: int = 8
    asked: int = 12
    width: int = 96
    height: int = 72
    min_confidence: float = 0.4
    seed: int = 0
    stresses: tuple[str, ...] = STRESSES
    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)

    def __post_init__(self) -> None:
        unknown = [name for name in self.stresses if name not in STRESSES]
        refuse(
            (not 1 <= self.worlds <= 1000, f"worlds = {self.worlds}: expected 1 to 1000"),
            (not 8 <= self.frames <= 100_000, f"frames = {self.frames}: expected 8 to 100000"),
            (not 2 <= self.every <= self.frames // 4, f"every = {self.every}: expected 2 to a quarter of the frames"),
            (not 1 <= self.asked <= self.frames // 4, f"asked = {self.asked}: expected 1 to a quarter of the frames"),
            (min(self.width, self.height) < 16, f"{self.width}x{self.height}: expected at least 16 pixels a side"),
            (bool(self.width % PATCH or self.height % PATCH), f"{self.width}x{self.height}: expected multiples of 8"),
            (not 0 <= self.min_confidence <= 1, f"min_confidence = {self.min_confidence}: expected 0 to 1"),
            (bool(unknown), f"unknown rows {', '.join(unknown)}; expected some of {', '.join(STRESSES)}"),
            (not self.stresses, "no rows"),
        )


@dataclass(frozen=True)
class Seen:
    """Frames as a memory is given them: colour in [-1, 1], z-depth (0 = unknown), how far it is believed, cameras."""

    rgb: Float[Tensor, "n 3 H W"]
    depth: Float[Tensor, "n H W"]
    confidence: Float[Tensor, "n H W"]
    cameras: Cameras


@dataclass(frozen=True)
class Clip:
    """A walk with its truth.

    Attributes:
        name: Where it comes from.
        seen: What is remembered, exact.
        moving: `[n H W]` pixels of it that show what moves by itself.
        cameras: Views that are recalled.
        truth: `[k 3 H W]` what they truly show.
        still: `[k H W]` pixels of those that count: not what moves by itself and is there now, which nobody can know.
    """

    name: str
    seen: Seen
    moving: Bool[Tensor, "n H W"]
    cameras: Cameras
    truth: Float[Tensor, "k 3 H W"]
    still: Bool[Tensor, "k H W"]


@dataclass(frozen=True)
class Score:
    """One row of one clip by one variant: means over the recalled frames; PSNR in dB on what was shown."""

    clip: str
    stress: str
    variant: str
    coverage: float
    psnr: float


def run_stress(config: StressConfig | None = None, recording: Path | None = None) -> Iterator[Score]:
    """Every row of every clip by every variant, in this order: worlds, or the recording alone where one is given."""
    config = config or StressConfig()
    if recording is not None:
        folder = recorded_clip(recording, config)
        for stress in config.stresses:
            if stress != "moving things":  # no mask of them exists
                yield from _scores(folder, stress, config)
        return
    for stress in config.stresses:
        for index in range(config.worlds):
            yield from _scores(world_clip(index, stress, config), stress, config)


def summarize_stress(scores: Sequence[Score]) -> dict[str, dict[str, dict[str, float]]]:
    """`{stress: {variant: {"coverage", "psnr", "clips"}}}`, means over clips; PSNR over those that showed anything."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for stress in dict.fromkeys(score.stress for score in scores):
        row = out[stress] = {}
        for variant in VARIANTS:
            chosen = [score for score in scores if (score.stress, score.variant) == (stress, variant)]
            known = [score.psnr for score in chosen if not np.isnan(score.psnr)]
            row[variant] = {
                "coverage": float(np.mean([score.coverage for score in chosen])),
                "psnr": float(np.mean(known)) if known else float("nan"),
                "clips": len(chosen),
            }
    return out


def spoil(clip: Clip, stress: str, generator: torch.Generator) -> Seen:
    """What memory is given of a clip. The first frame is exact but for sky and moving things: it sets the scale."""
    seen = clip.seen
    kind, _, amount = stress.partition(" ")
    depth, confidence, cameras = seen.depth.clone(), seen.confidence.clone(), seen.cameras
    if kind == "scale":
        depth[1:] *= float(amount)
    elif kind == "drift":
        cameras = drifted(cameras, float(amount.split()[0]) / 100, generator)
    elif kind == "noise":
        # where the source is unsure its errors are large, and it knows
        unsure = _blobs(depth, generator).flatten().argsort().argsort().view_as(depth) / max(1, depth.numel() - 1)
        sigma = 2 * float(amount.split()[0]) / 100 * unsure**2
        noisy = depth * (sigma * _blobs(depth, generator)).exp()
        depth[1:], confidence[1:] = noisy[1:], 1 - unsure[1:]
    elif kind == "moving":
        confidence = torch.where(clip.moving, 0.0, confidence)
    elif kind == "sky":
        sky = depth <= 0
        depth, confidence = torch.where(sky, SKY_DEPTH, depth), torch.where(sky, 0.0, confidence)
    return replace(seen, depth=depth, confidence=confidence, cameras=cameras)


def drifted(cameras: Cameras, step: float, generator: torch.Generator) -> Cameras:
    """Cameras that drift sideways by `step` metres a frame in one direction, and turn by 0.1 degrees for each cm."""
    angle = float(2 * torch.pi * torch.rand((), generator=generator))
    count = torch.arange(len(cameras), dtype=torch.float64)
    c2w = cameras.c2w.double().clone()
    yaw = torch.deg2rad(10 * step * count)
    turn = se3.axis_angle(torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64).expand(len(count), 3), yaw)
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    c2w[:, 0, 3] += step * count * float(np.cos(angle))
    c2w[:, 2, 3] += step * count * float(np.sin(angle))
    return Cameras.from_c2w(c2w, cameras.Ks, cameras.width, cameras.height)


def remember(seen: Seen, config: StressConfig, *, align: bool, believe: bool) -> PatchStore:
    """A memory of some frames, in their order."""
    grid = _grid(seen.cameras)
    store, scale = PatchStore.empty(), None
    for i in range(len(seen.cameras)):
        depth, confidence = seen.depth[i], seen.confidence[i] if believe else None
        if align and len(store):
            shown = retrieve(store, seen.cameras[i], grid, config.retrieval)
            rendered = torch.where(shown.good[0], shown.depth[0], 0.0).float()
            found = align_scale(depth, rendered, confidence=confidence, previous=scale)
            depth = found.apply(depth).float()
            scale = scale if found.source == "carried" else found.scale
        keyframe = lift(
            seen.rgb[i], depth, seen.cameras[i], grid, confidence=confidence,
            exclude=None if confidence is None else confidence < config.min_confidence,
            frame=i, time=i / FPS, config=config.lifting,
        )  # fmt: skip
        store = store.insert(keyframe)
    return store


def recall(store: PatchStore, clip: Clip, config: StressConfig) -> tuple[float, float]:
    """Mean share of the views that is shown, and PSNR of what is."""
    mosaic = retrieve(store, clip.cameras, _grid(clip.cameras), config.retrieval)
    picture, good = canvas(store, mosaic, config.retrieval.tau)
    judged = good & clip.still
    values = psnr(picture.float(), clip.truth, judged) if len(store) else torch.full((len(good),), torch.nan)
    known = values[~values.isnan()]
    return float(good.double().mean()), float(known.double().mean()) if len(known) else float("nan")


def world_clip(index: int, stress: str, config: StressConfig) -> Clip:
    """Walk number `index` for a row: with sky in view, or with something that moves, where the row is about that.

    Raises:
        GeometryError: if no seed gives such a walk.
    """
    size = {"width": config.width, "height": config.height}
    for seed in range(FIRST + _TRIES * index, FIRST + _TRIES * (index + 1)):
        scene = make_scene(seed, rooms=2, movers=stress == "moving things")
        path = scene.walk(seed, config.frames, "there_and_back", **size).to(dtype=torch.float64)
        out = list(range(0, config.frames, config.every))
        if not _suits(scene, path[out], torch.tensor(out) / FPS, stress):
            continue
        chosen = torch.linspace(0, len(out) - 2, config.asked).round().long()
        back = (chosen * config.every + config.every // 2).tolist()
        shown = film(scene, path[out], torch.tensor(out) / FPS, finer=2)
        truth = film(scene, path[back], torch.tensor(back) / FPS, finer=2)
        ids = movers(scene)
        seen = Seen(shown.rgb, shown.depth, torch.ones_like(shown.depth), path[out])
        moving, still = torch.isin(shown.object_id, ids), ~torch.isin(truth.object_id, ids)
        return Clip(f"world {seed}", seen, moving, path[back], truth.rgb, still)
    raise GeometryError(f"no world among {_TRIES} suits the row {stress!r}; try a longer walk")


def recorded_clip(path: Path, config: StressConfig) -> Clip:
    """A posed RGB-D recording: its first 70 % is remembered, of the rest some frames are recalled."""
    folder = RGBDFolder.open(path)
    height = max(PATCH, round(config.width * folder.cameras.height / folder.cameras.width / PATCH) * PATCH)
    cut = int(0.7 * len(folder))
    if cut < 2 or len(folder) - cut < config.asked:
        raise ConfigError(
            f"{path}: {len(folder)} frames; to recall {config.asked}, expected {4 * config.asked} or more"
        )
    out = list(range(0, cut, config.every))
    back = torch.linspace(cut, len(folder) - 1, config.asked).round().long().tolist()
    frames = {i: folder.read(i, config.width, height) for i in {*out, *back}}
    cameras = folder.cameras.resized(config.width, height).to(dtype=torch.float64)
    depth = torch.stack([frames[i][1] for i in out])
    seen = Seen(torch.stack([frames[i][0] for i in out]), depth, torch.ones_like(depth), cameras[out])
    truth = torch.stack([frames[i][0] for i in back])
    nothing = torch.zeros_like(depth, dtype=torch.bool)
    return Clip(path.name, seen, nothing, cameras[back], truth, torch.ones_like(truth[:, 0], dtype=torch.bool))


def _scores(clip: Clip, stress: str, config: StressConfig) -> Iterator[Score]:
    seen = spoil(clip, stress, torch.Generator().manual_seed(config.seed))
    for variant in VARIANTS:
        align, believe = variant in ("aligned", "both"), variant in ("confidence", "both")
        store = remember(seen, config, align=align, believe=believe)
        yield Score(clip.name, stress, variant, *recall(store, clip, config))


def _suits(scene: Scene, cameras: Cameras, times: Tensor, stress: str) -> bool:
    """Whether a row about sky or moving things finds enough of it in what is remembered."""
    if stress not in ("sky", "moving things"):
        return True
    shown = film(scene, cameras.resized(32, 24), times, finer=1)
    wanted = shown.depth <= 0 if stress == "sky" else torch.isin(shown.object_id, movers(scene))
    return float(wanted.double().mean()) > 0.02


def _blobs(like: Float[Tensor, "n H W"], generator: torch.Generator) -> Float[Tensor, "n H W"]:
    """Smooth noise of unit variance, about 8 pixels a blob: errors of a depth network are no white noise."""
    n, H, W = like.shape
    coarse = torch.randn(n, 1, H // 8 + 3, W // 8 + 3, generator=generator)
    smooth = F.interpolate(coarse, size=(H, W), mode="bicubic", align_corners=True)[:, 0]
    return (smooth / smooth.std()).to(like)


def _grid(cameras: Cameras) -> TokenGrid:
    return TokenGrid(cameras.width, cameras.height, stride=1, patch=PATCH)


def report(scores: Sequence[Score], config: StressConfig) -> dict[str, Any]:
    """All that a run found, as plain values."""
    return {
        "clips": list(dict.fromkeys(score.clip for score in scores)),
        "size": [config.width, config.height],
        "frames": config.frames,
        "every": config.every,
        "asked": config.asked,
        "min_confidence": config.min_confidence,
        "rows": summarize_stress(scores),
        "scores": [vars(score) for score in scores],
    }
