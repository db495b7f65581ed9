"""Make a world of what other programs left: pictures with cameras, and depth of some kind.

  crate       memory.json of the Rust crate that this library follows; edits made there are shown at last
  rgbd        a folder of colour, depth and poses: TUM, ICL/Redwood, 7-Scenes, Replica, or images/ and depth/ beside a
              trajectory; what `remember` reads
  colmap      a sparse model with its pictures; depth from stereo/depth_maps, else from the points a picture sees
  nerfstudio  transforms.json; depth from depth_file_path, else from the sparse point cloud
  vipe        a result folder: video, poses, intrinsics, depth

Pictures are encoded by the autoencoder that comes with the package; --vae pixels keeps them as they are. Frames are
read one at a time. Cameras go with --trajectory SOURCE to recall and others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from tyro.conf import Positional, arg

from mosaicmem.apps.cli.backends import open_vae
from mosaicmem.apps.cli.config import GridConfig
from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.import_depth import EstimatedDepth
from mosaicmem.apps.cli.memory_folder import MemoryMeta, as_json, describe_memory
from mosaicmem.apps.cli.options import Computing, parse_size
from mosaicmem.apps.cli.remembering import Recording, remember_frames
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.sources import default_size, describe_intrinsics, parse_intrinsics
from mosaicmem.apps.cli.views import to_u8
from mosaicmem.errors import ConfigError, InputError, OutputExistsError
from mosaicmem.generation.backend import ROOMS
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.io.files import refuse_existing
from mosaicmem.io.imports import (
    CrateMemory,
    Scan,
    is_crate_memory,
    open_colmap,
    open_nerfstudio,
    open_vipe,
    read_crate_memory,
)
from mosaicmem.io.trajectories.detection import detect
from mosaicmem.io.world import WorldFile, replacing
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.patches import Keyframe
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.depth_net import MULTIPLE
from mosaicmem.models.vae import VAE
from mosaicmem.worlds.rgbd import RGBDFolder

EXAMPLE = "mosaicmem world import reconstruction room.mosaic --every 5"

Kind = Literal["crate", "rgbd", "colmap", "nerfstudio", "vipe"]
PIXELS = Path("pixels")
LONGEST = {True: 832, False: 160}
"""Longer side of remembered frames by default, pixels: with an autoencoder, and where pixels are kept."""
BATCH_BYTES = 2**28
"""Keyframes are written, as one operation, when they take this much memory."""
_CRATE_TEMPORAL = 4


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `world import`."""

    source: Positional[Path]
    """Folder or file to read."""
    target: Annotated[Positional[Path | None], arg(metavar="WORLD.mosaic", help_behavior_hint="(or --out)")] = None
    """World file to write."""
    format: Annotated[Kind | None, arg(help_behavior_hint="(default: recognised)")] = None
    """What the source is."""
    every: int = 1
    """Take every so many-th frame."""
    max_frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Take at most so many frames, the first ones."""
    size: Annotated[
        str | None, arg(metavar="WxH", help_behavior_hint="(default: longer side at most 832; 160 with pixels)")
    ] = None
    """Size at which frames are remembered; `native` keeps that of the pictures."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: rooms)")] = None
    """Autoencoder: `rooms`, a folder of weights, or `pixels`. Of a crate's memory: the one its latents belong to."""
    depth: Literal["auto", "maps", "points", "network"] = "auto"
    """Where depth comes from; `network` estimates it, at the scale of the points if there are any."""
    images: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where the source says)")] = None
    """Folder of the pictures of a COLMAP model or nerfstudio file."""
    clip: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the only one)")] = None
    """Clip of a ViPE folder."""
    intrinsics: Annotated[str | None, arg(metavar="FX,FY,CX,CY", help_behavior_hint="(default: the source's)")] = None
    """Intrinsics of an RGB-D folder at its own size, pixels."""
    skip_bad: bool = False
    """Leave out and count patches of a crate's memory that cannot be used."""
    upright: bool = False
    """Turn pictures of a crate's memory by half a turn: its own cameras have y up."""
    grid: GridConfig = field(default_factory=GridConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)


