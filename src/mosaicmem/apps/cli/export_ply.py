"""A memory as a coloured point cloud: every readable cell in its true place and colour.

--out names the file. Points are thinned to one per voxel of --voxel-size world units; 0 keeps them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.memory_folder import load_memory, vae_of
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError
from mosaicmem.geometry import se3
from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.io.files import refuse_existing
from mosaicmem.io.ply import write_ply
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.vae import VAE

EXAMPLE = "mosaicmem export-ply room --out room.ply"


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `export-ply`."""

    memory: Positional[Path]
    """Folder written by remember."""
    voxel_size: float = 0.05
    """Edge of a voxel that keeps one point, world units; 0 keeps all."""
    ascii: bool = False
    """Text instead of binary."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where remember found it)")] = None
    """Weights of the pretrained VAE of the memory, if they have moved."""


def run(args: Args, session: Session) -> Result:
    """Write the cloud."""
    if args.out is None:
        raise ConfigError("export-ply needs --out FILE: where should the cloud go?")
    if not (args.voxel_size >= 0 and np.isfinite(args.voxel_size)):
        raise ConfigError(f"--voxel-size {args.voxel_size:g}: expected 0 (keep all points) or more, world units")
    refuse_existing(args.out, args.overwrite)
    store, meta = load_memory(args.memory)
    vae = vae_of(meta, args.vae, session)
    with session.stage("points"):
        xyz, rgb = store_points(store, vae, args.voxel_size)
    with session.stage("write"):
        write_ply(args.out, xyz, rgb, ascii=args.ascii, overwrite=args.overwrite)
    session.wrote = args.out
    return Result({"points": len(xyz), "voxel_size": args.voxel_size}, [f"{len(xyz):,} points ({meta.unit})"])


def store_points(store: PatchStore, vae: VAE, voxel: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """World points `[n 3]` and colours `[n 3]` of all readable cells, the first of each voxel; order is stable."""
    points: list[NDArray[np.float64]] = []
    colors: list[NDArray[np.uint8]] = []
    for group in store:
        key = group.keyframe
        h, w = key.depth.shape
        uv = pixel_centers(w, h, stride=key.stride, dtype=torch.float64)[group.valid]
        depth = key.depth.double()[group.valid]
        local = unproject(uv[None], depth[None], key.camera.Ks.double())
        points.append(se3.transform_points(group.world_from_cam[None], local)[0].numpy())
        frame = torch.nn.functional.avg_pool2d(vae.decode_image(key.latents[None]), key.stride)[0]
        shade = ((frame[:, group.valid].T.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        colors.append(shade.numpy())
    if not points:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    xyz, rgb = np.concatenate(points), np.concatenate(colors)
    if voxel > 0:
        _, first = np.unique(np.floor(xyz / voxel).astype(np.int64), axis=0, return_index=True)
        first.sort()
        xyz, rgb = xyz[first], rgb[first]
    return xyz.astype(np.float32), rgb
