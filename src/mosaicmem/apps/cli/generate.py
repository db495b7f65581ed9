"""Frames along a trajectory: n poses give exactly n frames, as one stream, from a start frame or from a memory.

A start is one of: --memory DIR (the first frame is what memory shows there), --image FILE with --depth FILE (the first
pose is the image's camera), both, or --scene SEED (a rendered room; the path is taken relative to its first pose). No
depth is guessed: an image without depth needs a memory. The only generator so far is `synthetic`: it shows what memory
shows, fills holes smoothly, and neither invents nor reads the prompt, which is recorded only.

Writes: video.mp4 or frames/ or frames.npz, contact_sheet.png, coverage.png, memory/, trajectory.json, report.json,
run.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes, arg

from mosaicmem.apps.cli.backends import open_vae
from mosaicmem.apps.cli.config import GenerationConfig
from mosaicmem.apps.cli.console import Result, table
from mosaicmem.apps.cli.memory_folder import describe_memory, load_memory, save_memory, vae_of
from mosaicmem.apps.cli.options import Common, parse_size
from mosaicmem.apps.cli.pictures import Chart, Panel, Series, charts, moments, sheet
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.sources import (
    TrajectoryOptions,
    cameras_at,
    default_size,
    path_cameras,
    read_depth,
)
from mosaicmem.apps.cli.views import to_float
from mosaicmem.errors import ConfigError, MissingWeightsError
from mosaicmem.generation.backend import SYNTHETIC, Models, load_models
from mosaicmem.generation.events import RolloutEvent
from mosaicmem.generation.rollout import rollout
from mosaicmem.generation.state import RolloutState, enter, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.io.arrays import write_npz
from mosaicmem.io.files import read_image, write_image, write_json
from mosaicmem.io.trajectories import Trajectory, write_trajectory
from mosaicmem.io.video import write_video
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.models.synthetic import Compositor
from mosaicmem.models.vae import VAE

EXAMPLE = "mosaicmem generate --memory room --trajectory path.json --out walk"


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `generate`."""

    trajectory: Annotated[Path, arg(aliases=["-t"], metavar="FILE")]
    """Cameras, in any format that lint knows; world-to-camera of the memory's world, or relative to its own start."""
    read: Annotated[TrajectoryOptions, OmitArgPrefixes] = field(default_factory=TrajectoryOptions)
    frames: str = ":"
    """Which poses, as start:stop:step or a,b,c."""
    prompt: Annotated[str, arg(aliases=["-p"])] = "a scene"
    """Text of the clip; recorded, and read by generators that can read."""
    memory: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Memory to start from."""
    image: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """First frame."""
    depth: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Depth of the first frame: 16-bit PNG in millimetres, or npy in world units; 0 = unknown."""
    scene: Annotated[int | None, arg(metavar="SEED", help_behavior_hint="")] = None
    """Start in a procedural room."""
    size: Annotated[str | None, arg(metavar="WxH", help_behavior_hint="(default: the memory's, or the image's)")] = None
    """Size of the frames."""
    model: Annotated[str, arg(metavar="synthetic|PATH")] = SYNTHETIC
    """Generator."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where the memory's is)")] = None
    """Weights of a pretrained VAE."""
    without_memory: bool = False
    """Generate from the last frame alone, for comparison."""
    format: Literal["mp4", "png", "npz"] = "mp4"
    """How the frames are written."""
    generation: Annotated[GenerationConfig, OmitArgPrefixes] = field(default_factory=GenerationConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)


@dataclass(frozen=True)
class Beginning:
    """All that a rollout starts from."""

    models: Models
    state: RolloutState
    cameras: Cameras
    grid: TokenGrid
    vae: VAE
    vae_path: Path | None
    intrinsics: str
    source: str
    metric: bool | None


def run(args: Args, session: Session) -> Result:
    """Start, roll out, write."""
    inputs = [p for p in (args.trajectory, args.memory, args.image, args.depth) if p is not None]
    session.check_out(inputs=inputs)
    if args.model != SYNTHETIC:
        load_models(args.model)  # says what is missing
        raise MissingWeightsError(f"{args.model}: cannot be loaded")
    begin = _begin(args, session)
    config = session.config
    settings = config.generation.rollout(config.retrieval, config.lifting)
    frames: list[NDArray[np.uint8]] = []
    events: list[RolloutEvent] = []
    state = begin.state
    with session.console.progress("generating", len(begin.cameras)) as tick, session.stage("generate"):
        for after, event in rollout(begin.models, state, begin.cameras, config.generation.window_size, settings):
            state = after
            frames.append(event.frames_u8)
            events.append(replace(event, frames_u8=event.frames_u8[:0], mosaic_u8=event.mosaic_u8[:0]))
            tick(len(event.frames))
            for warning in event.warnings:
                session.console.note(f"warning: {warning}")
    clip = np.concatenate(frames)
    report = _report(begin, events, len(clip), args.prompt)
    with session.folder(inputs=inputs) as out, session.stage("write"):
        _write(out, args, session, begin, state, clip, report)
    mean = report["mean"]["coverage"]
    stages = [[name, f"{1000 * seconds / len(clip):.1f}"] for name, seconds in report["timings_s"].items()]
    text = [
        f"{len(clip)} frames for {len(begin.cameras)} poses at {begin.grid.width}x{begin.grid.height}, {begin.source}",
        f"intrinsics: {begin.intrinsics}",
        f"memory showed {100 * mean:.1f} % on average; {report['store']['patches']:,} patches remembered in the end",
        *table(["stage", "ms/frame"], stages),
    ]
    return Result(report, text)


def _begin(args: Args, session: Session) -> Beginning:
    if args.scene is not None and (args.memory is not None or args.image is not None):
        raise ConfigError("--scene starts in a procedural room; leave --memory and --image out, or leave --scene out")
    if args.depth is not None and args.image is None:
        raise ConfigError("--depth is the depth of --image; add --image FILE")
    if args.memory is not None:
        return _from_memory(args, session)
    if args.image is not None:
        return _from_image(args, session)
    if args.scene is not None:
        return _from_scene(args, args.scene, session)
    raise ConfigError(
        "nothing to start from; give --memory DIR, --image FILE with --depth FILE, or --scene SEED (a rendered room)"
    )


def _models(args: Args, session: Session, vae: VAE, grid: TokenGrid) -> Models:
    session.note = f"compositor without weights, {session.note}"
    return Models(vae, Compositor(not args.without_memory), patch=grid.patch)


def _from_memory(args: Args, session: Session) -> Beginning:
    assert args.memory is not None
    store, meta = load_memory(args.memory)
    if args.size is not None and parse_size(args.size) != (meta.width, meta.height):
        raise ConfigError(f"--size {args.size}: this memory is of {meta.width}x{meta.height} images; leave --size out")
    vae = vae_of(meta, args.vae, session)
    models = _models(args, session, vae, meta.grid)
    poses = cameras_at(args.trajectory, args.frames, meta, args.read)
    settings = {"seed": session.config.seed, "prompt": args.prompt, "fps": session.config.video.fps}
    if args.image is None:
        state = enter(models, store, poses.cameras[0], **settings, retrieval=session.config.retrieval)
    else:
        image, depth = _start_image(args, meta.width, meta.height)
        lifting = session.config.lifting
        state = start(models, image, poses.cameras[0], depth, store=store, **settings, lifting=lifting)
    source = f"from the memory {args.memory}"
    where = args.vae or (Path(meta.vae_path) if meta.vae_path else None)
    return Beginning(models, state, poses.cameras, meta.grid, vae, where, poses.intrinsics, source, meta.metric)


def _from_image(args: Args, session: Session) -> Beginning:
    assert args.image is not None
    if args.depth is None:
        raise ConfigError(
            "a start image needs its depth, and no depth estimator is installed: add --depth FILE (16-bit PNG in "
            "millimetres, or npy in world units), or start from --memory DIR, or from --scene SEED"
        )
    own = read_image(args.image)
    vae = open_vae(args.vae, session)
    size = parse_size(args.size) if args.size else default_size(own.shape[1], own.shape[0], vae, None)
    grid = session.config.grid.grid(*size, vae.stride, vae.temporal)
    models = _models(args, session, vae, grid)
    cameras, said, metric = path_cameras(args.trajectory, args.frames, args.read, *size)
    image, depth = _start_image(args, *size)
    config = session.config
    state = start(
        models,
        image,
        cameras[0],
        depth,
        seed=config.seed,
        prompt=args.prompt,
        fps=config.video.fps,
        lifting=config.lifting,
    )
    return Beginning(models, state, cameras, grid, vae, args.vae, said, f"from the image {args.image}", metric)


def _from_scene(args: Args, seed: int, session: Session) -> Beginning:
    from mosaicmem.worlds import make_scene

    vae = open_vae(args.vae, session)
    size = parse_size(args.size) if args.size else (256, 256)
    grid = session.config.grid.grid(*size, vae.stride, vae.temporal)
    models = _models(args, session, vae, grid)
    path, said, _ = path_cameras(args.trajectory, args.frames, args.read, *size)
    scene = make_scene(seed, movers=False)
    first = scene.walk(seed, 2, width=size[0], height=size[1])[0].to(dtype=torch.float64)
    from_first = path.to(dtype=torch.float64).recentred().viewmats
    cameras = Cameras(from_first @ first.viewmats, path.Ks.double(), *size)
    shown = scene.render(cameras[0].to(dtype=torch.float32))
    config = session.config
    state = start(
        models,
        shown.rgb[0],
        cameras[0],
        shown.depth[0],
        seed=config.seed,
        prompt=args.prompt,
        fps=config.video.fps,
        lifting=config.lifting,
    )
    return Beginning(models, state, cameras, grid, vae, args.vae, said, f"from the procedural room {seed}", True)


def _start_image(args: Args, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The start image and its depth at the wanted size."""
    from PIL import Image

    assert args.image is not None
    own = read_image(args.image)
    resized = own
    if own.shape[:2] != (height, width):
        resized = np.array(Image.fromarray(own).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
    depth = None if args.depth is None else read_depth(args.depth, own.shape[1], own.shape[0], width, height)
    return to_float(resized), depth


def _report(begin: Beginning, events: list[RolloutEvent], n: int, prompt: str) -> dict[str, Any]:
    coverage = np.concatenate([e.coverage for e in events]).tolist()
    timings: dict[str, float] = {}
    for event in events:
        for name, seconds in event.timings.items():
            timings[name] = timings.get(name, 0.0) + seconds
    return {
        "poses": len(begin.cameras),
        "prompt": prompt,
        "intrinsics": begin.intrinsics,
        "mean": {"coverage": float(np.mean(coverage))},
        "frames": [{"frame": i, "coverage": coverage[i]} for i in range(n)],
        "tokens": sum(e.tokens for e in events),
        "written": [i for e in events for i in e.written],
        "store": {"keyframes": events[-1].store.keyframes, "patches": events[-1].store.patches},
        "timings_s": {name: round(seconds, 4) for name, seconds in timings.items()},
    }


def _write(
    out: Path,
    args: Args,
    session: Session,
    begin: Beginning,
    state: RolloutState,
    clip: NDArray[np.uint8],
    report: dict[str, Any],
) -> None:
    video = session.config.video
    if args.format == "mp4":
        write_video(out / "video.mp4", clip, video.fps)
    elif args.format == "png":
        (out / "frames").mkdir()
        for i, frame in enumerate(clip):
            write_image(out / "frames" / f"frame_{i:06d}.png", frame)
    else:
        write_npz(out / "frames.npz", {"frames": clip})
    shares = [f["coverage"] for f in report["frames"]]
    rows = [
        (f"frame {i}\n{100 * shares[i]:.1f} % known", [Panel("generated", clip[i])])
        for i in moments(len(clip), video.sheet_rows)
    ]
    write_image(out / "contact_sheet.png", sheet(rows, f"[{session.backend}] {args.prompt[:40]}", video.panel))
    plot = Chart("share of the view that memory shows", [Series("coverage", [100 * c for c in shares])], 0, 100, " %")
    frames = [float(i) for i in range(len(clip))]
    write_image(out / "coverage.png", charts([plot], frames, "frame", f"[{session.backend}] What memory knew"))
    saved = Trajectory.from_cameras(begin.cameras, fps=video.fps, metric=begin.metric)
    write_trajectory(saved, out / "trajectory.json")
    write_json(out / "report.json", report)
    (out / "memory").mkdir()
    meta = describe_memory(
        state.store,
        begin.grid,
        begin.cameras.Ks[0],
        begin.vae.name,
        begin.vae_path,
        begin.source,
        begin.metric,
    )
    save_memory(out / "memory", state.store, meta)