def run(args: Args, session: Session) -> Result:
    """Recognise, read, encode, lift, write."""
    target = _target(args)
    if not args.source.exists():
        raise InputError(f"{args.source}: no such file or folder; check the path")
    kind = args.format or recognise(args.source)
    if kind == "crate":
        return _import_crate(args, session, target)
    with session.stage("open"):
        recording = _open(kind, args)
    vae_path = Path(ROOMS) if args.vae is None else None if args.vae == PIXELS else args.vae
    vae = open_vae(vae_path, session)
    recording, depth = _with_depth(recording, args, vae.stride, session)
    chosen = _chosen(len(recording), args)
    width, height = _size(args, recording, vae, vae_path is not None)
    grid = session.config.grid.grid(width, height, vae.stride, vae.temporal)
    cameras = recording.cameras.to(dtype=torch.float64).resized(width, height)
    metric = _metric(recording)
    meta = describe_memory(PatchStore.empty(), grid, cameras.Ks[0], vae.name, vae_path, str(args.source), metric)
    with (
        replacing(target, overwrite=args.overwrite) as temporary,
        WorldFile.create(temporary, as_json(meta), overwrite=True) as world,
    ):
        known = _fill(world, recording, chosen, vae, grid, session, kind)
        patches = world.store.num_patches
        if not patches:
            raise InputError(
                f"{args.source}: no pixel of the {len(chosen)} chosen frames has a depth above 0; nothing to remember. "
                "--depth says where else depth may come from"
            )
        remembered = [group.keyframe.frame for group in world.store]
        world.describe(as_json(replace(meta, frames=remembered)))
    session.wrote = target
    data = {
        "kind": kind,
        "depth": depth,
        "frames": chosen,
        "of_frames": len(recording),
        "size": [width, height],
        "keyframes": len(remembered),
        "patches": patches,
        "depth_known": sum(known) / len(known),
        "intrinsics": describe_intrinsics(cameras),
        "assumed": list(_assumed(recording)),
    }
    return Result(data, _said(data, grid))


def _said(data: dict[str, Any], grid: TokenGrid) -> list[str]:
    """What a person reads of it."""
    empty = len(data["frames"]) - data["keyframes"]
    return [
        f"{len(data['frames'])} of {data['of_frames']} frames ({data['kind']}) at {grid.width}x{grid.height}: "
        f"{data['patches']:,} patches of {grid.token_stride}x{grid.token_stride} px",
        f"intrinsics: {data['intrinsics']}",
        f"depth ({data['depth']}) known at {100 * data['depth_known']:.1f} % of pixels",
        *([f"{empty} frames without any depth are left out"] if empty else []),
        *(f"assumed: {what}" for what in data["assumed"]),
    ]


def recognise(source: Path) -> Kind:
    """What a source is.

    Raises:
        InputError: if nothing fits; RGB-D folders are not looked into.
    """
    if is_crate_memory(source) or (source.is_dir() and is_crate_memory(source / "memory.json")):
        return "crate"
    if source.is_dir() and not any((source / name).is_dir() for name in ("pose", "sparse")):
        recorded = any((source / name).is_file() for name in ("rgb.txt", "trajectory.log", "traj.txt"))
        if recorded or any(source.glob("frame-*.color.png")):
            return "rgbd"
    found = {c.format for c in detect(source) if c.confidence > 0.5}
    for kind, formats in (("nerfstudio", {"nerfstudio"}), ("vipe", {"vipe"}), ("colmap", {"colmap-txt", "colmap-bin"})):
        if found & formats:
            return cast("Kind", kind)
    if source.is_dir():
        return "rgbd"
    raise InputError(
        f"{source}: not recognised; expected a memory.json, an RGB-D folder, a COLMAP model, a transforms.json or a "
        "ViPE folder. Name it with --format"
    )


