"""Where a generated path starts: at an image, in a memory, or in a procedural world."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tyro.conf import OmitArgPrefixes, arg

from mosaicmem.apps.cli.backends import TRAINED_SIZE, open_models, sized, vae_home
from mosaicmem.apps.cli.memory_folder import load_memory, vae_of
from mosaicmem.apps.cli.options import Computing, check_scene, parse_size
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.sources import (
    TrajectoryOptions,
    cameras_at,
    default_size,
    describe_intrinsics,
    path_cameras,
    read_depth,
)
from mosaicmem.apps.cli.views import to_float
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.generation.backend import ROOMS, SYNTHETIC, Models
from mosaicmem.generation.state import RolloutState, enter, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.files import parse_frames, read_image
from mosaicmem.models.synthetic import Compositor


@dataclass(kw_only=True)
class StartArgs(Computing):
    """What to start from, where to go, and with which model."""

    trajectory: Annotated[
        Path | None, arg(aliases=["-t"], metavar="FILE", help_behavior_hint="(default: that of --scene)")
    ] = None
    """Cameras, in any format that lint knows; world-to-camera of the memory's world, or relative to its own start."""
    read: Annotated[TrajectoryOptions, OmitArgPrefixes] = field(default_factory=TrajectoryOptions)
    frames: str = ":"
    """Which poses, as start:stop:step or a,b,c."""
    prompt: Annotated[
        str | None,
        arg(aliases=["-p"], metavar="TEXT", help_behavior_hint="(default: the caption of --scene, else 'a room.')"),
    ] = None
    """What is there, in words; read by models that can read."""
    memory: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Memory to start from."""
    image: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """First frame."""
    depth: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: estimated by a trained model)")] = (
        None
    )
    """Depth of the first frame: 16-bit PNG in millimetres, or npy in world units; 0 = unknown."""
    scene: Annotated[int | None, arg(metavar="SEED", help_behavior_hint="")] = None
    """Start in a procedural world; the trained model has never seen those from 900000 to 999999."""
    size: Annotated[
        str | None, arg(metavar="WxH", help_behavior_hint="(default: the memory's; 128x128; synthetic: the image's)")
    ] = None
    """Size of the frames."""
    model: Annotated[str, arg(metavar="rooms|synthetic|DIR")] = ROOMS
    """Generator."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where the memory's is)")] = None
    """Weights of a pretrained VAE, for `synthetic`."""
    without_memory: bool = False
    """Generate from the last frame alone, for comparison."""


@dataclass(frozen=True)
class Beginning:
    """All that a rollout starts from; the state's prompt is the caption."""

    models: Models
    state: RolloutState
    cameras: Cameras
    vae_path: Path | None
    intrinsics: str
    source: str
    metric: bool | None


def begin(args: StartArgs, session: Session) -> Beginning:
    """Open the models and make the first frame.

    Raises:
        ConfigError: on options that contradict each other, or give nothing to start from.
    """
    if args.scene is not None and (args.memory is not None or args.image is not None):
        raise ConfigError("--scene starts in a procedural world; leave --memory and --image out, or leave --scene out")
    check_scene(args.scene)
    if args.depth is not None and args.image is None:
        raise ConfigError("--depth is the depth of --image; add --image FILE")
    if args.scene is not None:
        return _from_room(args, args.scene, session) if args.model == SYNTHETIC else _from_world(args, session)
    if args.memory is not None:
        return _from_memory(args, session)
    if args.image is not None:
        return _from_image(args, session)
    raise ConfigError("nothing to start from; give --image FILE, --memory DIR or --scene SEED (a procedural world)")


def _path_of(args: StartArgs) -> Path:
    if args.trajectory is None:
        raise ConfigError(
            "--trajectory FILE is missing: where should the camera go? Only --scene with a trained model has a path of "
            "its own"
        )
    return args.trajectory


def _words(args: StartArgs, session: Session, caption: str = "a room.") -> dict[str, Any]:
    """What every state is begun with."""
    prompt = caption if args.prompt is None else args.prompt
    return {"seed": session.config.seed, "prompt": prompt, "fps": session.config.video.fps}


def _from_memory(args: StartArgs, session: Session) -> Beginning:
    assert args.memory is not None
    path = _path_of(args)
    store, meta = load_memory(args.memory)
    if args.size is not None and parse_size(args.size) != (meta.width, meta.height):
        raise ConfigError(f"--size {args.size}: this memory is of {meta.width}x{meta.height} images; leave --size out")
    if args.model == SYNTHETIC:
        vae = vae_of(meta, args.vae, session)
        session.note = f"compositor without weights, {session.note}"
        models = Models(vae, Compositor(not args.without_memory), patch=meta.patch)
        where = args.vae or (Path(meta.vae_path) if meta.vae_path else None)
    else:
        models = open_models(args.model, session, vae=args.vae, use_memory=not args.without_memory)
        where = vae_home(args.model, args.vae)
        own = (models.vae.name, models.vae.stride, models.patch)
        if own != (meta.vae, meta.stride, meta.patch):
            raise InputError(
                f"{args.memory}: holds latents of the VAE {meta.vae!r}, {meta.patch} x {meta.stride} px a token; "
                f"the model {args.model} reads {own[0]!r}, {own[2]} x {own[1]} px. Add --model synthetic, or remember "
                f"with --vae {args.model} --size {TRAINED_SIZE[0]}x{TRAINED_SIZE[1]}"
            )
    poses = cameras_at(path, args.frames, meta, args.read)
    words = _words(args, session)
    if args.image is None:
        state = enter(models, store, poses.cameras[0], **words, retrieval=session.config.retrieval)
    else:
        image, depth = _start_image(args, meta.width, meta.height)
        lifting = session.config.lifting
        state = start(models, image, poses.cameras[0], depth, store=store, **words, lifting=lifting)
    source = f"from the memory {args.memory}"
    return Beginning(models, state, poses.cameras, where, poses.intrinsics, source, meta.metric)


