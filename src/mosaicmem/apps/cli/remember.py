"""Posed RGB-D frames in, a memory folder out.

The recording is a folder: images and depth beside a trajectory (Redwood's trajectory.log, or any format that lint
knows), or a TUM, 7-Scenes or Replica sequence. Without --size frames are reduced until the longer side is 160 pixels:
small memories are quick and exact. With --vae they keep their own size; --size says otherwise in both cases.

Writes: world.mosaic, trajectory.json, map.png, contact_sheet.png, report.json, run.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tyro.conf import Positional, arg

from mosaicmem.apps.cli.backends import open_vae
from mosaicmem.apps.cli.config import GridConfig
from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.memory_folder import MemoryMeta, describe_memory, save_memory
from mosaicmem.apps.cli.options import Computing, parse_size
from mosaicmem.apps.cli.pictures import FAINT, Panel, Picture, moments, sheet
from mosaicmem.apps.cli.remembering import remember_frames
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.sources import default_size, describe_intrinsics, parse_intrinsics
from mosaicmem.apps.cli.views import to_u8
from mosaicmem.apps.cli.visualize import memory_map
from mosaicmem.errors import InputError
from mosaicmem.io.files import parse_frames, write_image, write_json
from mosaicmem.io.trajectories import Trajectory, write_trajectory
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.patches import Keyframe
from mosaicmem.memory.store import PatchStore
from mosaicmem.worlds.rgbd import RGBDFolder

EXAMPLE = "mosaicmem remember recording --frames ::5 --out room"


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `remember`."""

    source: Positional[Path]
    """Folder with images, depth and a trajectory."""
    frames: str = ":"
    """Which frames, as start:stop:step or a,b,c."""
    size: Annotated[
        str | None, arg(metavar="WxH", help_behavior_hint="(default: longer side 160; native with --vae)")
    ] = None
    """Size at which frames are remembered; `native` keeps that of the recording."""
    intrinsics: Annotated[str | None, arg(metavar="FX,FY,CX,CY", help_behavior_hint="(default: the recording's)")] = (
        None
    )
    """Intrinsics of the recording at its own size, pixels."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Weights of a pretrained VAE; without, pixels are kept as they are."""
    grid: GridConfig = field(default_factory=GridConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)


def run(args: Args, session: Session) -> Result:
    """Read, lift and store every chosen frame."""
    session.check_out(inputs=[args.source])
    given = parse_intrinsics(args.intrinsics) if args.intrinsics is not None else None
    with session.stage("open"):
        recording = RGBDFolder.open(args.source, intrinsics=given)
    chosen = parse_frames(args.frames, len(recording))
    vae = open_vae(args.vae, session)
    size = _size(args, recording, vae)
    grid = session.config.grid.grid(*size, vae.stride, vae.temporal)
    cameras = recording.cameras.to(dtype=torch.float64).resized(*size)
    store, known, shown, thumbnails = PatchStore.empty(), [], [], dict[Keyframe, Picture]()
    pictured = set(moments(len(chosen), session.config.video.sheet_rows))
    for count, frame in enumerate(remember_frames(recording, chosen, vae, grid, session)):
        known.append(frame.depth_known)
        with session.stage("insert"):
            store = store.insert(frame.keyframe)
        picture = thumbnails[frame.keyframe] = to_u8(frame.rgb)
        if count in pictured:
            shown.append((f"frame {frame.index}", [Panel("seen", picture), Panel("depth", depth_picture(frame.depth))]))
    if not store.num_patches:
        raise InputError(
            f"{args.source}: no pixel of the {len(chosen)} chosen frames has a depth above 0; nothing to remember"
        )
    metric = True if recording.layout.kind != "generic" else None
    meta = describe_memory(store, grid, cameras.Ks[chosen[0]], vae.name, args.vae, str(args.source), metric)
    data = _report(store, meta, known, chosen)
    with session.folder(inputs=[args.source]) as out, session.stage("write"):
        save_memory(out, store, meta, thumbnails=thumbnails)
        path = cameras[chosen]
        saved = Trajectory.from_cameras(path, recording.timestamps[chosen], metric=meta.metric)
        write_trajectory(saved, out / "trajectory.json")
        title = f"{args.source.name}: {len(chosen)} frames remembered"
        write_image(out / "map.png", memory_map(store, vae, path, meta.unit, title))
        write_image(out / "contact_sheet.png", sheet(shown, title, min(session.config.video.panel, 240)))
        write_json(out / "report.json", data)
    text = [
        f"{len(chosen)} of {len(recording)} frames ({recording.layout.kind}) at {size[0]}x{size[1]}: "
        f"{store.num_patches:,} patches of {grid.token_stride}x{grid.token_stride} px",
        f"intrinsics: of the {'command line' if given else 'recording'}, {describe_intrinsics(cameras)}",
        f"depth known at {100 * data['depth_known']:.1f} % of pixels, {100 * data['readable_share']:.1f} % readable",
    ]
    return Result(data, text)


def depth_picture(depth: torch.Tensor) -> Picture:
    """Depth as grey, near light and far dark, unknown in plain violet."""
    known = depth > 0
    shade = torch.zeros_like(depth)
    if bool(known.any()):
        inverse = 1 / depth[known]
        low, high = np.quantile(inverse.numpy(), [0.02, 0.98])  # torch takes no more than 16 million
        shade[known] = ((inverse - float(low)) / max(float(high - low), 1e-6)).clamp(0, 1)
    grey = (40 + 200 * shade).round().to(torch.uint8)[..., None].expand(*depth.shape, 3).numpy()
    return np.where(known.numpy()[..., None], grey, np.array(FAINT, np.uint8))


def _size(args: Args, recording: RGBDFolder, vae: Any) -> tuple[int, int]:
    own = (recording.cameras.width, recording.cameras.height)
    if args.size == "native":
        return own
    if args.size is not None:
        return parse_size(args.size)
    return default_size(*own, vae, None if args.vae is not None else 160)


def _report(store: PatchStore, meta: MemoryMeta, known: list[float], chosen: list[int]) -> dict[str, Any]:
    cells = sum(math.prod(group.keyframe.cells) for group in store)
    return {
        "frames": [{"frame": f, "depth_known": k} for f, k in zip(chosen, known, strict=True)],
        "size": [meta.width, meta.height],
        "keyframes": len(store),
        "patches": store.num_patches,
        "depth_known": sum(known) / len(known),
        "readable_share": sum(int(group.valid.sum()) for group in store) / cells,
        "intrinsics": list(meta.intrinsics),
    }