def _target(args: Args) -> Path:
    target = args.target or args.out
    if target is None:
        raise ConfigError("world import needs a file to write: mosaicmem world import SOURCE WORLD.mosaic")
    if args.target is not None and args.out is not None:
        raise ConfigError(f"two files to write: {args.target} and --out {args.out}; expected one")
    if target.suffix != ".mosaic":
        raise ConfigError(f"{target}: expected a name that ends in .mosaic")
    if target.is_dir():
        raise OutputExistsError(f"{target} is a folder; expected a file to write")
    refuse_existing(target, args.overwrite)
    return target


def _open(kind: Kind, args: Args) -> Recording:
    if kind != "rgbd" and args.intrinsics is not None:
        raise ConfigError(f"--intrinsics belongs to RGB-D folders; a {kind} source says its own")
    match kind:
        case "colmap":
            return open_colmap(args.source, args.images)
        case "nerfstudio":
            return open_nerfstudio(args.source, args.images)
        case "vipe":
            return open_vipe(args.source, args.clip)
        case _:
            given = parse_intrinsics(args.intrinsics) if args.intrinsics is not None else None
            return RGBDFolder.open(args.source, intrinsics=given)


def _with_depth(recording: Recording, args: Args, stride: int, session: Session) -> tuple[Recording, str]:
    """The recording with the depth that was asked for, and what it is called."""
    if not isinstance(recording, Scan):
        if args.depth not in ("auto", "maps"):
            raise ConfigError(f"--depth {args.depth}: an RGB-D folder has depth of its own; leave --depth out")
        return recording, "maps"
    if args.depth == "network":
        from mosaicmem.models.checkpoint import load_depth
        from mosaicmem.models.presets import shipped

        return EstimatedDepth(recording, load_depth(shipped("depth")).to(session.config.device)), "network"
    available = recording.available
    wanted = (available[0] if available else None) if args.depth == "auto" else args.depth
    if wanted not in available:
        has = f"it has {' and '.join(available)}" if available else "it has neither depth maps nor points"
        raise InputError(
            f"{args.source}: --depth {args.depth}, but {has}; --depth network estimates depth (the network that comes "
            "with the package knows rooms of its own kind, not photographs)"
        )
    return recording.using(wanted, max(4, stride)), wanted


def _chosen(count: int, args: Args) -> list[int]:
    if args.every < 1 or (args.max_frames is not None and args.max_frames < 1):
        raise ConfigError(f"--every {args.every}, --max-frames {args.max_frames}: expected 1 or more")
    return list(range(0, count, args.every))[: args.max_frames]


def _size(args: Args, recording: Recording, vae: VAE, encoded: bool) -> tuple[int, int]:
    own = (recording.cameras.width, recording.cameras.height)
    if args.size == "native":
        return own
    if args.size is not None:
        return parse_size(args.size)
    width, height = default_size(*own, vae, LONGEST[encoded])
    if args.depth != "network":
        return width, height
    return tuple(max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE) for side in (width, height))  # pyright: ignore[reportReturnType]


def _fill(
    world: WorldFile,
    recording: Recording,
    chosen: Sequence[int],
    vae: VAE,
    grid: TokenGrid,
    session: Session,
    kind: str,
) -> list[float]:
    """Write the keyframes of all frames, so many at a time as memory is to hold; the share of known depth of each."""
    known, batch, pictures, held = list[float](), list[Keyframe](), dict[Keyframe, Any](), 0

    def write() -> None:
        store = world.store
        for keyframe in batch:
            store = store.insert(keyframe)
        arguments = {"format": kind, "frames": [batch[0].frame, batch[-1].frame]}
        with session.stage("write"):
            world.apply("import", arguments, store, thumbnails=pictures)
        batch.clear()
        pictures.clear()

    for frame in remember_frames(recording, chosen, vae, grid, session):
        known.append(frame.depth_known)
        if not bool(frame.keyframe.valid.any()):
            continue
        batch.append(frame.keyframe)
        pictures[frame.keyframe] = to_u8(frame.rgb)
        held += frame.keyframe.nbytes
        if held > BATCH_BYTES:
            write()
            held = 0
    if batch:
        write()
    return known


