"""Statistics of a memory or a trajectory, and a map from above: path, view frusta and patches in their own colours.

The map's axes are the world's unit (metres where the source says so), right and forward of the first camera. With
--trajectory another path is drawn over a memory. Writes with --out: map.png, report.json, run.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.memory_folder import is_memory, load_memory, remembered_cameras, vae_of
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.pictures import Picture
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.sources import TrajectoryOptions, cameras_at, drawable, trajectory_statistics
from mosaicmem.apps.cli.topdown import Points, draw_map
from mosaicmem.apps.cli.views import patch_colors
from mosaicmem.errors import InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.files import write_image, write_json
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.vae import VAE

EXAMPLE = "mosaicmem visualize room --out room_map"


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `visualize`."""

    source: Positional[Path]
    """Memory folder or trajectory file."""
    trajectory: Annotated[Path | None, arg(aliases=["-t"], metavar="FILE", help_behavior_hint="")] = None
    """Path to draw over the memory instead of the one it was seen from."""
    read: Annotated[TrajectoryOptions, OmitArgPrefixes] = field(default_factory=TrajectoryOptions)
    frames: str = ":"
    """Which poses of the path, as start:stop:step or a,b,c."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where remember found it)")] = None
    """Weights of the pretrained VAE of the memory, if they have moved."""


def run(args: Args, session: Session) -> Result:
    """Draw what the source holds and say it in numbers."""
    store: PatchStore | None = None
    if args.out is not None:
        session.check_out(inputs=[args.source])
    if is_memory(args.source):
        store, meta = load_memory(args.source)
        vae = vae_of(meta, args.vae, session)
        cameras = (
            cameras_at(args.trajectory, args.frames, meta, args.read).cameras
            if args.trajectory
            else remembered_cameras(store)
        )
        if cameras is None:
            raise InputError(f"{args.source}: an empty memory, so there is nothing to draw")
        with session.stage("draw"):
            image = memory_map(store, vae, cameras, meta.unit, f"{args.source.name} from above")
        data = memory_statistics(store, cameras)
    else:
        trajectory = args.read.read(args.source)
        cameras, unit = drawable(trajectory, args.frames), "m" if trajectory.metric else "world units"
        with session.stage("draw"):
            image = draw_map(cameras, None, f"{args.source.name} from above", unit)
        data = trajectory_statistics(trajectory)
    if args.out is not None:
        with session.folder(inputs=[args.source]) as out:
            write_image(out / "map.png", image)
            write_json(out / "report.json", data)
    return Result(data, statistics_text(data))


def memory_map(store: PatchStore, vae: VAE, cameras: Cameras, unit: str, title: str) -> Picture:
    """The map of a memory with a camera path over it."""
    points = Points(store.centers.double().numpy(), patch_colors(store, vae), store.radii.double().numpy())
    return draw_map(cameras, points, title, unit)


def memory_statistics(store: PatchStore, cameras: Cameras | None) -> dict[str, object]:
    """Counts and extent of a memory, world units."""
    groups = store.groups
    cells = sum(math.prod(g.keyframe.cells) for g in groups)
    valid = sum(int(g.valid.sum()) for g in groups)
    data: dict[str, object] = {
        "kind": "memory",
        "keyframes": len(groups),
        "patches": store.num_patches,
        "cells": cells,
        "readable_share": valid / cells if cells else 0.0,
        "observed": sum(g.keyframe.origin == "observed" for g in groups),
        "generated": sum(g.keyframe.origin == "generated" for g in groups),
        "median_depth": store.scale if len(store) else None,
    }
    if len(store):
        low, high = store.centers.amin(0).tolist(), store.centers.amax(0).tolist()
        data |= {"box_min": low, "box_max": high, "extent": [b - a for a, b in zip(low, high, strict=True)]}
    if cameras is not None:
        data["path_length"] = cameras.path_length()
    return data


def statistics_text(data: dict[str, object]) -> list[str]:
    """The statistics in aligned lines."""
    width = max(len(key) for key in data)
    return [f"{key.replace('_', ' ').ljust(width)}  {_say(value)}" for key, value in data.items()]


def _say(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list) and value and isinstance(value[0], (int, float)):
        return " ".join(f"{np.round(v, 3):g}" for v in value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) if value else "-"
    return str(value)