def _from_image(args: StartArgs, session: Session) -> Beginning:
    assert args.image is not None
    path = _path_of(args)
    if args.model == SYNTHETIC and args.depth is None:
        raise ConfigError(
            "without weights, a start image needs its depth: add --depth FILE (16-bit PNG in millimetres, or npy in "
            "world units), or take the model that estimates it: --model rooms"
        )
    own = read_image(args.image)
    models = open_models(args.model, session, vae=args.vae, use_memory=not args.without_memory)
    size = TRAINED_SIZE
    if args.size is not None:
        size = parse_size(args.size)
    elif args.model == SYNTHETIC:
        size = default_size(own.shape[1], own.shape[0], models.vae, None)
    models = sized(models, session, *size)
    models.grid(*size)  # says which sizes fit before anything is read
    cameras, said, metric = path_cameras(path, args.frames, args.read, *size)
    image, depth = _start_image(args, *size)
    state = start(models, image, cameras[0], depth, **_words(args, session), lifting=session.config.lifting)
    where = vae_home(args.model, args.vae)
    return Beginning(models, state, cameras, where, said, f"from the image {args.image}", metric)


def _from_room(args: StartArgs, seed: int, session: Session) -> Beginning:
    """The compositor's: exact depth, nothing moves."""
    from mosaicmem.worlds import make_scene

    size = parse_size(args.size) if args.size else (256, 256)
    models = sized(open_models(args.model, session, vae=args.vae, use_memory=not args.without_memory), session, *size)
    models.grid(*size)
    path, said, _ = path_cameras(_path_of(args), args.frames, args.read, *size)
    scene = make_scene(seed, movers=False)
    first = scene.walk(seed, 2, width=size[0], height=size[1])[0]
    cameras = _moved_to(path, first)
    shown = scene.render(cameras[0].to(dtype=torch.float32))
    words, lifting = _words(args, session), session.config.lifting
    state = start(models, shown.rgb[0], cameras[0], shown.depth[0], **words, lifting=lifting)
    where = vae_home(args.model, args.vae)
    return Beginning(models, state, cameras, where, said, f"from the procedural room {seed}", True)


def _from_world(args: StartArgs, session: Session) -> Beginning:
    """A trained model's: a world of the kind it knows, its caption and its path; depth is estimated."""
    from mosaicmem.worlds.episodes import make_episode
    from mosaicmem.worlds.film import film

    assert args.scene is not None
    models = open_models(args.model, session, vae=args.vae, use_memory=not args.without_memory)
    width, height = parse_size(args.size) if args.size else TRAINED_SIZE
    if width != height:
        raise ConfigError(f"--size {args.size}: worlds are filmed square, for example {width}x{width}")
    models.grid(width, height)
    world = make_episode(args.scene, size=width, with_event=False)
    if args.trajectory is None:
        cameras = world.cameras[parse_frames(args.frames, len(world))].to(dtype=torch.float64)
        said = f"of the world, {describe_intrinsics(cameras)}"
    else:
        path, said, _ = path_cameras(args.trajectory, args.frames, args.read, width, height)
        cameras = _moved_to(path, world.cameras[0])
    shown = film(world.scene, cameras[0], 0.0, finer=2)
    words = _words(args, session, world.caption)
    state = start(models, shown.rgb[0], cameras[0], **words, lifting=session.config.lifting)
    where = vae_home(args.model, args.vae)
    return Beginning(models, state, cameras, where, said, f"from the procedural world {args.scene}", True)


def _moved_to(path: Cameras, first: Cameras) -> Cameras:
    """The path, so that it begins at the place of another camera."""
    from_first = path.to(dtype=torch.float64).recentred().viewmats
    return Cameras(from_first @ first.viewmats.double(), path.Ks.double(), path.width, path.height)


def _start_image(args: StartArgs, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The start image and its depth at the wanted size."""
    from PIL import Image

    assert args.image is not None
    own = read_image(args.image)
    resized = own
    if own.shape[:2] != (height, width):
        resized = np.array(Image.fromarray(own).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
    depth = None if args.depth is None else read_depth(args.depth, own.shape[1], own.shape[0], width, height)
    return to_float(resized), depth