def _metric(recording: Recording) -> bool | None:
    if isinstance(recording, EstimatedDepth):
        recording = recording.scan
    if isinstance(recording, Scan):
        return recording.trajectory.metric
    return True if isinstance(recording, RGBDFolder) and recording.layout.kind != "generic" else None


def _assumed(recording: Recording) -> tuple[str, ...]:
    if isinstance(recording, EstimatedDepth):
        recording = recording.scan
    return recording.trajectory.assumed if isinstance(recording, Scan) else ()


def _import_crate(args: Args, session: Session, target: Path) -> Result:
    """The latents are taken as they are: they belong to the autoencoder that made them."""
    size = None if args.size is None else parse_size(args.size)
    file = args.source / "memory.json" if args.source.is_dir() else args.source
    with session.stage("read"):
        memory = read_crate_memory(file, size=size, skip_bad=args.skip_bad, upright=args.upright)
    meta = _crate_meta(memory, args, session, file)
    with (
        session.stage("write"),
        replacing(target, overwrite=args.overwrite) as temporary,
        WorldFile.create(temporary, as_json(meta), overwrite=True) as world,
    ):
        world.apply("import", {"format": "crate", "patches": memory.patches}, memory.store)
    session.wrote = target
    data = {
        "kind": "crate",
        "listed": memory.patches,
        "keyframes": len({id(group.keyframe) for group in memory.store}),
        "patches": memory.store.num_patches,
        "moved": memory.moved,
        "merged": memory.merged,
        "skipped": list(memory.skipped),
        "assumed": list(memory.notes),
        "vae": meta.vae,
    }
    text = [
        f"{memory.patches:,} patches in {data['keyframes']} keyframes of {meta.width}x{meta.height}; latents of "
        f"{memory.channels} channels, {memory.stride} px a cell ({meta.vae})"
    ]
    if args.vae is None:
        text.append("they can be moved and edited; to see them, name the autoencoder they are of with --vae")
    if memory.moved:
        text.append(f"{memory.moved:,} moved patches; a flip or scale cannot be told from moves")
    if memory.merged:
        text.append(f"{memory.merged:,} patches were there twice and are kept once")
    if memory.skipped:
        text.append(f"{len(memory.skipped):,} patches left out; the first: {memory.skipped[0]}")
    return Result(data, text + [f"assumed: {what}" for what in memory.notes])


def _crate_meta(memory: CrateMemory, args: Args, session: Session, file: Path) -> MemoryMeta:
    """Its description, with the autoencoder that `--vae` says its latents belong to."""
    first = memory.store.group(0).keyframe
    name, home, temporal = f"crate-{memory.channels}x{memory.stride}", None, _CRATE_TEMPORAL
    session.note = "no model runs; latents are kept as they are"
    if args.vae is not None:
        home = None if args.vae == PIXELS else args.vae
        session.config = replace(session.config, grid=replace(session.config.grid, stride=memory.stride))
        vae = open_vae(home, session)
        if (vae.stride, vae.channels) != (memory.stride, memory.channels):
            raise InputError(
                f"{file}: latents of {memory.channels} channels and {memory.stride} px a cell; --vae {args.vae} has "
                f"{vae.channels} and {vae.stride}. Leave --vae out to keep them without a decoder"
            )
        name, temporal = vae.name, vae.temporal
    grid = TokenGrid(first.camera.width, first.camera.height, memory.stride, first.patch, temporal)
    meta = describe_memory(memory.store, grid, first.camera.Ks[0], name, home, str(args.source), None)
    return replace(meta, frames=sorted({group.keyframe.frame for group in memory.store}))
